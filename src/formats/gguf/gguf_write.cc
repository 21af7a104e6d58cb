#include "formats/gguf/gguf_write.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "core/checked.h"
#include "core/counted.h"
#include "core/tensor.h"
#include "formats/tensor_bounds.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr uint64_t kUsualAlignment = 32;
constexpr uint64_t kLargestAlignment = uint64_t{1} << 20;
constexpr size_t kLongestName = 63;  // GGML_MAX_NAME of llama.cpp, less the zero at its end
constexpr size_t kLongestKey = 65535;
constexpr size_t kMostDimensions = 4;

template <typename T>
constexpr GgufType type_of() {
  if constexpr (std::is_same_v<T, uint8_t>) return GgufType::kU8;
  if constexpr (std::is_same_v<T, int8_t>) return GgufType::kI8;
  if constexpr (std::is_same_v<T, uint16_t>) return GgufType::kU16;
  if constexpr (std::is_same_v<T, int16_t>) return GgufType::kI16;
  if constexpr (std::is_same_v<T, uint32_t>) return GgufType::kU32;
  if constexpr (std::is_same_v<T, int32_t>) return GgufType::kI32;
  if constexpr (std::is_same_v<T, uint64_t>) return GgufType::kU64;
  if constexpr (std::is_same_v<T, int64_t>) return GgufType::kI64;
  if constexpr (std::is_same_v<T, float>) return GgufType::kF32;
  if constexpr (std::is_same_v<T, double>) return GgufType::kF64;
  if constexpr (std::is_same_v<T, bool>) return GgufType::kBool;
  return GgufType::kString;
}

