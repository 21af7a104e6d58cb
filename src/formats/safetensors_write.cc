#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "core/checked.h"
#include "core/counted.h"
#include "formats/safetensors.h"
#include "formats/safetensors_internal.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

// The order of the reference's enumeration, by which its writer sorts.
int reference_rank(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return 0;
    case DType::kU8:
      return 1;
    case DType::kI8:
      return 2;
    case DType::kF8E5M2:
      return 3;
    case DType::kF8E4M3:
      return 4;
    case DType::kI16:
      return 5;
    case DType::kU16:
      return 6;
    case DType::kF16:
      return 7;
    case DType::kBF16:
      return 8;
    case DType::kI32:
      return 9;
    case DType::kU32:
      return 10;
    case DType::kF32:
      return 11;
    case DType::kF64:
      return 12;
    case DType::kI64:
      return 13;
    case DType::kU64:
      return 14;
  }
  return 0;
}

}  // namespace

uint64_t TensorInfo::bytes() const {
  const auto n = checked_bytes(shape, dtype_size(dtype));
  if (!n) throw ArgumentError(fmt::format("tensor {}: shape {} has no size", shown(name), shape_string(shape)));
  return *n;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), tensors_(std::move(tensors)), file_(path) {
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(-reference_rank(a.dtype), std::string_view(a.name)) <
           std::pair(-reference_rank(b.dtype), std::string_view(b.name));
  });
  std::vector<std::string_view> names;
  const auto quote = [&](const std::string& text) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      throw ArgumentError(fmt::format("{}: {} is not UTF-8", path, shown(text)));
    }
  };
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) header += quote(key) + ":" + quote(value) + ",";
    header.back() = '}';
    header += ",";
  }
  uint64_t offset = 0;
  for (const TensorInfo& tensor : tensors_) {
    const auto end = checked_add(offset, tensor.bytes());
    if (!end) throw ArgumentError(fmt::format("{}: the tensors exceed 2^64 bytes", path));
    header += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", quote(tensor.name),
                          dtype_name(tensor.dtype), fmt::join(tensor.shape, ","), offset, *end);
    offset = *end;
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw ArgumentError(fmt::format("{}: duplicate tensor {}", path, shown(*twice)));
  if (std::binary_search(names.begin(), names.end(), kMetadataKey)) {
    throw ArgumentError(fmt::format("{}: a tensor cannot be called {}", path, kMetadataKey));
  }
  if (header.size() > 1) {
    header.back() = '}';
  } else {
    header += "}";
  }
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > kSafetensorsHeaderLimit) {
    throw ArgumentError(fmt::format("{}: header of {}, readers accept {}", path, counted(header.size(), "byte"),
                                    kSafetensorsHeaderLimit));
  }
  const uint64_t length = header.size();
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(header);
  file_bytes_ = file_.position() + offset;
}

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const uint64_t size = expect_next(name);
  if (written_ != 0 || bytes.size() != size) {
    throw ArgumentError(fmt::format("{}: tensor {} has {}, {} were given at byte {}", path_, shown(name),
                                    counted(size, "byte"), bytes.size(), written_));
  }
  write_part(name, bytes);
}

uint64_t SafetensorsWriter::expect_next(std::string_view name) const {
  if (next_ < tensors_.size() && tensors_[next_].name == name) return tensors_[next_].bytes();
  throw ArgumentError(fmt::format("{}: tensor {} was given, expected {}", path_, shown(name),
                                  next_ == tensors_.size() ? "no more" : shown(tensors_[next_].name)));
}

void SafetensorsWriter::write_part(std::string_view name, std::span<const std::byte> bytes) {
  const uint64_t size = expect_next(name);
  if (bytes.size() > size - written_) {
    throw ArgumentError(
        fmt::format("{}: tensor {} has {}, more were given", path_, shown(name), counted(size, "byte")));
  }
  file_.write(bytes);
  written_ += bytes.size();
  if (written_ == size) {
    ++next_;
    written_ = 0;
  }
}

void SafetensorsWriter::commit() {
  if (next_ != tensors_.size()) {
    throw ArgumentError(fmt::format("{}: tensor {} was not written", path_, shown(tensors_[next_].name)));
  }
  file_.commit();
}

void write_safetensors(const std::string& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorInfo> infos;
  std::unordered_map<std::string_view, const TensorView*> by_name;
  for (const TensorView& tensor : tensors) {
    infos.push_back({tensor.name, tensor.dtype, tensor.shape});
    by_name[tensor.name] = &tensor;
  }
  SafetensorsWriter writer(path, std::move(infos), metadata);
  for (const TensorInfo& info : writer.order()) writer.write(info.name, by_name.at(info.name)->bytes);
  writer.commit();
}

void write_safetensors(const std::string& path, std::span<const OwnedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorView> views;
  for (const OwnedTensor& tensor : tensors) views.push_back(tensor.view());
  write_safetensors(path, views, metadata);
}

}  // namespace metal_marlin
