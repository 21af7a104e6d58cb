#include "pack/awq_gemm.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "core/threads.h"
#include "pack/group_arrays.h"
#include "pack/nibbles.h"

namespace metal_marlin {
namespace {

constexpr int64_t kPerWord = 8;
// A block is 16 words (128 output channels) by 64 input channels: whole cache lines on both sides, so that a line is
// touched once even where in_features is a power of two and the rows of codes share a cache set.
constexpr int64_t kWords = 16;
constexpr int64_t kChannels = 64;
constexpr int64_t kStep = 16;                                       // input channels handled at once
using Block = std::array<std::array<uint32_t, kChannels>, kWords>;  // [word][channel]
// Column of nibble i.
constexpr std::array<int64_t, kPerWord> kColumn = {0, 2, 4, 6, 1, 3, 5, 7};

using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Bytes64 = std::array<Bytes16, 4>;

Bytes16 interleave_low(Bytes16 a, Bytes16 b) noexcept {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
Bytes16 interleave_high(Bytes16 a, Bytes16 b) noexcept {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
// The perfect shuffle of 64 bytes: byte i of the first half beside byte i of the second. It turns the six bits of a
// byte's index left by one.
Bytes64 shuffle(const Bytes64& x) noexcept {
  return {interleave_low(x[0], x[2]), interleave_high(x[0], x[2]), interleave_low(x[1], x[3]),
          interleave_high(x[1], x[3])};
}

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

}  // namespace

PackedTensor pack_awq_gemm(const QuantizedTensor& t, const std::string& name) {
  check_packable(t, name, "AWQ gemm");
  const int64_t n_all = t.out_features;
  const int64_t k_all = t.in_features;
  if (n_all % kPerWord != 0) {
    throw ArgumentError(
        fmt::format("{}: out_features {} is no multiple of 8, as the AWQ gemm layout needs", name, n_all));
  }
  const int64_t words_all = n_all / kPerWord;
  const int64_t groups = t.groups();
  PackedTensor packed;
  packed.parts.push_back(new_part("qweight", DType::kI32, {k_all, words_all}));
  packed.parts.push_back(new_part("qzeros", DType::kI32, {groups, words_all}));
  std::byte* out = packed.parts[0].bytes.data();
  std::byte* zeros = packed.parts[1].bytes.data();
  std::atomic<bool> bad = false;
  parallel_for((words_all + kWords - 1) / kWords, [&](int64_t tile) {
    const int64_t first = tile * kWords;
    const int64_t words = std::min(kWords, words_all - first);
    const uint8_t* codes = t.codes.data() + first * kPerWord * k_all;
    Bytes16 seen{};
    Block block;
    for (int64_t k = 0; k < k_all; k += kChannels) {
      const int64_t channels = std::min(kChannels, k_all - k);
      for (int64_t c = 0; c < words; ++c) {
        const uint8_t* rows = codes + c * kPerWord * k_all + k;
        uint32_t* column = block[static_cast<size_t>(c)].data();
        int64_t i = 0;
        for (; i + kStep <= channels; i += kStep) words_of(rows + i, k_all, column + i, seen);
        for (; i < channels; ++i) word_of(rows + i, k_all, column[i], seen);
      }
      for (int64_t i = 0; i < channels; ++i) {
        std::byte* line = out + 4 * ((k + i) * words_all + first);
        for (int64_t c = 0; c < words; ++c) store(line + 4 * c, block[static_cast<size_t>(c)][static_cast<size_t>(i)]);
      }
    }
    for (int64_t j = 0; j < groups; ++j) {
      for (int64_t c = first; c < first + words; ++c) {
        uint32_t word = 0;
        word_of(t.zeros.data() + c * kPerWord * groups + j, groups, word, seen);
        store(zeros + 4 * (j * words_all + c), word);
      }
    }
    for (size_t i = 0; i < sizeof seen; ++i) {
      if (seen[i] > 15) bad = true;
    }
  });
  if (bad) refuse_codes(name);
  packed.parts.push_back(pack_scales(t, "scales"));
  return packed;
}

QuantizedTensor unpack_awq_gemm(const TensorView& qweight, const TensorView& qzeros, const TensorView& scales,
                                int64_t group_size, const std::string& name) {
  if (qweight.shape.size() != 2 || qweight.shape[0] <= 0 || qweight.shape[1] <= 0) {
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
  t.zeros.resize(static_cast<size_t>(groups * t.out_features));
  for (int64_t j = 0; j < groups; ++j) {
    for (int64_t c = 0; c < words_all; ++c) {
      codes_of_word(load<uint32_t>(qzeros.bytes.data() + 4 * (j * words_all + c)),
                    t.zeros.data() + c * kPerWord * groups + j, groups);
    }
  }
  t.symmetric = std::all_of(t.zeros.begin(), t.zeros.end(), [](uint8_t z) { return z == 8; });

  const int64_t k_all = t.in_features;
  t.codes.resize(static_cast<size_t>(t.out_features * k_all));
  const std::byte* in = qweight.bytes.data();
  parallel_for((words_all + kWords - 1) / kWords, [&](int64_t tile) {
    const int64_t first = tile * kWords;
    const int64_t words = std::min(kWords, words_all - first);
    uint8_t* codes = t.codes.data() + first * kPerWord * k_all;
    Block block;
    for (int64_t k = 0; k < k_all; k += kChannels) {
      const int64_t channels = std::min(kChannels, k_all - k);
      for (int64_t i = 0; i < channels; ++i) {
        const std::byte* line = in + 4 * ((k + i) * words_all + first);
        for (int64_t c = 0; c < words; ++c)
          block[static_cast<size_t>(c)][static_cast<size_t>(i)] = load<uint32_t>(line + 4 * c);
      }
      for (int64_t c = 0; c < words; ++c) {
        uint8_t* rows = codes + c * kPerWord * k_all + k;
        const uint32_t* column = block[static_cast<size_t>(c)].data();
        int64_t i = 0;
        for (; i + kStep <= channels; i += kStep) codes_of(column + i, rows + i, k_all);
        for (; i < channels; ++i) codes_of_word(column[i], rows + i, k_all);
      }
    }
  });
  return t;
}

}  // namespace metal_marlin
