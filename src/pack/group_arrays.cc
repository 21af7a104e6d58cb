#include "pack/group_arrays.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/counted.h"
#include "core/half.h"
#include "pack/bits/bit_runs.h"
#include "pack/bits/nibbles.h"

namespace metal_marlin {

bool is_finite_f16(uint16_t bits) noexcept {
  return (bits & 0x7c00u) != 0x7c00u;
}

std::string list_widths(std::span<const int> widths) {
  std::string out;
  for (size_t i = 0; i < widths.size(); ++i) {
    out += fmt::format("{}{}", i == 0 ? "" : (i + 1 == widths.size() ? " or " : ", "), widths[i]);
  }
  return out;
}

void check_packable(const QuantizedTensor& t, const std::string& name, const LayoutLimits& layout) {
  if (std::ranges::find(layout.widths, t.bits) == layout.widths.end()) {
    throw ArgumentError(
        fmt::format("{}: {} bits, the {} layout holds {}", name, t.bits, layout.name, list_widths(layout.widths)));
  }
  if (t.out_features <= 0 || t.in_features <= 0 || t.group_size <= 0 ||
      (t.in_features % t.group_size != 0 && !layout.short_groups)) {
    throw ArgumentError(
        fmt::format("{}: the {} layout needs a group size that divides in_features; found [{}, {}], group {}", name,
                    layout.name, t.out_features, t.in_features, t.group_size));
  }
  const auto out = static_cast<uint64_t>(t.out_features);
  const auto codes = checked_mul(out, static_cast<uint64_t>(t.in_features));
  const uint64_t groups = out * static_cast<uint64_t>(t.groups());
  if (!codes || t.codes.size() != *codes || t.scales.size() != groups || t.zeros.size() != groups) {
    throw ArgumentError(fmt::format("{}: shape [{}, {}] in groups of {}, but {} codes, {} and {}", name, t.out_features,
                                    t.in_features, t.group_size, t.codes.size(), counted(t.scales.size(), "scale"),
                                    counted(t.zeros.size(), "zero")));
  }
  if (!t.group_index.empty() && !layout.scattered_groups) {
    throw ArgumentError(fmt::format(
        "{}: its groups are in act order (g_idx); the {} layout holds consecutive groups only", name, layout.name));
  }
  if ((!t.minima.empty() || t.scale_type != ScaleType::kF16) && !layout.minima) {
    throw ArgumentError(fmt::format("{}: the {} layout holds zeros and float16 scales, found {}", name, layout.name,
                                    t.minima.empty() ? "bfloat16 scales" : "minima"));
  }
  const auto most = std::max_element(t.zeros.begin(), t.zeros.end());
  if (*most >> t.bits != 0) throw ArgumentError(fmt::format("{}: zero {} above {}", name, *most, (1 << t.bits) - 1));
  if (!t.minima.empty() && t.minima.size() != groups) {
    throw ArgumentError(fmt::format("{}: expected {} minima, found {}", name, groups, t.minima.size()));
  }
  const uint32_t exponent = t.scale_type == ScaleType::kF16 ? 0x7c00u : 0x7f80u;
  uint32_t not_finite = 0;
  for (const uint16_t scale : t.scales) not_finite |= static_cast<uint32_t>((scale & exponent) == exponent);
  if (not_finite != 0) throw ArgumentError(fmt::format("{}: a scale is not finite", name));
  for (const uint16_t minimum : t.minima) not_finite |= static_cast<uint32_t>((minimum & exponent) == exponent);
  if (not_finite != 0) throw ArgumentError(fmt::format("{}: a minimum is not finite", name));
}

void refuse_codes(const QuantizedTensor& t, const std::string& name) {
  throw ArgumentError(fmt::format("{}: a code is above {}", name, (1 << t.bits) - 1));
}

void expect_part(const TensorView& part, DType dtype, std::span<const int64_t> shape, const std::string& name,
                 const char* what) {
  const bool same_words =
      (dtype == DType::kI32 || dtype == DType::kU32) && (part.dtype == DType::kI32 || part.dtype == DType::kU32);
  const auto bytes = checked_bytes(shape, dtype_size(dtype));
  if ((part.dtype != dtype && !same_words) || !std::ranges::equal(part.shape, shape) || !bytes ||
      part.bytes.size() != *bytes) {
    throw FormatError(fmt::format("{}: {}: expected {} {}, found {} {} in {}", name, what, dtype_name(dtype),
                                  shape_string(shape), dtype_name(part.dtype), shape_string(part.shape),
                                  counted(part.bytes.size(), "byte")));
  }
}

int64_t explicit_group_size(int64_t group_size, int64_t in_features, const std::string& name) {
  const int64_t group = group_size < 0 ? in_features : group_size;
  if (group == 0 || in_features % group != 0) {
    throw FormatError(fmt::format("{}: group size {} does not divide in_features {}", name, group_size, in_features));
  }
  return group;
}

std::byte* prepare_part(PackedTensor& out, size_t index, const char* part, DType dtype, std::vector<int64_t> shape) {
  OwnedTensor& t = out.parts[index];
  uint64_t bytes = dtype_size(dtype);
  for (const int64_t d : shape) bytes *= static_cast<uint64_t>(d);
  t.name = part;
  t.dtype = dtype;
  t.shape = std::move(shape);
  if (t.bytes.size() != bytes) {
    t.bytes = {};  // freed first: the old and the new buffer together may not fit into memory
    t.bytes = Buffer(bytes);
  }
  return t.bytes.data();
}

void pack_scales(const QuantizedTensor& t, std::byte* out) {
  transpose_array(t.scales.data(), t.out_features, t.groups(), reinterpret_cast<uint16_t*>(out));
}

namespace {

// Bytes 0 2 4 6 1 3 5 7 of eight.
uint64_t interleave(uint64_t bytes) noexcept {
  const auto gather = [](uint64_t even) {  // bytes 0 2 4 6 into the lower four
    even &= 0x00ff00ff00ff00ffu;
    even = (even | even >> 8) & 0x0000ffff0000ffffu;
    return (even | even >> 16) & 0xffffffffu;
  };
  return gather(bytes) | gather(bytes >> 8) << 32;
}
uint64_t deinterleave(uint64_t bytes) noexcept {
  const auto spread = [](uint64_t four) {
    four = (four | four << 16) & 0x0000ffff0000ffffu;
    return (four | four << 8) & 0x00ff00ff00ff00ffu;
  };
  return spread(bytes & 0xffffffffu) | spread(bytes >> 32) << 8;
}

// The words of a run whose codes are all `code`.
std::array<uint32_t, kMostRunWords> constant_run(uint8_t code, int bits) noexcept {
  std::array<uint8_t, 32> codes;
  codes.fill(code);
  std::array<uint32_t, kMostRunWords> words{};
  pack_run(codes.data(), bits, words.data());
  return words;
}

}  // namespace

void pack_zero_words(const QuantizedTensor& t, bool interleaved, uint8_t minus, std::byte* out) {
  std::vector<uint8_t> zeros(t.zeros.size());
  transpose_array(t.zeros.data(), t.out_features, t.groups(), zeros.data());
  const auto run = static_cast<size_t>(run_codes(t.bits));
  const auto words_of_run = static_cast<size_t>(run_words(t.bits));
  const auto less = constant_run(minus, t.bits);
  std::array<uint32_t, kMostRunWords> words;
  for (size_t i = 0; i < zeros.size(); i += run) {
    if (interleaved) store(zeros.data() + i, interleave(load<uint64_t>(zeros.data() + i)));
    pack_run(zeros.data() + i, t.bits, words.data());
    for (size_t w = 0; w < words_of_run; ++w, out += 4) store(out, words[w] - less[w]);
  }
}

void unpack_zero_words(const std::byte* words, bool interleaved, uint8_t plus, QuantizedTensor& t) {
  std::vector<uint8_t> zeros(static_cast<size_t>(t.groups() * t.out_features));
  const auto run = static_cast<size_t>(run_codes(t.bits));
  const auto words_of_run = static_cast<size_t>(run_words(t.bits));
  const auto more = constant_run(plus, t.bits);
  std::array<uint32_t, kMostRunWords> sum;
  for (size_t i = 0; i < zeros.size(); i += run) {
    for (size_t w = 0; w < words_of_run; ++w, words += 4) sum[w] = load<uint32_t>(words) + more[w];
    unpack_run(sum.data(), t.bits, zeros.data() + i);
    if (interleaved) store(zeros.data() + i, deinterleave(load<uint64_t>(zeros.data() + i)));
  }
  t.zeros.resize(zeros.size());
  transpose_array(zeros.data(), t.groups(), t.out_features, t.zeros.data());
  t.symmetric = std::all_of(t.zeros.begin(), t.zeros.end(), [&](uint8_t z) { return z == 1 << (t.bits - 1); });
}

void unpack_scales(const TensorView& scales, QuantizedTensor& t, const std::string& name) {
  std::vector<uint16_t> values(static_cast<size_t>(t.groups() * t.out_features));
  std::memcpy(values.data(), scales.bytes.data(), values.size() * sizeof(uint16_t));
  bool finite = true;  // without branches, so that the compiler takes many at once
  for (const uint16_t bits : values) finite &= is_finite_f16(bits);
  if (!finite) {
    const auto bad = std::find_if_not(values.begin(), values.end(), is_finite_f16);
    const auto at = static_cast<int64_t>(bad - values.begin());
    throw FormatError(
        fmt::format("{}: scales: [{}, {}] is not finite", name, at / t.out_features, at % t.out_features));
  }
  t.scales.resize(values.size());
  transpose_array(values.data(), t.groups(), t.out_features, t.scales.data());
}

std::vector<float> read_group_floats(const TensorView& part, int64_t out_features, int64_t groups,
                                     const std::string& name, const char* what) {
  if (part.dtype != DType::kF16 && part.dtype != DType::kBF16 && part.dtype != DType::kF32) {
    throw FormatError(fmt::format("{}: {}: expected F16, BF16 or F32, found {}", name, what, dtype_name(part.dtype)));
  }
  const std::array<int64_t, 2> shape = {out_features, groups};
  expect_part(part, part.dtype, shape, name, what);
  std::vector<float> values(static_cast<size_t>(out_features * groups));
  if (part.dtype == DType::kF32) {
    if (!values.empty()) std::memcpy(values.data(), part.bytes.data(), part.bytes.size());
  } else {
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, part.bytes.data() + 2 * i, 2);
      values[i] = part.dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
  }
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad != values.end()) {
    const int64_t at = bad - values.begin();
    throw FormatError(
        fmt::format("{}: {}: of output {}, group {}, is not finite", name, what, at / groups, at % groups));
  }
  return values;
}

