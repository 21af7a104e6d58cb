#include "write/checkpoint_writer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <unordered_map>

#include "checkpoint/companions.h"
#include "checkpoint/model_source.h"
#include "core/counted.h"
#include "core/files/held_folder.h"
#include "core/half.h"
#include "write/float_conversion.h"
#include "write/model_card.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

// Returns the type in which ModelSource::load_stored gives a tensor.
DType delivered_type(const CheckpointTensor& tensor) {
  const std::optional<DType> type = dtype_from_name(tensor.stored_as);
  if (!type || *type == DType::kF8E4M3 || *type == DType::kF8E5M2) return DType::kF16;  // blocks: dequantized
  return *type == DType::kF64 ? DType::kF32 : *type;
}

uint64_t elements_of(const std::vector<int64_t>& shape) {
  uint64_t n = 1;
  for (const int64_t d : shape) n *= static_cast<uint64_t>(d);
  return n;
}

// One tensor of the source, and the tensors that are written for it.
struct Item {
  std::string name;
  enum class Kind : uint8_t { kKept, kChanged, kQuantized } kind = Kind::kKept;
  DType from = DType::kF16;
  bool made = false;  // stored as codes or blocks, of which floats are made
  const QuantizedLinear* linear = nullptr;
  std::vector<TensorInfo> tensors;  // full names

  uint64_t bytes() const {
    uint64_t sum = 0;
    for (const TensorInfo& t : tensors) sum += t.bytes();
    return sum;
  }
};

struct Shard {
  std::vector<Item> items;
  uint64_t bytes = 0;
};

bool is_weights_name(std::string name) {
  if (name.ends_with(".tmp")) name.resize(name.size() - 4);
  if (name == "model.safetensors.index.json") return true;
  if (!name.starts_with("model") || !name.ends_with(".safetensors")) return false;
  std::string rest = name.substr(5, name.size() - 5 - 12);
  if (rest.ends_with(".awq")) rest.resize(rest.size() - 4);
  return rest.empty() || (rest.size() == 15 && rest[0] == '-' && rest.substr(6, 4) == "-of-");
}

void remove_stale_weights(const Folder& folder, const std::set<std::string>& current) {
  for (const std::string& name : folder.names()) {
    if (!is_weights_name(name) || current.count(name) > 0) continue;
    const FileKind kind = folder.status(name).kind;
    if (kind == FileKind::kRegular || kind == FileKind::kLink) folder.remove_file(name);
  }
}

void remove_config(const Folder& folder) {
  folder.remove_file("config.json");
  folder.sync();
}

}  // namespace

void refuse_own_folder(const ModelSource& source, const std::string& folder) {
  fs::path own(source.path());
  std::error_code code;
  if (!fs::is_directory(own, code)) own = own.has_parent_path() ? own.parent_path() : fs::path(".");
  if (fs::equivalent(own, folder, code)) {
    throw ArgumentError(fmt::format("{}: the output folder is the model's own; choose another", folder));
  }
}

uint64_t WriteReport::total_bytes() const noexcept {
  uint64_t sum = 0;
  for (const WrittenFile& file : files) sum += file.bytes;
  return sum;
}

// State of one write().
struct CheckpointWriter::Job {
  const Layout& layout;
  const ModelSource& source;
  CheckpointPlan plan;
  TensorProvider& provider;
  const std::string& folder;
  const WriteProgress& progress;
  const Folder* place = nullptr;  // `folder`; none for a forecast
  WriteReport report;
  int64_t done = 0;
  int64_t total = 0;
  std::map<std::string, OwnedTensor> held;  // packed parts whose turn comes later
  uint64_t held_bytes = 0;

  std::vector<Item> items();
  std::vector<Shard> shards(std::vector<Item> all);
  void write_weights(std::vector<Shard>& shards);
  void write_shard(const Shard& shard, const std::string& name);
  OwnedTensor packed_part(const Item& item, const std::string& name,
                          const std::unordered_map<std::string, size_t>& turn);
  void write_kept(const Item& item, SafetensorsWriter& file);
  void write_floats(const Item& item, const TensorView& view, SafetensorsWriter& file, F16Conversion& conversion);
  std::vector<std::string> kept_modules() const;
  void write_rest();
  void add_file(const std::string& name) { report.files.push_back({name, place->status(name).identity.size}); }
};

