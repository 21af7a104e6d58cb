#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <utility>

#include "core/checked.h"
#include "core/counted.h"
#include "core/files/atomic_file.h"
#include "core/files/mapped_file.h"
#include "core/half.h"
#include "formats/npz.h"
#include "formats/npz_internal.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr uint64_t kAlign = 64;

struct Kind {
  std::string_view code;
  DType dtype;
};
constexpr std::array<Kind, 12> kKinds = {{{"b1", DType::kBool},
                                          {"u1", DType::kU8},
                                          {"i1", DType::kI8},
                                          {"u2", DType::kU16},
                                          {"i2", DType::kI16},
                                          {"u4", DType::kU32},
                                          {"i4", DType::kI32},
                                          {"u8", DType::kU64},
                                          {"i8", DType::kI64},
                                          {"f2", DType::kF16},
                                          {"f4", DType::kF32},
                                          {"f8", DType::kF64}}};

// The Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (5, 8), } and nothing else.
class HeaderLiteral {
 public:
  HeaderLiteral(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  NpyHeader parse() {
    NpyHeader header;
    bool descr = false;
    bool order = false;
    bool shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = string();
      expect(':');
      if (key == "descr" && !std::exchange(descr, true)) {
        read_descr(header);
      } else if (key == "fortran_order" && !std::exchange(order, true)) {
        header.fortran_order = boolean();
      } else if (key == "shape" && !std::exchange(shape, true)) {
        header.shape = tuple();
      } else {
        fail(fmt::format("unexpected or repeated key {}", shown(key)));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_spaces();
    if (!text_.empty()) fail("something follows the header's dictionary");
    if (!descr || !order || !shape) fail("the header lacks descr, fortran_order or shape");
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw FormatError(name_ + ": " + what); }
  void skip_spaces() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\n' || text_[0] == '\t')) text_.remove_prefix(1);
  }
  bool accept(char c) {
    skip_spaces();
    if (text_.empty() || text_[0] != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(fmt::format("the header has {} where '{}' is expected", shown(text_.substr(0, 20)), c));
  }
  std::string_view string() {
    skip_spaces();
    const char quote = text_.empty() ? '\0' : text_[0];
    if (quote != '\'' && quote != '"') expect('\'');
    const size_t end = text_.find(quote, 1);
    if (end == std::string_view::npos) fail("a string in the header does not end");
    const std::string_view value = text_.substr(1, end - 1);
    text_.remove_prefix(end + 1);
    return value;
  }
  bool boolean() {
    skip_spaces();
    for (const auto& [word, value] : {std::pair{std::string_view("True"), true}, {std::string_view("False"), false}}) {
      if (text_.starts_with(word)) {
        text_.remove_prefix(word.size());
        return value;
      }
    }
    fail("fortran_order is neither True nor False");
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> values;
    bool comma = true;
    expect('(');
    while (!accept(')')) {
      if (!comma) fail("the shape lacks a comma");
      skip_spaces();
      int64_t value = 0;
      const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
      if (error != std::errc{} || value < 0) fail(fmt::format("the shape holds {}", shown(text_.substr(0, 20))));
      text_.remove_prefix(static_cast<size_t>(end - text_.data()));
      if (text_.starts_with('L')) text_.remove_prefix(1);  // written by Python 2
      values.push_back(value);
      comma = accept(',');
    }
    if (values.size() == 1 && !comma) fail("the shape is a number, not a tuple");
    return values;
  }
  void read_descr(NpyHeader& header) {
    skip_spaces();
    if (text_.starts_with('[') || text_.starts_with('(')) {
      throw UnsupportedError(name_ + ": an array of records; save each field as an array of its own");
    }
    const std::string_view text = string();
    std::string_view code = text;
    char order = '|';
    if (!code.empty() && std::string_view("<>|=").find(code[0]) != std::string_view::npos) {
      order = code[0];
      code.remove_prefix(1);
    }
    if (code.starts_with('O')) {
      throw UnsupportedError(name_ +
                             ": an array of Python objects (pickle), which is never loaded: it could run code; "
                             "save a numeric array");
    }
    const auto kind = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& k) { return k.code == code; });
    if (kind == kKinds.end()) {
      throw UnsupportedError(
          fmt::format("{}: element type {}; supported are f2, f4, f8, i1 to i8, u1 to u8 and b1", name_, shown(text)));
    }
    header.dtype = kind->dtype;
    header.big_endian = order == '>' && dtype_size(kind->dtype) > 1;
  }

  std::string_view text_;
  const std::string& name_;
};

