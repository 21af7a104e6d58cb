#include "pack/awq_gemm.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>

#include "core/threads.h"
#include "pack/bits/lanes.h"
#include "pack/bits/nibbles.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

constexpr int64_t kPerWord = 8;
// A block is 16 words (128 output channels) by 256 input channels. That is whole cache lines on both sides, so each
// line is touched once, even where in_features is a power of two and the rows of codes share a cache set.
constexpr int64_t kWords = 16;
constexpr int64_t kChannels = 256;
// A tile is 256 input channels by 256 words. Its words are at most 256 KiB, which stay in the second-level cache while
// they are filled, as do freshly mapped pages, which the system has just cleared. Each row's codes are read in runs of
// 256 bytes.
constexpr int64_t kTileChannels = 256;
constexpr int64_t kTileWords = 256;
constexpr int64_t kStep = 16;                                       // input channels handled at once
using Block = std::array<std::array<uint32_t, kChannels>, kWords>;  // [word][channel]
// Column of nibble i.
constexpr std::array<int64_t, kPerWord> kColumn = {0, 2, 4, 6, 1, 3, 5, 7};

// Eight rows of codes, 16 input channels -> 16 words.
void words_of(const uint8_t* codes, int64_t stride, uint32_t* words, Bytes16& seen) noexcept {
  Bytes64 x;  // [byte of the word][channel]
  for (size_t b = 0; b < 4; ++b) {
    const auto low = load<Bytes16>(codes + kColumn[2 * b] * stride);
    const auto high = load<Bytes16>(codes + kColumn[2 * b + 1] * stride);
    seen |= low | high;
    x[b] = low | high << 4;
  }
  store(words, shuffle(shuffle(x)));  // two bits of byte and four of channel change places
}

// The inverse.
void codes_of(const uint32_t* words, uint8_t* codes, int64_t stride) noexcept {
  const Bytes64 x = shuffle(shuffle(shuffle(shuffle(load<Bytes64>(words)))));
  for (size_t b = 0; b < 4; ++b) {
    store(codes + kColumn[2 * b] * stride, x[b] & 15);
    store(codes + kColumn[2 * b + 1] * stride, x[b] >> 4);
  }
}

// The same for input channels that do not fill a step.
void word_of(const uint8_t* codes, int64_t stride, uint32_t& word, Bytes16& seen) noexcept {
  word = 0;
  for (size_t i = 0; i < kPerWord; ++i) {
    const uint8_t code = codes[kColumn[i] * stride];
    seen[0] |= code;
    word |= static_cast<uint32_t>(code & 15) << (4 * i);
  }
}

void codes_of_word(uint32_t word, uint8_t* codes, int64_t stride) noexcept {
  for (size_t i = 0; i < kPerWord; ++i) codes[kColumn[i] * stride] = word >> (4 * i) & 15;
}

// Calls fn(first channel, channels, first word, words) for each tile, those of one window of words after each other.
template <typename F>
void for_tiles(int64_t in_features, int64_t words, F fn) {
  const int64_t across = (words + kTileWords - 1) / kTileWords;
  parallel_for((in_features + kTileChannels - 1) / kTileChannels * across, [&](int64_t tile) {
    const int64_t channel = tile / across * kTileChannels;
    const int64_t word = tile % across * kTileWords;
    fn(channel, std::min(kTileChannels, in_features - channel), word, std::min(kTileWords, words - word));
  });
}

// Block of `words` by `channels`, codes at its corner.
void pack_block(const uint8_t* codes, int64_t stride, int64_t words, int64_t channels, Block& block,
                Bytes16& seen) noexcept {
  for (int64_t c = 0; c < words; ++c) {
    const uint8_t* rows = codes + c * kPerWord * stride;
    uint32_t* column = block[static_cast<size_t>(c)].data();
    // The next eight rows lie in other pages, which the processor does not prefetch by itself.
    if (c + 1 < words) {
      for (int64_t n = 0; n < kPerWord; ++n) {
        for (int64_t i = 0; i < channels; i += 64) __builtin_prefetch(rows + (kPerWord + n) * stride + i);
      }
    }
    int64_t i = 0;
    for (; i + kStep <= channels; i += kStep) words_of(rows + i, stride, column + i, seen);
    for (; i < channels; ++i) word_of(rows + i, stride, column[i], seen);
  }
}

// Writes the block's words where out[channel][word] lies `words_all` words apart.
void store_block(const Block& block, int64_t words, int64_t channels, int64_t words_all, std::byte* out) noexcept {
  int64_t i = 0;
  for (; words == kWords && i + 4 <= channels; i += 4) {
    for (int64_t c = 0; c < kWords; c += 4) {
      Words4 x[4];
      for (int64_t w = 0; w < 4; ++w) x[w] = load<Words4>(&block[static_cast<size_t>(c + w)][static_cast<size_t>(i)]);
      transpose(x[0], x[1], x[2], x[3]);
      for (int64_t w = 0; w < 4; ++w) store(out + 4 * ((i + w) * words_all + c), x[w]);
    }
  }
  for (; i < channels; ++i) {
    for (int64_t c = 0; c < words; ++c) {
      store(out + 4 * (i * words_all + c), block[static_cast<size_t>(c)][static_cast<size_t>(i)]);
    }
  }
}

}  // namespace

