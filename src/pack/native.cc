#include "pack/native.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#include "core/half.h"
#include "core/threads.h"
#include "pack/group_arrays.h"
#include "pack/nibbles.h"

namespace metal_marlin {
namespace {

constexpr int64_t kPerWord = 8;
// A block is 16 output channels by 64 input channels: whole cache lines on both sides (16 words, 64 codes), so that a
// line is touched once even where in_features is a power of two and the rows of codes share a cache set.
constexpr int64_t kColumns = 16;
constexpr int64_t kBlockRows = 8;  // of words
using Block = std::array<std::array<uint32_t, kColumns>, kBlockRows>;

int64_t column_tiles(int64_t out_features) {
  return (out_features + kColumns - 1) / kColumns;
}

OwnedTensor pack_zeros(const QuantizedTensor& t) {
  const int64_t groups = t.groups();
  OwnedTensor zeros = new_part("weight.zeros", DType::kF16, {groups, t.out_features});
  for (int64_t j = 0; j < groups; ++j) {
    for (int64_t n = 0; n < t.out_features; ++n) {
      const int zero = t.zeros[static_cast<size_t>(n * groups + j)] - 8;
      store(zeros.bytes.data() + 2 * (j * t.out_features + n), f32_to_f16(static_cast<float>(zero)));
    }
  }
  return zeros;
}

void unpack_zeros(const TensorView& zeros, QuantizedTensor& t, const std::string& name) {
  const int64_t groups = t.groups();
  t.zeros.resize(static_cast<size_t>(groups * t.out_features));
  for (int64_t j = 0; j < groups; ++j) {
    for (int64_t n = 0; n < t.out_features; ++n) {
      const float zero = f16_to_f32(load<uint16_t>(zeros.bytes.data() + 2 * (j * t.out_features + n)));
      if (!(zero >= -8 && zero <= 7) || zero != std::nearbyint(zero)) {
        throw FormatError(fmt::format("{}: zeros: [{}, {}] is {}, expected an integer in -8..7", name, j, n, zero));
      }
      t.zeros[static_cast<size_t>(n * groups + j)] = static_cast<uint8_t>(static_cast<int>(zero) + 8);
    }
  }
}

}  // namespace

PackedTensor pack_native(const QuantizedTensor& t, const std::string& name, std::span<const uint16_t> q_scale) {
  check_packable(t, name, "native");
  const int64_t n_all = t.out_features;
  const int64_t k_all = t.in_features;
  if (k_all % kPerWord != 0) {
    throw ArgumentError(fmt::format("{}: in_features {} is no multiple of 8, as the native layout needs", name, k_all));
  }
  if (!q_scale.empty() && q_scale.size() != static_cast<size_t>(k_all)) {
    throw ArgumentError(fmt::format("{}: q_scale has {} values, expected {}", name, q_scale.size(), k_all));
  }
  PackedTensor packed;
  packed.parts.push_back(new_part("weight", DType::kU32, {k_all / kPerWord, n_all}));
  std::byte* words = packed.parts[0].bytes.data();
  const int64_t word_rows = k_all / kPerWord;
  std::atomic<bool> bad = false;
  parallel_for(column_tiles(n_all), [&](int64_t tile) {
    const int64_t first = tile * kColumns;
    const int64_t columns = std::min(kColumns, n_all - first);
    uint64_t seen = 0;
    for (int64_t r = 0; r < word_rows; r += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, word_rows - r);
      Block block;
      for (int64_t c = 0; c < columns; ++c) {
        const uint8_t* codes = t.codes.data() + (first + c) * k_all + r * kPerWord;
        for (int64_t i = 0; i < rows; ++i) {
          const auto eight = load<uint64_t>(codes + i * kPerWord);
          seen |= eight;
          block[static_cast<size_t>(i)][static_cast<size_t>(c)] = bytes_to_nibbles(eight);
        }
      }
      for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(words + 4 * ((r + i) * n_all + first), block[static_cast<size_t>(i)].data(),
                    4 * static_cast<size_t>(columns));
      }
    }
    if ((seen & kHighNibbles) != 0) bad = true;
  });
  if (bad) refuse_codes(name);
  packed.parts.push_back(pack_scales(t, "weight.scales"));
  packed.parts.push_back(pack_zeros(t));
  if (!q_scale.empty()) {
    packed.parts.push_back(new_part("weight.q_scale", DType::kF16, {k_all}));
    std::memcpy(packed.parts.back().bytes.data(), q_scale.data(), q_scale.size_bytes());
  }
  return packed;
}

QuantizedTensor unpack_native(const TensorView& weight, const TensorView& scales, const TensorView& zeros,
                              int64_t group_size, const std::string& name) {
  if (weight.shape.size() != 2 || weight.shape[0] <= 0 || weight.shape[1] <= 0) {
    throw FormatError(fmt::format("{}: weight: expected U32 [in / 8, out], found {} {}", name, dtype_name(weight.dtype),
                                  shape_string(weight.shape)));
  }
  expect_part(weight, DType::kU32, weight.shape, name, "weight");
  QuantizedTensor t;
  t.out_features = weight.shape[1];
  t.in_features = weight.shape[0] * kPerWord;
  t.group_size = explicit_group_size(group_size, t.in_features, name);
  expect_part(scales, DType::kF16, {{t.groups(), t.out_features}}, name, "scales");
  expect_part(zeros, DType::kF16, {{t.groups(), t.out_features}}, name, "zeros");
  unpack_scales(scales, t, name);
  unpack_zeros(zeros, t, name);
  t.symmetric = std::all_of(t.zeros.begin(), t.zeros.end(), [](uint8_t z) { return z == 8; });

  const int64_t n_all = t.out_features;
  const int64_t k_all = t.in_features;
  t.codes.resize(static_cast<size_t>(n_all * k_all));
  const std::byte* words = weight.bytes.data();
  const int64_t word_rows = k_all / kPerWord;
  parallel_for(column_tiles(n_all), [&](int64_t tile) {
    const int64_t first = tile * kColumns;
    const int64_t columns = std::min(kColumns, n_all - first);
    for (int64_t r = 0; r < word_rows; r += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, word_rows - r);
      Block block;
      for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(block[static_cast<size_t>(i)].data(), words + 4 * ((r + i) * n_all + first),
                    4 * static_cast<size_t>(columns));
      }
      for (int64_t c = 0; c < columns; ++c) {
        uint8_t* codes = t.codes.data() + (first + c) * k_all + r * kPerWord;
        for (int64_t i = 0; i < rows; ++i) {
          store(codes + i * kPerWord, nibbles_to_bytes(block[static_cast<size_t>(i)][static_cast<size_t>(c)]));
        }
      }
    }
  });
  return t;
}

std::vector<float> unpack_q_scale(const TensorView& q_scale, int64_t in_features, const std::string& name) {
  expect_part(q_scale, DType::kF16, {{in_features}}, name, "q_scale");
  std::vector<float> values(static_cast<size_t>(in_features));
  for (size_t k = 0; k < values.size(); ++k) {
    values[k] = f16_to_f32(load<uint16_t>(q_scale.bytes.data() + 2 * k));
    if (!(values[k] > 0) || !std::isfinite(values[k])) {
      throw FormatError(fmt::format("{}: q_scale: [{}] is {}, expected a finite number above 0", name, k, values[k]));
    }
  }
  return values;
}

}  // namespace metal_marlin