template <typename T>
void append(std::string& out, T value) {
  static_assert(std::is_arithmetic_v<T> && std::endian::native == std::endian::little);
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void append_text(std::string& out, std::string_view text) {
  append(out, static_cast<uint64_t>(text.size()));
  out.append(text);
}

void append_array_head(std::string& out, GgufType element, uint64_t count) {
  append(out, static_cast<uint32_t>(element));
  append(out, count);
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

template <typename T>
GgufPair gguf_pair(std::string key, T value) {
  GgufPair pair{std::move(key), type_of<T>(), {}};
  if constexpr (std::is_same_v<T, std::string_view>) {
    append_text(pair.value, value);
  } else {
    append(pair.value, value);
  }
  return pair;
}

template <typename T>
GgufPair gguf_array(std::string key, std::span<const T> values) {
  GgufPair pair{std::move(key), GgufType::kArray, {}};
  append_array_head(pair.value, type_of<T>(), values.size());
  pair.value.append(as_text(std::as_bytes(values)));
  return pair;
}

template GgufPair gguf_pair(std::string, uint8_t);
template GgufPair gguf_pair(std::string, int8_t);
template GgufPair gguf_pair(std::string, uint16_t);
template GgufPair gguf_pair(std::string, int16_t);
template GgufPair gguf_pair(std::string, uint32_t);
template GgufPair gguf_pair(std::string, int32_t);
template GgufPair gguf_pair(std::string, uint64_t);
template GgufPair gguf_pair(std::string, int64_t);
template GgufPair gguf_pair(std::string, float);
template GgufPair gguf_pair(std::string, double);
template GgufPair gguf_pair(std::string, bool);
template GgufPair gguf_pair(std::string, std::string_view);
template GgufPair gguf_array(std::string, std::span<const uint8_t>);
template GgufPair gguf_array(std::string, std::span<const int32_t>);
template GgufPair gguf_array(std::string, std::span<const uint32_t>);
template GgufPair gguf_array(std::string, std::span<const float>);
template GgufPair gguf_array(std::string, std::span<const bool>);

GgufPair gguf_strings(std::string key, std::span<const std::string> values) {
  GgufPair pair{std::move(key), GgufType::kArray, {}};
  append_array_head(pair.value, GgufType::kString, values.size());
  for (const std::string& value : values) append_text(pair.value, value);
  return pair;
}

GgufPair gguf_copy(std::string key, const GgufValue& value) {
  GgufPair pair{std::move(key), value.type, {}};
  if (const auto* numbers = std::get_if<GgufNumbers>(&value.value)) {
    append_array_head(pair.value, value.element, numbers->count);
    pair.value.append(as_text(numbers->bytes));
    return pair;
  }
  if (const auto* strings = std::get_if<GgufStrings>(&value.value)) {
    append_array_head(pair.value, GgufType::kString, strings->count);
    pair.value.append(as_text(strings->bytes));
    return pair;
  }
  const auto number = [&]<typename T>(T) {
    if (const auto* u = std::get_if<uint64_t>(&value.value)) append(pair.value, static_cast<T>(*u));
    if (const auto* i = std::get_if<int64_t>(&value.value)) append(pair.value, static_cast<T>(*i));
    if (const auto* f = std::get_if<double>(&value.value)) append(pair.value, static_cast<T>(*f));
  };
  switch (value.type) {
    case GgufType::kU8:
      number(uint8_t{});
      break;
    case GgufType::kI8:
      number(int8_t{});
      break;
    case GgufType::kU16:
      number(uint16_t{});
      break;
    case GgufType::kI16:
      number(int16_t{});
      break;
    case GgufType::kU32:
      number(uint32_t{});
      break;
    case GgufType::kI32:
      number(int32_t{});
      break;
    case GgufType::kU64:
      number(uint64_t{});
      break;
    case GgufType::kI64:
      number(int64_t{});
      break;
    case GgufType::kF32:
      number(float{});
      break;
    case GgufType::kF64:
      number(double{});
      break;
    case GgufType::kBool:
      append(pair.value, std::get<bool>(value.value));
      break;
    case GgufType::kString:
      append_text(pair.value, std::get<std::string>(value.value));
      break;
    case GgufType::kArray:
      break;
  }
  return pair;
}

uint64_t GgufTensorInfo::bytes() const {
  const GgmlTypeInfo info = ggml_type_info(type);
  const auto elements = checked_bytes(shape, 1);
  if (shape.empty() || shape.size() > kMostDimensions || !elements || *elements == 0)
    throw ArgumentError(fmt::format("tensor {}: shape {}: expected 1 to {} dimensions of at least 1", shown(name),
                                    shape_string(shape), kMostDimensions));
  if (shape.back() % info.block != 0)
    throw ArgumentError(fmt::format("tensor {}: rows of {}, {} needs a multiple of {}", shown(name),
                                    counted(shape.back(), "element"), info.name, info.block));
  const auto size = checked_mul(*elements / static_cast<uint64_t>(info.block), static_cast<uint64_t>(info.bytes));
  if (!size) throw ArgumentError(fmt::format("tensor {}: its bytes exceed 2^64", shown(name)));
  return *size;
}

namespace {

uint64_t padding(uint64_t position, uint64_t alignment) {
  return (alignment - position % alignment) % alignment;
}

uint64_t alignment_of(std::span<const GgufPair> pairs) {
  for (const GgufPair& pair : pairs) {
    if (pair.key != kAlignmentKey) continue;
    uint32_t value = 0;
    if (pair.type == GgufType::kU32 && pair.value.size() == sizeof(value))
      std::memcpy(&value, pair.value.data(), sizeof(value));
    if (!std::has_single_bit(value) || value > kLargestAlignment)
      throw ArgumentError(fmt::format("{}: expected a power of two up to {} as u32, found {}", kAlignmentKey,
                                      kLargestAlignment, value));
    return value;
  }
  return kUsualAlignment;
}

void refuse_twice(std::vector<std::string_view> names, const char* what) {
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw ArgumentError(fmt::format("duplicate {} {}", what, shown(*twice)));
}

void check(std::span<const GgufPair> pairs, std::span<const GgufTensorInfo> tensors) {
  std::vector<std::string_view> names;
  for (const GgufPair& pair : pairs) {
    if (pair.key.empty() || pair.key.size() > kLongestKey)
      throw ArgumentError(fmt::format("key {}: expected 1 to {}, found {}", shown(pair.key),
                                      counted(kLongestKey, "byte"), pair.key.size()));
    names.push_back(pair.key);
  }
  refuse_twice(std::move(names), "key");
  if (tensors.size() > kMostTensors)
    throw ArgumentError(fmt::format("expected at most {}, found {}", counted(kMostTensors, "tensor"), tensors.size()));
  names.clear();
  for (const GgufTensorInfo& tensor : tensors) {
    if (tensor.name.empty() || tensor.name.size() > kLongestName)
      throw ArgumentError(fmt::format("tensor {}: expected a name of 1 to {}, found {}", shown(tensor.name),
                                      counted(kLongestName, "byte"), tensor.name.size()));
    names.push_back(tensor.name);
  }
  refuse_twice(std::move(names), "tensor");
}

struct Layout {
  std::string header;  // with the zeros behind it
  uint64_t file_bytes = 0;
};

Layout laid_out(std::span<const GgufPair> pairs, std::span<const GgufTensorInfo> tensors) {
  check(pairs, tensors);
  const uint64_t alignment = alignment_of(pairs);
  Layout out;
  std::string& h = out.header;
  h = "GGUF";
  append(h, uint32_t{3});
  append(h, static_cast<uint64_t>(tensors.size()));
  append(h, static_cast<uint64_t>(pairs.size()));
  for (const GgufPair& pair : pairs) {
    append_text(h, pair.key);
    append(h, static_cast<uint32_t>(pair.type));
    h += pair.value;
  }
  uint64_t offset = 0;
  for (const GgufTensorInfo& tensor : tensors) {
    const uint64_t bytes = tensor.bytes();
    append_text(h, tensor.name);
    append(h, static_cast<uint32_t>(tensor.shape.size()));
    for (auto d = tensor.shape.rbegin(); d != tensor.shape.rend(); ++d) append(h, static_cast<uint64_t>(*d));
    append(h, static_cast<uint32_t>(tensor.type));
    append(h, offset);
    const auto end = checked_add(offset, bytes);
    const auto next = end ? checked_add(*end, padding(*end, alignment)) : std::nullopt;
    if (!next) throw ArgumentError("the tensors exceed 2^64 bytes");
    offset = *next;
  }
  h.append(padding(h.size(), alignment), '\0');
  const auto all = checked_add(h.size(), offset);
  if (!all) throw ArgumentError("the tensors exceed 2^64 bytes");
  out.file_bytes = *all;
  return out;
}

Layout laid_out(const std::string& path, std::span<const GgufPair> pairs, std::span<const GgufTensorInfo> tensors) {
  try {
    return laid_out(pairs, tensors);
  } catch (const ArgumentError& e) {
    throw ArgumentError(fmt::format("{}: {}", path, e.what()));
  }
}

}  // namespace

uint64_t gguf_file_bytes(std::span<const GgufPair> pairs, std::span<const GgufTensorInfo> tensors) {
  return laid_out(pairs, tensors).file_bytes;
}

GgufWriter::GgufWriter(const std::string& path, std::span<const GgufPair> pairs, std::vector<GgufTensorInfo> tensors)
    : path_(path), tensors_(std::move(tensors)), file_(path) {
  const Layout layout = laid_out(path, pairs, tensors_);
  alignment_ = alignment_of(pairs);
  file_bytes_ = layout.file_bytes;
  file_.write(layout.header);
}

void GgufWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const uint64_t size = expect_next(name);
  if (written_ != 0 || bytes.size() != size)
    throw ArgumentError(fmt::format("{}: tensor {} has {}, {} were given at byte {}", path_, shown(name),
                                    counted(size, "byte"), bytes.size(), written_));
  write_part(name, bytes);
}

uint64_t GgufWriter::expect_next(std::string_view name) const {
  if (next_ < tensors_.size() && tensors_[next_].name == name) return tensors_[next_].bytes();
  throw ArgumentError(fmt::format("{}: tensor {} was given, expected {}", path_, shown(name),
                                  next_ == tensors_.size() ? "no more" : shown(tensors_[next_].name)));
}

void GgufWriter::write_part(std::string_view name, std::span<const std::byte> bytes) {
  const uint64_t size = expect_next(name);
  if (bytes.size() > size - written_)
    throw ArgumentError(
        fmt::format("{}: tensor {} has {}, more were given", path_, shown(name), counted(size, "byte")));
  file_.write(bytes);
  written_ += bytes.size();
  if (written_ < size) return;
  // Also behind the last tensor, as llama.cpp and gguf-py do: it may be read in whole multiples of the alignment.
  file_.write(std::string(padding(size, alignment_), '\0'));
  ++next_;
  written_ = 0;
}

void GgufWriter::commit() {
  if (next_ != tensors_.size())
    throw ArgumentError(fmt::format("{}: tensor {} was not written", path_, shown(tensors_[next_].name)));
  file_.commit();
}

}  // namespace metal_marlin