std::vector<Item> CheckpointWriter::Job::items() {
  std::unordered_map<std::string, const QuantizedLinear*> quantized;
  for (const QuantizedLinear& l : plan.quantized) {
    if (!quantized.emplace(l.name, &l).second) throw ArgumentError(fmt::format("{}: planned twice", l.name));
  }
  std::unordered_map<std::string, DType> changed;
  for (const ChangedTensor& c : plan.changed) {
    if (!is_float(c.dtype) || quantized.count(c.name) != 0 || !changed.emplace(c.name, c.dtype).second) {
      throw ArgumentError(fmt::format("{}: expected one plan entry of a float type", c.name));
    }
  }
  std::vector<Item> all;
  size_t found = 0;
  for (const CheckpointTensor& tensor : source.tensors()) {
    Item item;
    item.name = tensor.name;
    if (const auto q = quantized.find(tensor.name); q != quantized.end()) {
      const QuantizedLinear& l = *q->second;
      if (tensor.shape != std::vector<int64_t>{l.out_features, l.in_features}) {
        throw ArgumentError(fmt::format("{}: planned as [{}, {}], the source has {}", l.name, l.out_features,
                                        l.in_features, shape_string(tensor.shape)));
      }
      const std::string reason =
          l.group_size < 1 ? fmt::format("group size {}", l.group_size) : refusal_of_linear(layout, l);
      if (!reason.empty())
        throw ArgumentError(fmt::format("{}: not possible in format {}: {}", l.name, layout.name(), reason));
      item.kind = Item::Kind::kQuantized;
      item.linear = &l;
      item.tensors = layout.parts(l);
      const std::string module = module_name(l.name);
      for (TensorInfo& part : item.tensors) part.name = module + "." + part.name;
      ++found;
    } else {
      item.from = delivered_type(tensor);
      const std::optional<DType> stored = dtype_from_name(tensor.stored_as);
      item.made = !stored || !is_float(*stored);
      if (const auto c = changed.find(tensor.name); c != changed.end()) {
        item.kind = Item::Kind::kChanged;
        item.from = c->second;
        ++found;
      }
      item.tensors = {{tensor.name, is_float(item.from) ? layout.kept_type(item.from, plan) : item.from, tensor.shape}};
    }
    const uint64_t weights = elements_of(tensor.shape);
    const uint64_t bytes = item.bytes();
    (item.linear != nullptr ? report.quantized_weights : report.kept_weights) += weights;
    (item.linear != nullptr ? report.quantized_bytes : report.kept_bytes) += bytes;
    if (item.linear == nullptr) report.kept[item.name] = bytes;
    if (item.kind == Item::Kind::kKept && item.from == DType::kF32 && item.tensors.front().dtype != DType::kF32)
      report.narrowed.push_back(item.name);
    total += static_cast<int64_t>(item.tensors.size());
    all.push_back(std::move(item));
  }
  if (found != quantized.size() + changed.size()) {
    for (const auto& [name, unused] : quantized) {
      if (!source.has(name))
        throw ArgumentError(fmt::format("{}: planned, but {} has no such tensor", name, source.path()));
    }
    for (const auto& [name, unused] : changed) {
      if (!source.has(name))
        throw ArgumentError(fmt::format("{}: planned, but {} has no such tensor", name, source.path()));
    }
  }
  const auto weights = static_cast<double>(report.quantized_weights + report.kept_weights);
  if (weights > 0)
    report.bits_per_weight = 8.0 * static_cast<double>(report.quantized_bytes + report.kept_bytes) / weights;
  return all;
}

