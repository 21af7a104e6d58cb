#include "pack/gptq.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/counted.h"
#include "pack/bits/bit_runs.h"
#include "pack/bits/nibbles.h"
#include "pack/bits/words_along_in.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

uint8_t shift_of(GptqVersion version) {
  return version == GptqVersion::kV1 ? 1 : 0;
}

bool is_consecutive(const std::vector<int32_t>& group_index, int64_t group_size) {
  for (size_t k = 0; k < group_index.size(); ++k) {
    if (group_index[k] != static_cast<int64_t>(k) / group_size) return false;
  }
  return true;
}

void read_group_index(const TensorView& g_idx, QuantizedTensor& t, const std::string& name) {
  expect_part(g_idx, DType::kI32, {{t.in_features}}, name, "g_idx");
  t.group_index.resize(static_cast<size_t>(t.in_features));
  std::memcpy(t.group_index.data(), g_idx.bytes.data(), g_idx.bytes.size());
  for (size_t k = 0; k < t.group_index.size(); ++k) {
    if (t.group_index[k] < 0 || t.group_index[k] >= t.groups()) {
      throw FormatError(
          fmt::format("{}: g_idx: [{}] is {}, expected 0 to {}", name, k, t.group_index[k], t.groups() - 1));
    }
  }
  if (is_consecutive(t.group_index, t.group_size)) t.group_index.clear();
}

}  // namespace

std::span<const int> gptq_widths(GptqVersion version) noexcept {
  // At 3 bits a zero may lie across two words, and readers of version 1 differ in how they add the one back.
  static constexpr int kV1[] = {2, 4, 8};
  static constexpr int kV2[] = {2, 3, 4, 8};
  return version == GptqVersion::kV1 ? std::span<const int>(kV1) : std::span<const int>(kV2);
}

void pack_gptq(const QuantizedTensor& t, const std::string& name, GptqVersion version, PackedTensor& out) {
  const auto widths = gptq_widths(version);
  check_packable(t, name,
                 {.name = version == GptqVersion::kV1 ? "GPTQ" : "GPTQ (version 2)",
                  .widths = {widths.begin(), widths.end()},
                  .short_groups = true,
                  .scattered_groups = true});
  const int64_t run = run_codes(t.bits);
  if (t.in_features % run != 0 || t.out_features % run != 0) {
    throw ArgumentError(fmt::format("{}: [{}, {}]: the GPTQ layout needs multiples of {} at {} bits", name,
                                    t.out_features, t.in_features, run, t.bits));
  }
  if (!t.group_index.empty() && t.group_index.size() != static_cast<size_t>(t.in_features)) {
    throw ArgumentError(fmt::format("{}: group_index has {}, expected {}", name, counted(t.group_index.size(), "value"),
                                    t.in_features));
  }
  if (version == GptqVersion::kV1) {
    const auto zero = std::find(t.zeros.begin(), t.zeros.end(), uint8_t{0});
    if (zero != t.zeros.end()) {
      const auto at = zero - t.zeros.begin();
      throw ArgumentError(
          fmt::format("{}: the zero of output channel {}, group {} is 0, which version 1 of GPTQ cannot hold (it "
                      "stores z - 1); use gptq_v2",
                      name, at / t.groups(), at % t.groups()));
    }
  }
  out.parts.resize(4);
  std::byte* words =
      prepare_part(out, 0, "qweight", DType::kI32, {t.in_features / run * run_words(t.bits), t.out_features});
  if (!pack_along_in(t.codes.data(), t.out_features, t.in_features, t.bits, words)) refuse_codes(t, name);
  pack_zero_words(t, false, shift_of(version),
                  prepare_part(out, 1, "qzeros", DType::kI32, {t.groups(), t.out_features / run * run_words(t.bits)}));
  pack_scales(t, prepare_part(out, 2, "scales", DType::kF16, {t.groups(), t.out_features}));
  std::byte* g_idx = prepare_part(out, 3, "g_idx", DType::kI32, {t.in_features});
  for (int64_t k = 0; k < t.in_features; ++k) {
    const auto group =
        t.group_index.empty() ? static_cast<int32_t>(k / t.group_size) : t.group_index[static_cast<size_t>(k)];
    if (group < 0 || group >= t.groups()) {
      throw ArgumentError(
          fmt::format("{}: group {} of input channel {}, expected 0 to {}", name, group, k, t.groups() - 1));
    }
    store(g_idx + 4 * k, group);
  }
}

PackedTensor pack_gptq(const QuantizedTensor& t, const std::string& name, GptqVersion version) {
  PackedTensor packed;
  pack_gptq(t, name, version, packed);
  return packed;
}

QuantizedTensor unpack_gptq(const TensorView& qweight, const TensorView& qzeros, const TensorView& scales,
                            const TensorView* g_idx, int64_t group_size, GptqVersion version, const std::string& name,
                            Codes codes, int bits) {
  const auto widths = gptq_widths(version);
  if (std::ranges::find(widths, bits) == widths.end()) {
    throw FormatError(fmt::format("{}: {} bits, expected {}", name, bits, list_widths(widths)));
  }
  const int64_t run = run_codes(bits);
  const int64_t words_of_run = run_words(bits);
  if (qweight.shape.size() != 2 || qweight.shape[0] <= 0 || qweight.shape[1] <= 0 ||
      qweight.shape[0] % words_of_run != 0 || qweight.shape[1] % run != 0 ||
      qweight.shape[0] > std::numeric_limits<int32_t>::max() / run) {
    throw FormatError(fmt::format("{}: qweight: expected I32 [{} in / 32, out], out a multiple of {}, found {} {}",
                                  name, bits, run, dtype_name(qweight.dtype), shape_string(qweight.shape)));
  }
  expect_part(qweight, DType::kI32, qweight.shape, name, "qweight");
  QuantizedTensor t;
  t.bits = bits;
  t.in_features = qweight.shape[0] / words_of_run * run;
  t.out_features = qweight.shape[1];
  t.group_size = group_size < 0 ? t.in_features : std::min(group_size, t.in_features);
  if (t.group_size == 0) throw FormatError(fmt::format("{}: group size 0", name));
  expect_part(qzeros, DType::kI32, {{t.groups(), t.out_features / run * words_of_run}}, name, "qzeros");
  expect_part(scales, DType::kF16, {{t.groups(), t.out_features}}, name, "scales");
  unpack_scales(scales, t, name);
  unpack_zero_words(qzeros.bytes.data(), false, shift_of(version), t);
  if (g_idx != nullptr) read_group_index(*g_idx, t, name);
  if (codes == Codes::kSkip) return t;
  t.codes.resize(static_cast<size_t>(t.out_features * t.in_features));
  unpack_along_in(qweight.bytes.data(), t.out_features, t.in_features, bits, t.codes.data());
  return t;
}

}  // namespace metal_marlin
