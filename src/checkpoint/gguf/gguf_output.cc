#include "checkpoint/gguf/gguf_output.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <string_view>

#include "checkpoint/convert.h"
#include "core/half.h"
#include "core/interrupt.h"
#include "formats/gguf/gguf_set.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr int64_t kPieceElements = int64_t{1} << 20;
constexpr size_t kPieceBytes = size_t{4} << 20;

std::span<const std::byte> bytes_of(const std::vector<uint16_t>& values) {
  return std::as_bytes(std::span(values));
}

void put_floats(const ModelSource& source, const GgufPart& part, GgmlType type, const GgufPut& put) {
  const auto [rows, columns] = matrix_shape(part.shape, part.gguf, source.path());
  int64_t piece = std::max<int64_t>(1, kPieceElements / columns);
  if (part.heads > 0 && part.shape.size() > 1) {
    const int64_t head = rows / part.heads;
    piece = std::max<int64_t>(1, piece / head) * head;
  }
  for (int64_t first = 0; first < rows; first += piece) {
    stop_if_asked();
    const Matrix m = gguf_values(source, part, first, std::min(piece, rows - first));
    if (type == GgmlType::kF32) {
      put(std::as_bytes(m.values()));
    } else if (type == GgmlType::kF16) {
      const std::string where = fmt::format("{}: tensor {}", source.path(), escaped(source.stored_name(part.name)));
      const OwnedTensor half = to_f16(where, {m.rows(), m.cols()}, m);
      put({half.bytes.data(), half.bytes.size()});
    } else if (type == GgmlType::kBF16) {
      std::vector<uint16_t> bits;
      bits.reserve(static_cast<size_t>(m.size()));
      for (const float v : m.values()) bits.push_back(f32_to_bf16(v));
      put(bytes_of(bits));
    } else {
      throw ArgumentError(fmt::format("tensor {}: expected its blocks of {}, which floats are not written in here",
                                      shown(part.gguf), ggml_type_info(type).name));
    }
  }
  source.release(part.name);
}

// What the model itself has: its own blocks, or its values.
void put_own(const ModelSource& source, const GgufPart& part, GgmlType type, const GgufPut& put) {
  const GgufSet* set = source.gguf();
  const GgufTensor* stored = set == nullptr ? nullptr : set->find(part.gguf);
  if (stored == nullptr || stored->type != type) return put_floats(source, part, type, put);
  const MappedFile& file = set->file_of(*stored).mapped();
  for (size_t at = 0; at < stored->bytes.size(); at += kPieceBytes) {
    stop_if_asked();
    const auto piece = stored->bytes.subspan(at, std::min(kPieceBytes, stored->bytes.size() - at));
    const std::vector<std::byte> copy =
        file.checked([&] { return std::vector<std::byte>(piece.begin(), piece.end()); });
    put(copy);
  }
  set->release(*stored);
}

}  // namespace

std::vector<GgmlType> gguf_types(const std::vector<GgufPart>& parts, GgmlType type) {
  std::vector<GgmlType> types;
  for (const GgufPart& part : parts) types.push_back(part.in_f32 ? GgmlType::kF32 : type);
  return types;
}

std::vector<GgufFilePlan> gguf_files(const GgufPlan& plan, const std::string& stem) {
  std::vector<GgufTensorInfo> infos;
  for (size_t i = 0; i < plan.parts.size(); ++i)
    infos.push_back({plan.parts[i].gguf, plan.types.at(i), plan.parts[i].shape});
  return plan_gguf_files(stem, plan.pairs, infos, plan.most_bytes);
}

WrittenGguf write_gguf(const ModelSource& source, const GgufPlan& plan, const GgufProvider& provider,
                       const std::string& path) {
  const std::filesystem::path whole(path);
  WrittenGguf written;
  size_t i = 0;  // index into plan.parts, over all files
  for (const GgufFilePlan& file : gguf_files(plan, whole.stem().string())) {
    GgufWriter writer((whole.parent_path() / file.name).string(), file.pairs, file.tensors);
    for (size_t n = 0; n < file.tensors.size(); ++n, ++i) {
      const GgufPart& part = plan.parts[i];
      const GgufPut put = [&](std::span<const std::byte> bytes) { writer.write_part(part.gguf, bytes); };
      if (!provider || !provider(part, plan.types[i], put)) put_own(source, part, plan.types[i], put);
    }
    writer.commit();
    written.files.push_back(file.name);
    written.bytes += writer.file_bytes();
  }
  return written;
}

}  // namespace metal_marlin