std::vector<Shard> CheckpointWriter::Job::shards(std::vector<Item> all) {
  std::vector<Shard> result(1);
  for (Item& item : all) {
    const uint64_t bytes = item.bytes();
    if (!result.back().items.empty() && result.back().bytes + bytes > plan.max_shard_bytes) result.emplace_back();
    result.back().bytes += bytes;
    result.back().items.push_back(std::move(item));
  }
  return result;
}

void CheckpointWriter::Job::write_weights(std::vector<Shard>& shards) {
  constexpr std::string_view kExtension = ".safetensors";
  SafetensorsIndex index;
  index.total_size = report.quantized_bytes + report.kept_bytes;
  std::set<std::string> current;
  const int count = static_cast<int>(shards.size());
  for (int i = 0; i < count; ++i) {
    std::string name = count == 1 ? "model" : shard_name(i + 1, count);
    if (name.ends_with(kExtension)) name.resize(name.size() - kExtension.size());
    name += layout.weights_suffix();
    write_shard(shards[static_cast<size_t>(i)], name);
    current.insert(name);
    add_file(name);
    for (const Item& item : shards[static_cast<size_t>(i)].items) {
      for (const TensorInfo& t : item.tensors) index.weight_map[t.name] = name;
    }
  }
  if (count > 1 || layout.always_has_index()) {
    const std::string name = "model.safetensors.index.json";
    write_index(folder + "/" + name, index);
    current.insert(name);
    add_file(name);
  }
  remove_stale_weights(*place, current);
}

void CheckpointWriter::Job::write_shard(const Shard& shard, const std::string& name) {
  std::vector<TensorInfo> tensors;
  std::unordered_map<std::string, const Item*> owner;
  for (const Item& item : shard.items) {
    for (const TensorInfo& t : item.tensors) {
      tensors.push_back(t);
      if (!owner.emplace(t.name, &item).second) {
        throw FormatError(fmt::format("{}: two tensors would be stored as {}", source.path(), t.name));
      }
    }
  }
  SafetensorsWriter file(folder + "/" + name, std::move(tensors), layout.metadata(plan));
  std::unordered_map<std::string, size_t> turn;
  for (size_t i = 0; i < file.order().size(); ++i) turn[file.order()[i].name] = i;
  for (const TensorInfo& t : file.order()) {
    if (progress) progress(done, total);
    const Item& item = *owner.at(t.name);
    if (item.kind == Item::Kind::kQuantized) {
      const OwnedTensor part = packed_part(item, t.name, turn);
      file.write(t.name, {part.bytes.data(), part.bytes.size()});
    } else {
      write_kept(item, file);
    }
    ++done;
  }
  file.commit();
}

OwnedTensor CheckpointWriter::Job::packed_part(const Item& item, const std::string& name,
                                               const std::unordered_map<std::string, size_t>& turn) {
  if (const auto found = held.find(name); found != held.end()) {
    OwnedTensor part = std::move(found->second);
    held_bytes -= part.bytes.size();
    held.erase(found);
    return part;
  }
  const QuantizedLinear& l = *item.linear;
  PackedTensor packed;
  {
    QuantizedTensor tensor = provider.quantized(l.name);
    validate(tensor, l.name);
    if (tensor.out_features != l.out_features || tensor.in_features != l.in_features ||
        tensor.group_size != l.group_size || tensor.bits != l.bits) {
      throw ArgumentError(
          fmt::format("{}: planned as [{}, {}] in groups of {}, {} bits, delivered [{}, {}] in groups of {}, {} bits",
                      l.name, l.out_features, l.in_features, l.group_size, l.bits, tensor.out_features,
                      tensor.in_features, tensor.group_size, tensor.bits));
    }
    tensor.symmetric = tensor.symmetric && l.symmetric;  // zeros in the middle are stored among others
    packed = layout.pack(tensor, l.name);
    if (packed.parts.size() != item.tensors.size()) {
      throw ArgumentError(fmt::format("{}: planned as {}, delivered {}", l.name,
                                      l.symmetric ? "symmetric" : "asymmetric",
                                      tensor.symmetric ? "symmetric" : "with other zeros"));
    }
  }
  const std::string module = module_name(l.name);
  OwnedTensor wanted;
  for (OwnedTensor& part : packed.parts) {
    part.name = module + "." + part.name;
    if (part.name == name) {
      wanted = std::move(part);
    } else if (turn.at(part.name) > turn.at(name) &&
               (turn.at(part.name) < turn.at(name) + packed.parts.size() ||  // soon
                held_bytes + part.bytes.size() <= plan.held_bytes)) {
      held_bytes += part.bytes.size();
      std::string key = part.name;
      held.insert_or_assign(std::move(key), std::move(part));
    }
  }
  return wanted;
}

