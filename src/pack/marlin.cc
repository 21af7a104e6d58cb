#include "pack/marlin.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "core/threads.h"
#include "pack/bits/lanes.h"
#include "pack/bits/nibbles.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

constexpr int64_t kTileIn = 16;   // input channels of a row of B
constexpr int64_t kTileOut = 64;  // output channels of 128 words of it
constexpr int64_t kLineWords = 16;
// Sixteen rows of B are handled at once: their words stay in the second-level cache, and the codes are read in runs of
// 256 bytes.
constexpr int64_t kTiles = 16;

// Sixteen words: lanes i = 4b .. 4b + 3 of one tile, from the rows b, b + 8 of each 16-column block j. `codes` is at
// (n = 64h + b, k = 16t).
//
// A row's sixteen codes x give the eight bytes y[c] = x[c] | x[c + 8] << 4, c = 0..7; rows r and r + 8 interleaved byte
// by byte are y[2a], y'[2a], y[2a + 1], y'[2a + 1]: the word of lane 4b + a, for a = 0..3. The four j are then
// transposed to stand side by side.
void words_of(const uint8_t* codes, int64_t in_features, std::byte* words, Bytes16& seen) noexcept {
  std::array<Words4, 4> x;
  for (size_t j = 0; j < 4; ++j) {
    const uint8_t* row = codes + static_cast<int64_t>(16 * j) * in_features;
    const auto upper = load<Bytes16>(row);
    const auto lower = load<Bytes16>(row + 8 * in_features);
    seen |= upper | lower;
    const Bytes16 low = interleave_low(upper, lower);    // channels 0..7 of both rows, alternating
    const Bytes16 high = interleave_high(upper, lower);  // channels 8..15
    x[j] = reinterpret_cast<Words4>(low | high << 4);
  }
  transpose(x[0], x[1], x[2], x[3]);
  store(words, x);
}

void codes_of(const std::byte* words, int64_t in_features, uint8_t* codes) noexcept {
  auto x = load<std::array<Words4, 4>>(words);
  transpose(x[0], x[1], x[2], x[3]);
  for (size_t j = 0; j < 4; ++j) {
    uint8_t* row = codes + static_cast<int64_t>(16 * j) * in_features;
    const auto both = reinterpret_cast<Bytes16>(x[j]);
    const Bytes16 low = both & 15;
    const Bytes16 high = both >> 4;
    store(row, even_bytes(low, high));
    const Bytes16 odd_low = reinterpret_cast<Bytes16>(reinterpret_cast<Halves8>(low) >> 8);
    const Bytes16 odd_high = reinterpret_cast<Bytes16>(reinterpret_cast<Halves8>(high) >> 8);
    store(row + 8 * in_features, even_bytes(odd_low, odd_high));
  }
}

// Calls fn(t, n, b) with the first code's row n = 64h + b and the tile row t, for all of B, in parallel.
template <typename F>
void for_lines(int64_t out_features, int64_t in_features, F fn) {
  const int64_t rows = in_features / kTileIn;
  parallel_for((rows + kTiles - 1) / kTiles, [&](int64_t tile) {
    const int64_t first = tile * kTiles;
    const int64_t end = std::min(first + kTiles, rows);
    for (int64_t h = 0; h < out_features / kTileOut; ++h) fn(first, end, h);
  });
}

std::byte* line_of(std::byte* b, int64_t out_features, int64_t t, int64_t h, int64_t lane_group) {
  return b + 4 * (t * 2 * out_features + h * 2 * kTileOut + lane_group * kLineWords);
}

// Column of position `at` in a permuted row of scales.
int64_t scale_column(int64_t at, bool one_group) {
  constexpr std::array<int64_t, 8> kPairs = {0, 1, 8, 9, 16, 17, 24, 25};
  if (one_group) return at / 32 * 32 + 2 * (at % 32 / 8) + kPairs[static_cast<size_t>(at % 8)];
  return at / 64 * 64 + 8 * (at % 8) + at % 64 / 8;
}

}  // namespace

std::string marlin_refusal(int64_t out_features, int64_t in_features, int64_t group_size) {
  if (in_features % 128 != 0) return fmt::format("in_features {} is not a multiple of 128", in_features);
  if (out_features % 256 != 0) return fmt::format("out_features {} is not a multiple of 256", out_features);
  if (group_size != 128 && group_size != in_features) {
    return fmt::format("group size {} is neither 128 nor the whole row", group_size);
  }
  return {};
}