template <typename T>
void swap_bytes(std::span<std::byte> data) {
  for (size_t i = 0; i + sizeof(T) <= data.size(); i += sizeof(T)) {
    std::reverse(data.begin() + static_cast<ptrdiff_t>(i), data.begin() + static_cast<ptrdiff_t>(i + sizeof(T)));
  }
}

template <typename T, typename Convert>
void convert(std::span<const std::byte> data, float* out, Convert to_float) {
  const size_t n = data.size() / sizeof(T);
  for (size_t i = 0; i < n; ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    out[i] = to_float(value);
  }
}

template <typename T>
void convert(std::span<const std::byte> data, float* out) {
  convert<T>(data, out, [](T v) { return static_cast<float>(v); });
}

// Converts column-major to row-major. The target is written in order; the source is read with strides. There are at
// most kNpyHeaderLimit / 2 dimensions.
Buffer transposed(std::span<const std::byte> data, std::span<const int64_t> shape, size_t element) {
  struct Axis {
    int64_t size;
    int64_t stride;  // of the source, in bytes
    int64_t index;
  };
  std::vector<Axis> axes;
  int64_t stride = static_cast<int64_t>(element);
  for (const int64_t size : shape) {
    axes.push_back({size, stride, 0});
    stride *= size;
  }
  Buffer out(data.size());
  int64_t source = 0;
  for (size_t target = 0; target < data.size(); target += element) {
    std::memcpy(out.data() + target, data.data() + source, element);
    for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
      source += axis->stride;
      if (++axis->index < axis->size) break;
      source -= axis->stride * axis->size;
      axis->index = 0;
    }
  }
  return out;
}

}  // namespace