void CheckpointWriter::Job::write_floats(const Item& item, const TensorView& view, SafetensorsWriter& file,
                                         F16Conversion& conversion) {
  const TensorInfo& target = item.tensors.front();
  if (view.dtype == target.dtype) {
    file.write_part(target.name, view.bytes);
    return;
  }
  const auto count = static_cast<size_t>(view.elements());
  Buffer out(count * dtype_size(target.dtype));
  if (target.dtype == DType::kF16) {
    convert_to_f16(view, reinterpret_cast<uint16_t*>(out.data()), conversion);
  } else if (view.dtype == DType::kF32 && target.dtype == DType::kBF16) {
    const auto* from = reinterpret_cast<const float*>(view.bytes.data());
    auto* to = reinterpret_cast<uint16_t*>(out.data());
    std::transform(from, from + count, to, f32_to_bf16);
    for (size_t i = 0; i < count; ++i) conversion.rounded += bf16_to_f32(to[i]) != from[i] ? 1 : 0;
  } else if (target.dtype == DType::kF32 && (view.dtype == DType::kF16 || view.dtype == DType::kBF16)) {
    const auto* from = reinterpret_cast<const uint16_t*>(view.bytes.data());
    std::transform(from, from + count, reinterpret_cast<float*>(out.data()),
                   view.dtype == DType::kF16 ? f16_to_f32 : bf16_to_f32);
  } else {
    throw UnsupportedError(
        fmt::format("{}: {} cannot be written as {}", item.name, dtype_name(view.dtype), dtype_name(target.dtype)));
  }
  file.write_part(target.name, {out.data(), out.size()});
}

void CheckpointWriter::Job::write_kept(const Item& item, SafetensorsWriter& file) {
  const TensorInfo& target = item.tensors.front();
  F16Conversion conversion;
  const bool small = target.shape.size() != 2 || !is_float(target.dtype) || target.bytes() <= plan.whole_bytes;
  if (item.made && target.dtype == DType::kF16 && small) {
    // As floats, because load_stored does not say what is lost in float16.
    const Matrix values = source.load(item.name);
    write_floats(item, {item.name, DType::kF32, target.shape, std::as_bytes(values.values())}, file, conversion);
  } else if (item.kind == Item::Kind::kChanged || small) {
    const OwnedTensor tensor =
        item.kind == Item::Kind::kChanged ? provider.changed(item.name) : source.load_stored(item.name);
    if (elements_of(tensor.shape) != elements_of(target.shape) ||
        tensor.bytes.size() != elements_of(target.shape) * dtype_size(tensor.dtype)) {
      throw ArgumentError(fmt::format("{}: expected shape {}, delivered {} with {}", item.name,
                                      shape_string(target.shape), shape_string(tensor.shape),
                                      counted(tensor.bytes.size(), "byte")));
    }
    write_floats(item, {item.name, tensor.dtype, target.shape, {tensor.bytes.data(), tensor.bytes.size()}}, file,
                 conversion);
  } else {
    const uint64_t row_bytes = static_cast<uint64_t>(target.shape[1]) * sizeof(float);
    const auto rows =
        static_cast<int64_t>(std::max<uint64_t>(1, plan.whole_bytes / 4 / std::max<uint64_t>(1, row_bytes)));
    for (int64_t r = 0; r < target.shape[0]; r += rows) {
      const Matrix part = source.load(item.name, r, std::min(rows, target.shape[0] - r));
      write_floats(item, {item.name, DType::kF32, {part.rows(), part.cols()}, std::as_bytes(part.values())}, file,
                   conversion);
    }
  }
  source.release(item.name);
  if (conversion.rounded > 0 && item.kind != Item::Kind::kChanged && item.from == DType::kF32)
    report.rounded.push_back(item.name);
  if (conversion.clamped + conversion.flushed > 0) {
    report.clamped.push_back(
        {item.name, conversion.clamped, conversion.flushed, static_cast<double>(conversion.largest)});
  }
}