void pack_marlin(const QuantizedTensor& t, const std::string& name, PackedTensor& out) {
  check_packable(t, name, {.name = "Marlin"});
  const std::string reason = marlin_refusal(t.out_features, t.in_features, t.group_size);
  if (!reason.empty()) throw ArgumentError(fmt::format("{}: {}, as the Marlin layout needs", name, reason));
  const auto zero = std::find_if(t.zeros.begin(), t.zeros.end(), [](uint8_t z) { return z != 8; });
  if (zero != t.zeros.end()) {
    throw ArgumentError(fmt::format("{}: zero {}; the Marlin layout has no zeros (all must be 8)", name, *zero));
  }
  out.parts.resize(2);
  std::byte* b = prepare_part(out, 0, "B", DType::kI32, {t.in_features / kTileIn, 2 * t.out_features});
  std::atomic<bool> bad = false;
  for_lines(t.out_features, t.in_features, [&](int64_t first, int64_t end, int64_t h) {
    Bytes16 seen{};
    for (int64_t lane_group = 0; lane_group < 8; ++lane_group) {
      const uint8_t* codes = t.codes.data() + (kTileOut * h + lane_group) * t.in_features;
      for (int64_t row = first; row < end; ++row) {
        words_of(codes + kTileIn * row, t.in_features, line_of(b, t.out_features, row, h, lane_group), seen);
      }
    }
    if (above_15(seen)) bad = true;
  });
  if (bad) refuse_codes(t, name);
  std::byte* s = prepare_part(out, 1, "s", DType::kF16, {t.groups(), t.out_features});
  const int64_t groups = t.groups();
  for (int64_t at = 0; at < t.out_features; ++at) {
    const uint16_t* scales = t.scales.data() + scale_column(at, groups == 1) * groups;
    for (int64_t j = 0; j < groups; ++j) store(s + 2 * (j * t.out_features + at), scales[j]);
  }
}

PackedTensor pack_marlin(const QuantizedTensor& t, const std::string& name) {
  PackedTensor packed;
  pack_marlin(t, name, packed);
  return packed;
}

QuantizedTensor unpack_marlin(const TensorView& b, const TensorView& s, int64_t group_size, const std::string& name,
                              Codes codes) {
  if (b.shape.size() != 2 || b.shape[0] <= 0 || b.shape[1] <= 0 || b.shape[0] % 8 != 0 || b.shape[1] % 512 != 0) {
    throw FormatError(fmt::format("{}: B: expected I32 [in / 16, 2 out], in a multiple of 128, out of 256, found {} {}",
                                  name, dtype_name(b.dtype), shape_string(b.shape)));
  }
  expect_part(b, DType::kI32, b.shape, name, "B");
  QuantizedTensor t;
  t.in_features = b.shape[0] * kTileIn;
  t.out_features = b.shape[1] / 2;
  t.group_size = explicit_group_size(group_size, t.in_features, name);
  const std::string reason = marlin_refusal(t.out_features, t.in_features, t.group_size);
  if (!reason.empty()) throw FormatError(fmt::format("{}: {}, as the Marlin layout needs", name, reason));
  const int64_t groups = t.groups();
  expect_part(s, DType::kF16, {{groups, t.out_features}}, name, "s");
  t.scales.resize(static_cast<size_t>(groups * t.out_features));
  t.zeros.assign(t.scales.size(), 8);
  for (int64_t at = 0; at < t.out_features; ++at) {
    const int64_t n = scale_column(at, groups == 1);
    for (int64_t j = 0; j < groups; ++j) {
      const auto scale = load<uint16_t>(s.bytes.data() + 2 * (j * t.out_features + at));
      if (!is_finite_f16(scale)) throw FormatError(fmt::format("{}: s: [{}, {}] is not finite", name, j, at));
      t.scales[static_cast<size_t>(n * groups + j)] = scale;
    }
  }
  if (codes == Codes::kSkip) return t;
  t.codes.resize(static_cast<size_t>(t.out_features * t.in_features));
  for_lines(t.out_features, t.in_features, [&](int64_t first, int64_t end, int64_t h) {
    for (int64_t lane_group = 0; lane_group < 8; ++lane_group) {
      uint8_t* rows = t.codes.data() + (kTileOut * h + lane_group) * t.in_features;
      for (int64_t row = first; row < end; ++row) {
        const std::byte* line =
            b.bytes.data() + 4 * (row * 2 * t.out_features + h * 2 * kTileOut + lane_group * kLineWords);
        codes_of(line, t.in_features, rows + kTileIn * row);
      }
    }
  });
  return t;
}

}  // namespace metal_marlin