int64_t NpyHeader::elements() const noexcept {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

uint64_t NpyHeader::data_bytes() const noexcept {
  return static_cast<uint64_t>(elements()) * dtype_size(dtype);
}

int64_t NpyHeader::columns() const noexcept {
  return shape.empty() ? 1 : shape.back();
}

int64_t NpyHeader::rows() const noexcept {
  int64_t n = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
  return n;
}

NpyHeader parse_npy_header(std::span<const std::byte> npy, const std::string& name) {
  const auto byte = [&](size_t i) { return static_cast<uint64_t>(npy[i]); };
  constexpr size_t kFixed = 10;
  if (npy.size() < kFixed || std::memcmp(npy.data(), kMagic.data(), kMagic.size()) != 0) {
    throw FormatError(name + ": no npy file: it does not begin with \\x93NUMPY");
  }
  const uint64_t major = byte(6);
  if (major < 1 || major > 3 || byte(7) != 0) {
    throw UnsupportedError(fmt::format("{}: npy version {}.{}, supported are 1.0, 2.0 and 3.0", name, major, byte(7)));
  }
  uint64_t start = kFixed;
  uint64_t length = byte(8) | byte(9) << 8;
  if (major > 1) {
    start = 12;
    if (npy.size() < start) throw FormatError(name + ": the npy header is cut off");
    length |= byte(10) << 16 | byte(11) << 24;
  }
  if (length > kNpyHeaderLimit - start) {
    throw FormatError(fmt::format("{}: npy header of {}, expected at most {}", name, counted(length, "byte"),
                                  kNpyHeaderLimit - start));
  }
  if (length > npy.size() - start) {
    throw FormatError(fmt::format("{}: the npy header is cut off: {}, {} are there", name, counted(length, "byte"),
                                  npy.size() - start));
  }
  NpyHeader header =
      HeaderLiteral({reinterpret_cast<const char*>(npy.data()) + start, static_cast<size_t>(length)}, name).parse();
  header.data_offset = start + length;
  // The product is checked in both orders, because a zero dimension must not hide an overflow of the others.
  std::vector<int64_t> nonzero;
  for (const int64_t d : header.shape) nonzero.push_back(std::max<int64_t>(d, 1));
  if (!checked_bytes(nonzero, dtype_size(header.dtype))) {
    throw FormatError(fmt::format("{}: shape {} overflows", name, shape_string(header.shape)));
  }
  return header;
}

void npy_to_native(const NpyHeader& header, std::span<std::byte> data) {
  if (!header.big_endian) return;
  switch (dtype_size(header.dtype)) {
    case 2:
      swap_bytes<uint16_t>(data);
      break;
    case 4:
      swap_bytes<uint32_t>(data);
      break;
    case 8:
      swap_bytes<uint64_t>(data);
      break;
    default:
      break;
  }
}

OwnedTensor npy_finish(const NpyHeader& header, Buffer data) {
  npy_to_native(header, {data.data(), data.size()});
  OwnedTensor tensor{.dtype = header.dtype, .shape = header.shape};
  const bool transpose = header.fortran_order && header.shape.size() > 1;
  tensor.bytes =
      transpose ? transposed({data.data(), data.size()}, header.shape, dtype_size(header.dtype)) : std::move(data);
  return tensor;
}

OwnedTensor parse_npy(std::span<const std::byte> npy, const std::string& name) {
  const NpyHeader header = parse_npy_header(npy, name);
  const auto stored = npy.subspan(header.data_offset);
  if (stored.size() != header.data_bytes()) {
    throw FormatError(fmt::format("{}: shape {} of {} needs {}, {} are there", name, shape_string(header.shape),
                                  dtype_name(header.dtype), counted(header.data_bytes(), "byte"), stored.size()));
  }
  Buffer data(stored.size());
  if (!stored.empty()) std::memcpy(data.data(), stored.data(), stored.size());
  return npy_finish(header, std::move(data));
}

OwnedTensor read_npy(const std::string& path) {
  const MappedFile file(path);
  return file.checked([&] { return parse_npy(file.bytes(), path); });
}

void convert_to_f32(const TensorView& tensor, float* out) {
  const auto data = tensor.bytes;
  switch (tensor.dtype) {
    case DType::kF32:
      if (!data.empty()) std::memcpy(out, data.data(), data.size());
      break;
    case DType::kF16:
      convert<uint16_t>(data, out, f16_to_f32);
      break;
    case DType::kBF16:
      convert<uint16_t>(data, out, bf16_to_f32);
      break;
    case DType::kF64:
      convert<double>(data, out);
      break;
    case DType::kBool:
      convert<uint8_t>(data, out, [](uint8_t v) { return v != 0 ? 1.0f : 0.0f; });
      break;
    case DType::kU8:
      convert<uint8_t>(data, out);
      break;
    case DType::kI8:
      convert<int8_t>(data, out);
      break;
    case DType::kU16:
      convert<uint16_t>(data, out);
      break;
    case DType::kI16:
      convert<int16_t>(data, out);
      break;
    case DType::kU32:
      convert<uint32_t>(data, out);
      break;
    case DType::kI32:
      convert<int32_t>(data, out);
      break;
    case DType::kU64:
      convert<uint64_t>(data, out);
      break;
    case DType::kI64:
      convert<int64_t>(data, out);
      break;
    default:
      throw UnsupportedError(
          fmt::format("{}: type {} cannot be converted to F32", shown(tensor.name), dtype_name(tensor.dtype)));
  }
}

std::string npy_header_text(const TensorView& array) {
  const auto kind = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& k) { return k.dtype == array.dtype; });
  if (kind == kKinds.end()) {
    throw ArgumentError(fmt::format("array {}: npy has no type {}; convert it to F32 first", shown(array.name),
                                    dtype_name(array.dtype)));
  }
  const auto bytes = checked_bytes(array.shape, dtype_size(array.dtype));
  if (!bytes || *bytes != array.bytes.size()) {
    throw ArgumentError(fmt::format("array {}: shape {} of {} does not have {}", shown(array.name),
                                    shape_string(array.shape), dtype_name(array.dtype),
                                    counted(array.bytes.size(), "byte")));
  }
  const std::string shape = array.shape.size() == 1 ? fmt::format("({},)", array.shape[0])
                                                    : fmt::format("({})", fmt::join(array.shape, ", "));
  std::string text = fmt::format("{{'descr': '{}{}', 'fortran_order': False, 'shape': {}, }}",
                                 dtype_size(array.dtype) == 1 ? '|' : '<', kind->code, shape);
  constexpr uint64_t kFixed = 10;
  const uint64_t total = (kFixed + text.size() + 1 + kAlign - 1) / kAlign * kAlign;
  text.append(total - kFixed - text.size() - 1, ' ');
  text += '\n';
  if (text.size() > std::numeric_limits<uint16_t>::max()) {
    throw ArgumentError(
        fmt::format("array {}: {} are too many", shown(array.name), counted(array.shape.size(), "dimension")));
  }
  std::string header(kMagic);
  header += '\x01';
  header += '\0';
  header += static_cast<char>(text.size() & 255);
  header += static_cast<char>(text.size() >> 8);
  return header + text;
}

void write_npy(const std::string& path, const TensorView& array) {
  const std::string header = npy_header_text(array);
  AtomicFile file(path);
  file.write(header);
  file.write(array.bytes);
  file.commit();
}

}  // namespace metal_marlin