std::vector<std::string> CheckpointWriter::Job::kept_modules() const {
  std::set<std::string> quantized;
  for (const QuantizedLinear& l : plan.quantized) quantized.insert(l.name);
  std::vector<std::string> kept;
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : source.linears(layer)) {
      const std::string module = module_name(slot.weight);
      if (quantized.count(slot.weight) == 0 && (kept.empty() || kept.back() != module)) kept.push_back(module);
    }
  }
  if (quantized.count(source.family().head) == 0) kept.push_back(module_name(source.family().head));
  return kept;
}

void CheckpointWriter::Job::write_rest() {
  for (const CompanionFile& file : source.companion_files()) {
    const std::string& name = file.name;
    if (name.empty() || name.find('/') != std::string::npos || name[0] == '.' || name == "config.json" ||
        is_weights_name(name)) {
      throw FormatError(fmt::format("{}: \"{}\" is no name for a file to carry along", source.path(), name));
    }
    const std::string content = file.content();
    write_text_file(folder + "/" + name, content);
    add_file(name);
    if (name.starts_with("chat_template") ||
        (name == "tokenizer_config.json" && content.find("\"chat_template\"") != std::string::npos))
      plan.chat_template = true;
  }
  report.skipped = plan.skipped;
  for (SkippedTensor& s : report.skipped) s.bytes = report.kept[s.name];
  const std::string base = plan.base_model.empty() ? source_name_of(source.path()) : plan.base_model;
  write_text_file(folder + "/README.md", render_model_card(base, source.family().name, layout, plan, report));
  add_file("README.md");
  nlohmann::json config = source.config_json();
  config.erase("quantization_config");
  config.erase("quantization");  // MLX's
  layout.configure(plan, kept_modules(), config);
  for (const auto& [name, content] : layout.more_files(config)) {
    write_text_file(folder + "/" + name, content);
    add_file(name);
  }
  write_text_file(folder + "/config.json", config.dump(2) + "\n");
  add_file("config.json");
}

WriteReport CheckpointWriter::write(const ModelSource& source, const CheckpointPlan& given, TensorProvider& provider,
                                    const std::string& folder, const WriteProgress& progress) const {
  Job job{layout_, source, given, provider, folder, progress, nullptr, {}, 0, 0, {}, 0};
  job.plan.head = module_name(source.family().head);
  layout_.check(job.plan);
  companion_bytes(source);  // refuses too many, before anything is written
  std::vector<Shard> shards = job.shards(job.items());
  const HeldFolder held(std::make_shared<const Folder>(make_held(folder)));
  job.place = &held.folder();
  refuse_own_folder(source, folder);
  remove_config(*job.place);
  job.write_weights(shards);
  job.write_rest();
  if (progress) progress(job.done, job.total);
  return std::move(job.report);
}

WriteReport CheckpointWriter::forecast(const ModelSource& source, const CheckpointPlan& given) const {
  class Nothing : public TensorProvider {
   public:
    QuantizedTensor quantized(const std::string&) override { return {}; }
    OwnedTensor changed(const std::string&) override { return {}; }
  } nothing;
  const std::string folder;
  const WriteProgress progress;
  Job job{layout_, source, given, nothing, folder, progress, nullptr, {}, 0, 0, {}, 0};
  job.items();
  return std::move(job.report);
}

}  // namespace metal_marlin
