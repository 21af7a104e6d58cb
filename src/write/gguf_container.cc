// One GGUF file, or several parts of one, that hold weights, config and tokenizer, beside a model card.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "checkpoint/gguf/gguf_metadata.h"
#include "checkpoint/gguf/gguf_names.h"
#include "checkpoint/gguf/gguf_output.h"
#include "core/half.h"
#include "layouts/gguf_types.h"
#include "pack/ggml_codes.h"
#include "quantize/rounding/rounded_rows.h"
#include "write/kept_floats.h"
#include "write/model_card.h"
#include "write/outer_types.h"
#include "write/write_container.h"

namespace metal_marlin {
namespace {

std::vector<std::byte> in_file_order(std::span<const std::byte> rows, int64_t count, int64_t heads) {
  std::vector<std::byte> out(rows.size());
  const size_t bytes = rows.size() / static_cast<size_t>(count);
  for (int64_t r = 0; r < count; ++r) {
    const auto to = static_cast<size_t>(gguf_row(r, count, heads)) * bytes;
    std::copy_n(rows.data() + static_cast<size_t>(r) * bytes, bytes, out.data() + to);
  }
  return out;
}

// Values as `type`, which is F32, F16 or BF16.
std::vector<std::byte> as_floats(const Matrix& values, GgmlType type) {
  const auto n = static_cast<size_t>(values.size());
  if (type == GgmlType::kF32) {
    const auto bytes = std::as_bytes(values.values());
    return {bytes.begin(), bytes.end()};
  }
  std::vector<std::byte> out(n * sizeof(uint16_t));
  auto* bits = reinterpret_cast<uint16_t*>(out.data());
  std::transform(values.data(), values.data() + n, bits, type == GgmlType::kBF16 ? f32_to_bf16 : f32_to_f16);
  return out;
}

DType dtype_of_float(GgmlType type) {
  return type == GgmlType::kF32 ? DType::kF32 : type == GgmlType::kBF16 ? DType::kBF16 : DType::kF16;
}
GgmlType type_of_float(DType type) {
  return type == DType::kF16 ? GgmlType::kF16 : type == DType::kBF16 ? GgmlType::kBF16 : GgmlType::kF32;
}

class GgufContainer : public WriteContainer {
 public:
  using WriteContainer::WriteContainer;

  void check() override {
    keys_ = gguf_metadata(job_.source, {.file_type = *job_.layout.gguf_file_type(), .name = base_name()});
  }

  void disable_older(const Folder& place) const override {
    for (const std::string& name : place.names()) {
      if (name.starts_with(stem()) && name.ends_with(".gguf")) place.remove_file(name);
    }
    place.sync();
  }

  void write_weights(std::vector<WriteItem> items) override;
  void write_rest() override { write_card(); }

 protected:
  void plan_floats(WriteItem& item) const override {
    const auto type = outer_type(job_.source, job_.layout, job_.plan.outer, item.name);
    if (type && ggml_type_info(*type).block > 1) {
      item.rounded_to = type;
      item.tensors = {{item.name, DType::kU8, {item.shape[0], block_row_bytes(*type, item.shape[1])}}};
      return;
    }
    const DType kept = item.shape.size() < 2 ? DType::kF32 : job_.layout.kept_type(item.from, job_.plan);
    item.tensors = {{item.name, type ? dtype_of_float(*type) : kept, item.shape}};
  }

 private:
  // "SmolLM2-135M-Instruct" of "HuggingFaceTB/SmolLM2-135M-Instruct".
  std::string base_name() const {
    const std::string base = job_.plan.base_model.empty() ? source_name_of(job_.source.path()) : job_.plan.base_model;
    return base.substr(base.rfind('/') + 1);
  }
  // Of the files: "SmolLM2-135M-Instruct-Q4_K_M".
  std::string stem() const {
    std::string name = base_name();
    for (char& c : name) {
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                         c == '_' || c == '.';
      if (!plain) c = '-';
    }
    if (name.empty() || name[0] == '.') name = "model" + name;
    return fmt::format("{}-{}", name, std::string(job_.layout.name()).substr(std::string_view("gguf:").size()));
  }
  static GgmlType type_of(const WriteItem& item) {
    if (item.rounded_to) return *item.rounded_to;
    if (item.kind != WriteItem::Kind::kQuantized) return type_of_float(item.tensors.front().dtype);
    return *gguf_type(*item.linear);
  }

  bool put_item(const WriteItem& item, const GgufPart& part, GgmlType type, const GgufPut& put);
  void put_quantized(const WriteItem& item, const GgufPart& part, const GgufPut& put);
  void put_changed(const WriteItem& item, const GgufPart& part, GgmlType type, const GgufPut& put);

  GgufKeys keys_;  // made by check()
};

void GgufContainer::write_weights(std::vector<WriteItem> items) {
  std::map<std::string, const WriteItem*> by_name;
  for (const WriteItem& item : items) by_name[item.name] = &item;
  job_.report.warnings = keys_.warnings;
  GgufPlan plan;
  plan.pairs = std::move(keys_.pairs);
  plan.parts = gguf_parts(job_.source);
  plan.most_bytes = job_.plan.max_shard_bytes;
  for (const GgufPart& part : plan.parts)
    plan.types.push_back(part.in_f32 ? GgmlType::kF32 : type_of(*by_name.at(part.name)));
  const GgufProvider provider = [&](const GgufPart& part, GgmlType type, const GgufPut& put) {
    job_.step();
    if (part.name.empty()) return false;
    ++job_.done;
    return put_item(*by_name.at(part.name), part, type, put);
  };
  const WrittenGguf written = write_gguf(job_.source, plan, provider, job_.folder + "/" + stem() + ".gguf");
  for (const std::string& name : written.files) job_.add_file(name);
  job_.plan.chat_template = std::any_of(plan.pairs.begin(), plan.pairs.end(),
                                        [](const GgufPair& pair) { return pair.key == "tokenizer.chat_template"; });
}

bool GgufContainer::put_item(const WriteItem& item, const GgufPart& part, GgmlType type, const GgufPut& put) {
  if (item.kind == WriteItem::Kind::kQuantized) {
    put_quantized(item, part, put);
  } else if (item.kind == WriteItem::Kind::kChanged) {
    put_changed(item, part, type, put);
  } else if (item.rounded_to && !stored_in(job_.source, item.name, type)) {
    read_kept(job_, item, [&](const Matrix& rows) { put(round_rows(rows, type).bytes); });
  } else {
    return false;  // as the source has it
  }
  return true;
}

void GgufContainer::put_quantized(const WriteItem& item, const GgufPart& part, const GgufPut& put) {
  const BlockTensor blocks =
      item.linear->block ? provided_blocks(job_, item) : pack_to_blocks(provided_codes(job_, item), item.name);
  put(part.heads > 0 ? in_file_order(blocks.bytes, blocks.out_features, part.heads) : blocks.bytes);
}

void GgufContainer::put_changed(const WriteItem& item, const GgufPart& part, GgmlType type, const GgufPut& put) {
  read_kept(job_, item, [&](const Matrix& rows) {
    Matrix values = rows.clone();
    if (part.plus_one) {
      for (float& v : values.values()) v += 1.0F;
    }
    const std::vector<std::byte> bytes = as_floats(values, type);
    put(part.heads > 0 ? in_file_order(bytes, part.shape.front(), part.heads) : bytes);
  });
}

}  // namespace

std::unique_ptr<WriteContainer> make_gguf_container(WriteJob& job) {
  return std::make_unique<GgufContainer>(job);
}

}  // namespace metal_marlin