void pack_awq_gemm(const QuantizedTensor& t, const std::string& name, PackedTensor& packed) {
  check_packable(t, name, {.name = "AWQ gemm"});
  const int64_t n_all = t.out_features;
  const int64_t k_all = t.in_features;
  if (n_all % kPerWord != 0) {
    throw ArgumentError(
        fmt::format("{}: out_features {} is no multiple of 8, as the AWQ gemm layout needs", name, n_all));
  }
  const int64_t words_all = n_all / kPerWord;
  packed.parts.resize(3);
  std::byte* out = prepare_part(packed, 0, "qweight", DType::kI32, {k_all, words_all});
  std::atomic<bool> bad = false;
  for_tiles(k_all, words_all, [&](int64_t channel, int64_t channels, int64_t word, int64_t words) {
    Bytes16 seen{};
    Block block;
    for (int64_t c = 0; c < words; c += kWords) {
      const int64_t width = std::min(kWords, words - c);
      for (int64_t k = 0; k < channels; k += kChannels) {
        const int64_t height = std::min(kChannels, channels - k);
        pack_block(t.codes.data() + (word + c) * kPerWord * k_all + channel + k, k_all, width, height, block, seen);
        store_block(block, width, height, words_all, out + 4 * ((channel + k) * words_all + word + c));
      }
    }
    if (above_15(seen)) bad = true;
  });
  if (bad) refuse_codes(t, name);
  pack_zero_words(t, true, 0, prepare_part(packed, 1, "qzeros", DType::kI32, {t.groups(), words_all}));
  pack_scales(t, prepare_part(packed, 2, "scales", DType::kF16, {t.groups(), n_all}));
}

PackedTensor pack_awq_gemm(const QuantizedTensor& t, const std::string& name) {
  PackedTensor packed;
  pack_awq_gemm(t, name, packed);
  return packed;
}

QuantizedTensor unpack_awq_gemm(const TensorView& qweight, const TensorView& qzeros, const TensorView& scales,
                                int64_t group_size, const std::string& name, Codes codes) {
  if (qweight.shape.size() != 2 || qweight.shape[0] <= 0 || qweight.shape[1] <= 0 ||
      qweight.shape[1] > std::numeric_limits<int64_t>::max() / kPerWord) {
    throw FormatError(fmt::format("{}: qweight: expected I32 [in, out / 8], found {} {}", name,
                                  dtype_name(qweight.dtype), shape_string(qweight.shape)));
  }
  expect_part(qweight, DType::kI32, qweight.shape, name, "qweight");
  QuantizedTensor t;
  t.in_features = qweight.shape[0];
  const int64_t words_all = qweight.shape[1];
  t.out_features = words_all * kPerWord;
  t.group_size = explicit_group_size(group_size, t.in_features, name);
  const int64_t groups = t.groups();
  expect_part(qzeros, DType::kI32, {{groups, words_all}}, name, "qzeros");
  expect_part(scales, DType::kF16, {{groups, t.out_features}}, name, "scales");
  unpack_scales(scales, t, name);
  unpack_zero_words(qzeros.bytes.data(), true, 0, t);
  if (codes == Codes::kSkip) return t;

  const int64_t k_all = t.in_features;
  t.codes.resize(static_cast<size_t>(t.out_features * k_all));
  const std::byte* in = qweight.bytes.data();
  for_tiles(k_all, words_all, [&](int64_t channel, int64_t channels, int64_t word, int64_t words) {
    Block block;
    for (int64_t first = word; first < word + words; first += kWords) {
      const int64_t width = std::min(kWords, word + words - first);
      for (int64_t k = channel; k < channel + channels; k += kChannels) {
        const int64_t height = std::min(kChannels, channel + channels - k);
        for (int64_t i = 0; i < height; ++i) {
          const std::byte* line = in + 4 * ((k + i) * words_all + first);
          for (int64_t c = 0; c < width; ++c) {
            block[static_cast<size_t>(c)][static_cast<size_t>(i)] = load<uint32_t>(line + 4 * c);
          }
        }
        for (int64_t c = 0; c < width; ++c) {
          uint8_t* rows = t.codes.data() + (first + c) * kPerWord * k_all + k;
          const uint32_t* column = block[static_cast<size_t>(c)].data();
          int64_t i = 0;
          for (; i + kStep <= height; i += kStep) codes_of(column + i, rows + i, k_all);
          for (; i < height; ++i) codes_of_word(column[i], rows + i, k_all);
        }
      }
    }
  });
  return t;
}

}  // namespace metal_marlin