std::optional<ScaleType> exact_type(std::span<const float> values) noexcept {
  for (const ScaleType type : {ScaleType::kF16, ScaleType::kBF16}) {
    const bool exact = std::all_of(values.begin(), values.end(),
                                   [&](float v) { return decode_scale(encode_scale(v, type), type) == v; });
    if (exact) return type;
  }
  return std::nullopt;
}

std::vector<uint16_t> encode_all(std::span<const float> values, ScaleType type) {
  std::vector<uint16_t> bits(values.size());
  std::transform(values.begin(), values.end(), bits.begin(), [&](float v) { return encode_scale(v, type); });
  return bits;
}

void set_group_floats(std::span<const float> scales, std::span<const float> minima, const std::string& name,
                      QuantizedTensor& tensor) {
  std::vector<float> all(scales.begin(), scales.end());
  all.insert(all.end(), minima.begin(), minima.end());
  const auto type = exact_type(all);
  if (!type) {
    throw UnsupportedError(
        fmt::format("{}: its scales are stored in 32 bits, and neither float16 nor bfloat16 holds "
                    "them exactly",
                    name));
  }
  tensor.scale_type = *type;
  tensor.scales = encode_all(scales, *type);
  tensor.minima = encode_all(minima, *type);
}

DType dtype_of(ScaleType type) noexcept {
  return type == ScaleType::kF16 ? DType::kF16 : DType::kBF16;
}

}  // namespace metal_marlin
