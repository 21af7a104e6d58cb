#include "formats/gguf.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "core/checked.h"
#include "core/counted.h"
#include "core/tensor.h"
#include "core/threads.h"
#include "formats/foreign_file.h"
#include "formats/gguf_internal.h"
#include "formats/tensor_bounds.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr uint64_t kLengthLimit = uint64_t{1} << 30;  // of strings and arrays, as llama.cpp has it
constexpr size_t kNameLimit = 64;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMinPairBytes = 8 + 1 + 4 + 1;  // shortest key, type, shortest value
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;
// What is held in memory of a header. The largest models have some thousand tensors and some hundred keys.
constexpr uint64_t kMostPairs = uint64_t{1} << 16;
constexpr uint64_t kMostText = uint64_t{64} << 20;  // of all keys and of strings outside arrays
constexpr const char* kGetAgain = "the file is cut short or damaged: download it again, or convert the model again";
}  // namespace

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  GgufContent parse() {
    GgufContent content;
    content.metadata.file_ = name_;
    context_ = "header";
    if (file_.size() < 4 || std::memcmp(file_.data(), "GGUF", 4) != 0) {
      const std::string_view start(reinterpret_cast<const char*>(file_.data()), std::min<size_t>(file_.size(), 512));
      const std::string foreign = foreign_weights_text(start);
      if (foreign.empty()) fail("no GGUF file: it does not begin with GGUF");
      throw FormatError(fmt::format("{}: {}: no GGUF file: {}", name_, context_, foreign));
    }
    position_ = 4;
    content.version = read<uint32_t>();
    if ((content.version & 0xffffu) == 0 && content.version != 0) {
      throw UnsupportedError(fmt::format("{}: a big-endian GGUF file; convert it to little-endian first", name_));
    }
    if (content.version == 0) fail("expected version 2 or 3, found version 0");
    if (content.version == 1 || content.version > 3) {
      throw UnsupportedError(
          fmt::format("{}: expected GGUF version 2 or 3, found version {}; {}", name_, content.version, kConvertAgain));
    }
    const auto tensors = read<uint64_t>();
    const auto pairs = read<uint64_t>();
    if (tensors > left() / kMinTensorBytes)
      fail(fmt::format("{} cannot fit into the file", counted(tensors, "tensor")));
    if (pairs > left() / kMinPairBytes) fail(fmt::format("{} pairs cannot fit into the file", pairs));
    if (tensors > kMostTensors)
      fail(fmt::format("expected at most {}, found {}", counted(kMostTensors, "tensor"), tensors));
    if (pairs > kMostPairs) fail(fmt::format("expected at most {}, found {}", counted(kMostPairs, "key"), pairs));
    for (uint64_t i = 0; i < pairs; ++i) read_pair(content.metadata, i);
    content.alignment = alignment(content.metadata);
    std::vector<uint64_t> offsets;
    content.tensors.reserve(tensors);
    offsets.reserve(tensors);
    for (uint64_t i = 0; i < tensors; ++i) content.tensors.push_back(read_tensor(i, offsets));
    refuse_duplicates(content.tensors);
    place(content, offsets);
    return content;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw FormatError(fmt::format("{}: {}: {}; {}", name_, context_, what, kGetAgain));
  }
  uint64_t left() const noexcept { return file_.size() - position_; }

  template <typename T>
  T read() {
    if (left() < sizeof(T))
      fail(fmt::format("the file ends at byte {}, {} more are needed", file_.size(), sizeof(T) - left()));
    T value;
    std::memcpy(&value, file_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  std::string_view read_view(const char* what) {
    const auto size = read<uint64_t>();
    if (size > kLengthLimit)
      fail(fmt::format("{} of {}, the format allows {}", what, counted(size, "byte"), kLengthLimit));
    if (size > left()) fail(fmt::format("{} of {}, the file has {} left", what, counted(size, "byte"), left()));
    const std::string_view text(reinterpret_cast<const char*>(file_.data()) + position_, size);
    position_ += size;
    return text;
  }
  std::string read_string(const char* what) {
    const std::string_view text = read_view(what);
    held_ += text.size();
    if (held_ > kMostText) {
      fail(fmt::format("expected keys and strings of at most {} MiB together, found a {} of {} that exceeds it",
                       kMostText >> 20, what, counted(text.size(), "byte")));
    }
    return std::string(text);
  }

  void read_pair(GgufMetadata& metadata, uint64_t number) {
    context_ = fmt::format("pair {}", number);
    std::string key = read_string("key");
    if (key.empty()) fail("expected a key, found an empty key");
    context_ = fmt::format("key {}", shown(key));
    if (metadata.pairs_.contains(key)) fail("expected each key once, found a duplicate");
    GgufValue value;
    value.type = static_cast<GgufType>(read<uint32_t>());
    read_value(value);
    metadata.pairs_.emplace(std::move(key), std::move(value));
  }

  void read_value(GgufValue& out) {
    switch (out.type) {
      case GgufType::kU8:
        out.value = uint64_t{read<uint8_t>()};
        break;
      case GgufType::kI8:
        out.value = int64_t{read<int8_t>()};
        break;
      case GgufType::kU16:
        out.value = uint64_t{read<uint16_t>()};
        break;
      case GgufType::kI16:
        out.value = int64_t{read<int16_t>()};
        break;
      case GgufType::kU32:
        out.value = uint64_t{read<uint32_t>()};
        break;
      case GgufType::kI32:
        out.value = int64_t{read<int32_t>()};
        break;
      case GgufType::kU64:
        out.value = read<uint64_t>();
        break;
      case GgufType::kI64:
        out.value = read<int64_t>();
        break;
      case GgufType::kF32:
        out.value = double{read<float>()};
        break;
      case GgufType::kF64:
        out.value = read<double>();
        break;
      case GgufType::kBool:
        out.value = read<uint8_t>() != 0;
        break;
      case GgufType::kString:
        out.value = read_string("string");
        break;
      case GgufType::kArray:
        read_array(out);
        break;
      default:
        fail(fmt::format("expected a value of a type from 0 to 12, found type {}", static_cast<uint32_t>(out.type)));
    }
  }

  void read_array(GgufValue& out) {
    out.element = static_cast<GgufType>(read<uint32_t>());
    const auto count = read<uint64_t>();
    if (out.element == GgufType::kArray) fail("expected elements that are no arrays, found an array of arrays");
    if (count > kLengthLimit)
      fail(fmt::format("array of {}, the format allows {}", counted(count, "element"), kLengthLimit));
    switch (out.element) {
      case GgufType::kU8:
      case GgufType::kI8:
      case GgufType::kBool:
        out.value = numbers(count, 1);
        break;
      case GgufType::kU16:
      case GgufType::kI16:
        out.value = numbers(count, 2);
        break;
      case GgufType::kU32:
      case GgufType::kI32:
      case GgufType::kF32:
        out.value = numbers(count, 4);
        break;
      case GgufType::kU64:
      case GgufType::kI64:
      case GgufType::kF64:
        out.value = numbers(count, 8);
        break;
      case GgufType::kString: {
        if (count > left() / sizeof(uint64_t))
          fail(fmt::format("array of {}, the file has {} left", counted(count, "string"), counted(left(), "byte")));
        const size_t begin = position_;
        for (uint64_t i = 0; i < count; ++i) read_view("string");
        out.value = GgufStrings{file_.subspan(begin, position_ - begin), count};
        break;
      }
      default:
        fail(
            fmt::format("expected elements of a type from 0 to 12, found type {}", static_cast<uint32_t>(out.element)));
    }
  }

  GgufNumbers numbers(uint64_t count, uint64_t size) {
    if (count > left() / size)
      fail(fmt::format("array of {} of {}, the file has {} left", counted(count, "element"), counted(size, "byte"),
                       left()));
    const GgufNumbers out{file_.subspan(position_, count * size), count};
    position_ += count * size;
    return out;
  }

  uint64_t alignment(const GgufMetadata& metadata) {
    constexpr std::string_view kKey = "general.alignment";
    context_ = fmt::format("key {}", shown(kKey));
    const GgufValue* value = metadata.find(kKey);
    if (value == nullptr) return 32;
    if (value->type != GgufType::kU32) fail(fmt::format("expected u32, found {}", value->type_name()));
    const uint64_t bytes = std::get<uint64_t>(value->value);
    if (!std::has_single_bit(bytes)) fail(fmt::format("expected a power of two, found {}", bytes));
    return bytes;
  }

  GgufTensor read_tensor(uint64_t number, std::vector<uint64_t>& offsets) {
    context_ = fmt::format("tensor {}", number);
    GgufTensor tensor;
    tensor.name = read_string("name");
    if (tensor.name.empty()) fail("expected a name, found an empty name");
    context_ = fmt::format("tensor {}", shown(tensor.name));
    if (tensor.name.size() >= kNameLimit) {
      fail(fmt::format("a name of {}, the format allows {}", counted(tensor.name.size(), "byte"), kNameLimit - 1));
    }
    const auto dimensions = read<uint32_t>();
    if (dimensions > kMaxDimensions)
      fail(fmt::format("{}, the format allows {}", counted(dimensions, "dimension"), kMaxDimensions));
    for (uint32_t i = 0; i < dimensions; ++i) {
      const auto size = read<int64_t>();
      if (size < 0) fail(fmt::format("expected dimensions from 0, found {} as dimension {}", size, i));
      tensor.shape.insert(tensor.shape.begin(), size);
    }
    const auto type = read<uint32_t>();
    const auto info = ggml_type_info(type);
    if (!info) {
      throw UnsupportedError(
          fmt::format("{}: {}: ggml type {} is unknown; re-export the model with a common type, such as Q8_0", name_,
                      context_, type));
    }
    tensor.type = info->type;
    const int64_t columns = tensor.shape.empty() ? 1 : tensor.shape.back();
    if (columns % info->block != 0) {
      fail(fmt::format("rows of {}, {} needs a multiple of {}", counted(columns, "element"), info->name, info->block));
    }
    offsets.push_back(read<uint64_t>());
    return tensor;
  }

  void refuse_duplicates(const std::vector<GgufTensor>& tensors) {
    std::vector<std::string_view> names;
    names.reserve(tensors.size());
    for (const GgufTensor& tensor : tensors) names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice == names.end()) return;
    context_ = fmt::format("tensor {}", shown(*twice));
    fail("expected each name once, found a duplicate name");
  }

  // Every tensor begins at the sum of the padded sizes before it.
  void place(GgufContent& content, const std::vector<uint64_t>& offsets) {
    const uint64_t alignment = content.alignment;
    const auto padded = [&](uint64_t size) -> std::optional<uint64_t> {
      const auto up = checked_add(size, alignment - 1);
      return up ? std::optional(*up & ~(alignment - 1)) : std::nullopt;
    };
    const auto start = padded(position_);
    const auto data = start && *start <= file_.size() ? file_.subspan(*start) : std::span<const std::byte>{};
    uint64_t expected = 0;
    for (size_t i = 0; i < content.tensors.size(); ++i) {
      GgufTensor& tensor = content.tensors[i];
      context_ = fmt::format("tensor {}", shown(tensor.name));
      const GgmlTypeInfo info = ggml_type_info(tensor.type);
      const auto elements = checked_bytes(tensor.shape, 1);
      const auto size =
          elements ? checked_mul(*elements / static_cast<uint64_t>(info.block), static_cast<uint64_t>(info.bytes))
                   : std::nullopt;
      if (!size) fail(fmt::format("shape {} overflows", shape_string(tensor.shape)));
      if (offsets[i] != expected) fail(fmt::format("expected the offset {}, found {}", expected, offsets[i]));
      if (expected > data.size() || *size > data.size() - expected) {
        fail(fmt::format("{} {} at {} needs {}, the file has {} of data", info.name, shape_string(tensor.shape),
                         expected, counted(*size, "byte"), counted(data.size(), "byte")));
      }
      tensor.bytes = data.subspan(expected, *size);
      const auto next = padded(expected + *size);
      if (!next) fail("the offset of the next tensor overflows");
      expected = *next;
    }
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  std::string context_;  // what is being read, for messages
  size_t position_ = 0;
  uint64_t held_ = 0;  // bytes of keys and strings so far
};

GgufContent parse_gguf(std::span<const std::byte> file, const std::string& name) {
  return GgufParser(file, name).parse();
}

int64_t GgufTensor::elements() const noexcept {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

int64_t GgufTensor::row_bytes() const noexcept {
  if (shape.empty()) return 0;
  const GgmlTypeInfo info = ggml_type_info(type);
  return shape.back() / info.block * info.bytes;
}

GgufFile::GgufFile(const std::string& path) : GgufFile(MappedFile(path)) {}

GgufFile::GgufFile(MappedFile file)
    : file_(std::move(file)), content_(file_.checked([&] { return parse_gguf(file_.bytes(), file_.path()); })) {
  index_.reserve(content_.tensors.size());
  for (size_t i = 0; i < content_.tensors.size(); ++i) index_.emplace(content_.tensors[i].name, i);
}

const GgufTensor* GgufFile::find(std::string_view name) const noexcept {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &content_.tensors[it->second];
}

const GgufTensor& GgufFile::get(std::string_view name) const {
  if (const GgufTensor* tensor = find(name)) return *tensor;
  throw FormatError(
      fmt::format("{}: tensor {} is missing: expected it among the {} of the file, found none of this name; {}", path(),
                  shown(name), counted(content_.tensors.size(), "tensor"), kConvertAgain));
}

void dequantize_rows(const GgufTensor& tensor, int64_t first, int64_t count, float* out) {
  const int64_t columns = tensor.shape.empty() ? 0 : tensor.shape.back();
  const int64_t rows = columns == 0 ? 0 : tensor.elements() / columns;
  if (first < 0 || count < 0 || first > rows || count > rows - first) {
    throw ArgumentError(fmt::format("tensor {}: {} from row {} of {} were asked for", shown(tensor.name),
                                    counted(count, "row"), first, rows));
  }
  if (!ggml_type_info(tensor.type).can_dequantize) {
    throw UnsupportedError(
        fmt::format("tensor {}: type {} cannot be read; re-export the model with a common type, such as Q8_0",
                    shown(tensor.name), ggml_type_info(tensor.type).name));
  }
  const int64_t row_bytes = tensor.row_bytes();
  constexpr int64_t kTileElements = int64_t{1} << 15;
  const int64_t tile = std::max<int64_t>(1, kTileElements / std::max<int64_t>(1, columns));
  parallel_for((count + tile - 1) / tile, [&](int64_t i) {
    const int64_t begin = i * tile;
    const int64_t n = std::min(tile, count - begin);
    dequantize_blocks(
        tensor.type,
        tensor.bytes.subspan(static_cast<size_t>((first + begin) * row_bytes), static_cast<size_t>(n * row_bytes)),
        out + begin * columns, n * columns);
  });
}

}  // namespace metal_marlin
