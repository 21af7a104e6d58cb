// Products with weights of codes: every instruction set of this machine against float64 arithmetic with a derived
// bound, and all of them bit for bit against each other, for any number of rows.
#include "kernels/weight_matrix.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "kernels/code_products.h"
#include "kernels/codes/kernels.h"
#include "kernels/dispatch.h"

namespace metal_marlin {
namespace {

using namespace test;

enum class Zeros : uint8_t { kSame, kFree, kMinima };

struct Case {
  int64_t out;
  int64_t in;
  int64_t group;
  int bits = 4;
  Zeros zeros = Zeros::kSame;
  bool act_order = false;
  bool q_scale = false;
  ScaleType type = ScaleType::kF16;
};

const Case kCases[] = {
    {16, 64, 32},
    {48, 256, 64},
    {33, 128, 128, 4, Zeros::kFree},
    {1, 8, 8},
    {17, 100, 16, 4, Zeros::kFree},  // a short last group, outputs beyond a tile
    {40, 576, 576},                  // per channel, cut into five segments
    {31, 200, 200, 4, Zeros::kFree},
    {20, 144, 72, 4, Zeros::kMinima},  // a segment of 64 and of 8 channels
    {64, 320, 32, 4, Zeros::kMinima},
    {35, 96, 24, 3, Zeros::kFree},
    {50, 256, 128, 8},
    {19, 130, 64, 8, Zeros::kFree},
    {18, 96, 32, 8, Zeros::kMinima},
    {34, 256, 64, 4, Zeros::kFree, true},  // act order
    {16, 90, 32, 4, Zeros::kSame, true, true},
    {24, 128, 64, 4, Zeros::kFree, false, true},  // q_scale
    {33, 192, 64, 4, Zeros::kFree, false, false, ScaleType::kBF16},
    {16, 5, 3, 4, Zeros::kFree},  // odd in everything
    {96, 1536, 64},
};

QuantizedTensor make_tensor(const Case& c, Random& random) {
  QuantizedTensor q;
  q.out_features = c.out;
  q.in_features = c.in;
  q.group_size = c.group;
  q.bits = c.bits;
  q.symmetric = c.zeros == Zeros::kSame;
  q.scale_type = c.type;
  const auto levels = static_cast<uint64_t>(1) << c.bits;
  for (int64_t i = 0; i < c.out * c.in; ++i) q.codes.push_back(static_cast<uint8_t>(random.below(levels)));
  for (int64_t i = 0; i < c.out * q.groups(); ++i) {
    const double scale = (random.uniform() + 0.2) * (random.below(2) == 0 ? -0.02 : 0.02);
    q.scales.push_back(encode_scale(static_cast<float>(scale), c.type));
    q.zeros.push_back(c.zeros == Zeros::kSame     ? static_cast<uint8_t>(levels / 2)
                      : c.zeros == Zeros::kMinima ? 0
                                                  : static_cast<uint8_t>(random.below(levels)));
    if (c.zeros == Zeros::kMinima) q.minima.push_back(encode_scale(static_cast<float>(random.normal() * 0.1), c.type));
  }
  if (c.act_order) {
    for (int64_t k = 0; k < c.in; ++k) q.group_index.push_back(static_cast<int32_t>(k / c.group));
    for (size_t k = q.group_index.size(); k > 1; --k)
      std::swap(q.group_index[k - 1], q.group_index[random.below(static_cast<uint64_t>(k))]);
  }
  return q;
}

std::vector<uint16_t> make_q_scale(const Case& c, Random& random) {
  std::vector<uint16_t> q;
  for (int64_t k = 0; c.q_scale && k < c.in; ++k) q.push_back(f32_to_f16(static_cast<float>(0.5 + random.uniform())));
  return q;
}

Exact exact(const QuantizedTensor& q, std::span<const uint16_t> q_scale, const SegmentPlan& plan, const float* x,
            int64_t n) {
  const auto weight = [&](int64_t c) -> Weight {
    const int64_t g = q.group_index.empty() ? c / q.group_size : q.group_index[static_cast<size_t>(c)];
    const auto at = static_cast<size_t>(n * q.groups() + g);
    const int code = q.codes[static_cast<size_t>(n * q.in_features + c)] - q.zeros[at];
    return {static_cast<double>(code), q.scale(at), q.minimum(at)};
  };
  return test::exact(weight, q_scale, plan, x);
}

TEST(WeightMatrix, CodesAgreeWithFloat64) {
  for (const Case& c : kCases) {
    Random random(3, static_cast<uint64_t>(c.out * 1000 + c.in));
    const QuantizedTensor q = make_tensor(c, random);
    const auto q_scale = make_q_scale(c, random);
    validate(q, "test");
    const WeightMatrix w = WeightMatrix::of_codes(q, 0, c.out, q_scale);
    EXPECT_EQ(w.type(), WeightType::kCodes);
    EXPECT_EQ(w.out_features(), c.out);
    EXPECT_EQ(w.in_features(), c.in);
    constexpr int64_t kRows = 21;
    const auto x = random_rows(kRows * c.in, random);
    for (const CodeKernels& isa : supported_code_kernels()) {
      const auto y = product(isa, w, x.data(), kRows);
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t n = 0; n < c.out; ++n) {
          const Exact e = exact(q, q_scale, *w.plan(), x.data() + r * c.in, n);
          ASSERT_NEAR(y[static_cast<size_t>(r * c.out + n)], e.value, e.bound)
              << isa.name << " [" << c.out << ", " << c.in << "] groups of " << c.group << ", row " << r << ", output "
              << n;
        }
      }
    }
  }
}

TEST(WeightMatrix, SameBitsOnEveryInstructionSetAndForAnyNumberOfRows) {
  for (const Case& c : kCases) {
    Random random(4, static_cast<uint64_t>(c.out * 1000 + c.in));
    const QuantizedTensor q = make_tensor(c, random);
    const WeightMatrix w = WeightMatrix::of_codes(q, 0, c.out, make_q_scale(c, random));
    constexpr int64_t kRows = 150;
    const auto x = random_rows(kRows * c.in, random);
    const auto all = product(scalar(), w, x.data(), kRows);
    for (const CodeKernels& isa : supported_code_kernels()) {
      for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 32, 48, 128, 150}) {
        const auto y = product(isa, w, x.data(), rows);
        ASSERT_EQ(0, std::memcmp(y.data(), all.data(), y.size() * sizeof(float)))
            << isa.name << " [" << c.out << ", " << c.in << "] groups of " << c.group << ", " << rows << " rows";
      }
    }
  }
}

TEST(WeightMatrix, RoundsActivationsAlikeOnEveryInstructionSet) {
  Random random(5, 0);
  constexpr int64_t kSegments = 7;
  for (const int64_t length : {8, 16, 24, 32, 64, 72, 128}) {
    auto x = random_rows(kSegments * length, random);
    std::fill(x.begin(), x.begin() + length, 0.0f);
    x[static_cast<size_t>(length)] = std::numeric_limits<float>::infinity();
    x[static_cast<size_t>(2 * length + 3)] = std::numeric_limits<float>::quiet_NaN();
    for (int64_t i = 0; i < length; ++i) x[static_cast<size_t>(3 * length + i)] = 1e-39f;
    x[static_cast<size_t>(4 * length)] = std::numeric_limits<float>::max();
    std::vector<int8_t> want(x.size());
    std::vector<float> want_scales(kSegments);
    std::vector<int32_t> want_sums(kSegments);
    scalar().round_segments(x.data(), kSegments, length, want.data(), want_scales.data(), want_sums.data());
    EXPECT_EQ(want_scales[0], 0.0f);
    EXPECT_TRUE(std::isnan(want_scales[1]));
    EXPECT_TRUE(std::isnan(want_scales[2]));
    EXPECT_EQ(want_scales[3], 0.0f);
    for (int64_t s = 0; s < kSegments; ++s) {
      const int8_t* codes = want.data() + s * length;
      EXPECT_EQ(want_sums[static_cast<size_t>(s)], std::accumulate(codes, codes + length, 0));
      const float scale = want_scales[static_cast<size_t>(s)];
      for (int64_t i = 0; i < length && s >= 3; ++i) {
        EXPECT_NEAR(codes[i] * static_cast<double>(scale), x[static_cast<size_t>(s * length + i)],
                    0.50001 * scale + 1e-38);
      }
    }
    for (const CodeKernels& isa : supported_code_kernels()) {
      std::vector<int8_t> codes(x.size());
      std::vector<float> scales(kSegments);
      std::vector<int32_t> sums(kSegments);
      isa.round_segments(x.data(), kSegments, length, codes.data(), scales.data(), sums.data());
      EXPECT_EQ(codes, want) << isa.name;
      EXPECT_EQ(sums, want_sums) << isa.name;
      EXPECT_EQ(0, std::memcmp(scales.data(), want_scales.data(), sizeof(float) * kSegments)) << isa.name;
    }
  }
}

// The plan of the memory counts what is held, for each form of codes.
TEST(WeightMatrix, BytesAreThoseOfTheForm) {
  for (const Case& c : kCases) {
    if (c.act_order) continue;  // its groups may be of any size
    Random random(12, 0);
    const WeightMatrix w = WeightMatrix::of_codes(make_tensor(c, random), 0, c.out, make_q_scale(c, random));
    const CodeForm form{c.bits, c.group, c.type == ScaleType::kBF16 ? ScaleForm::kBF16 : ScaleForm::kF16,
                        w.tiles().zeros != nullptr, c.zeros == Zeros::kMinima};
    EXPECT_EQ(w.bytes(), code_bytes(form, c.out, c.in)) << "[" << c.out << ", " << c.in << "] groups of " << c.group;
  }
}

// The largest sums that can occur: all codes and activations at their ends.
TEST(WeightMatrix, SumsDoNotOverflow) {
  for (const int bits : {4, 8}) {
    QuantizedTensor q;
    q.out_features = 16;
    q.in_features = 512;
    q.group_size = 512;
    q.bits = bits;
    q.symmetric = false;
    q.codes.assign(16 * 512, static_cast<uint8_t>((1 << bits) - 1));
    q.scales.assign(16, f32_to_f16(0.5f));
    q.zeros.assign(16, 0);
    const WeightMatrix w = WeightMatrix::of_codes(q);
    for (const float sign : {1.0f, -1.0f}) {
      const std::vector<float> x(20 * 512, sign * 127.0f);
      for (const CodeKernels& isa : supported_code_kernels()) {
        for (const float y : product(isa, w, x.data(), 20))
          EXPECT_EQ(y, sign * 0.5f * 127.0f * 512.0f * static_cast<float>((1 << bits) - 1)) << isa.name;
      }
    }
  }
}

// The other end: what is subtracted is as large as it can be, and the sums of 8-bit codes less 128 are at their least.
TEST(WeightMatrix, LargestZerosDoNotOverflow) {
  for (const int bits : {4, 8}) {
    const int largest = (1 << bits) - 1;
    QuantizedTensor q;
    q.out_features = 18;
    q.in_features = 512;
    q.group_size = 512;
    q.bits = bits;
    q.symmetric = false;
    q.codes.assign(18 * 512, 0);
    q.scales.assign(18, f32_to_f16(0.5f));
    q.zeros.assign(18, static_cast<uint8_t>(largest));
    q.zeros[17] = 0;  // not all the same
    const WeightMatrix w = WeightMatrix::of_codes(q);
    for (const float sign : {1.0f, -1.0f}) {
      const std::vector<float> x(20 * 512, sign * 127.0f);
      for (const CodeKernels& isa : supported_code_kernels()) {
        const auto y = product(isa, w, x.data(), 20);
        for (size_t i = 0; i < y.size(); ++i)
          EXPECT_EQ(y[i], i % 18 == 17 ? 0.0f : -sign * 0.5f * 127.0f * 512.0f * static_cast<float>(largest))
              << isa.name;
      }
    }
  }
}

TEST(WeightMatrix, RowsOfAFusedWeight) {
  Random random(6, 0);
  const QuantizedTensor q = make_tensor({70, 96, 32, 4, Zeros::kFree}, random);
  const auto x = random_rows(3 * 96, random);
  const auto whole = product(scalar(), WeightMatrix::of_codes(q), x.data(), 3);
  const auto part = product(scalar(), WeightMatrix::of_codes(q, 21, 40), x.data(), 3);
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t n = 0; n < 40; ++n)
      EXPECT_EQ(part[static_cast<size_t>(r * 40 + n)], whole[static_cast<size_t>(r * 70 + 21 + n)]);
  }
  EXPECT_THROW(WeightMatrix::of_codes(q, 60, 11), ArgumentError);
  EXPECT_THROW(WeightMatrix::of_codes(q, -1, 5), ArgumentError);
  EXPECT_THROW(WeightMatrix::of_codes(q, 0, 0), ArgumentError);
  std::vector<uint16_t> q_scale(96, f32_to_f16(1.0f));
  q_scale[5] = 0;
  EXPECT_THROW(WeightMatrix::of_codes(q, 0, 70, q_scale), NumericError);
}

TEST(WeightMatrix, RoundedTo8Bits) {
  Random random(7, 0);
  constexpr int64_t kOut = 83;
  constexpr int64_t kIn = 100;
  const auto weight = random_rows(kOut * kIn, random);
  const WeightMatrix w = WeightMatrix::rounded_to_8_bits(kOut, kIn, [&](int64_t first, int64_t count) {
    Matrix rows(count, kIn);
    std::memcpy(rows.data(), weight.data() + first * kIn, static_cast<size_t>(count * kIn) * sizeof(float));
    return rows;
  });
  const auto x = random_rows(2 * kIn, random);
  const auto y = product(code_kernels(), w, x.data(), 2);
  for (int64_t r = 0; r < 2; ++r) {
    for (int64_t n = 0; n < kOut; ++n) {
      double want = 0;
      double bound = 0;
      for (int64_t g = 0; g < kIn; g += 32) {
        double largest_w = 0;
        double largest_x = 0;
        for (int64_t k = g; k < std::min(kIn, g + 32); ++k) {
          largest_w = std::max(largest_w, std::fabs(static_cast<double>(weight[static_cast<size_t>(n * kIn + k)])));
          largest_x = std::max(largest_x, std::fabs(static_cast<double>(x[static_cast<size_t>(r * kIn + k)])));
        }
        for (int64_t k = g; k < std::min(kIn, g + 32); ++k) {
          const double wk = weight[static_cast<size_t>(n * kIn + k)];
          const double xk = x[static_cast<size_t>(r * kIn + k)];
          want += wk * xk;
          // Half a step of each; the weight's scale moves to the nearest f16, by 2^-11 of 127 steps at most.
          const double of_w = largest_w / 127 * (0.5 + 127 * 0x1p-11) * 1.001;
          const double of_x = largest_x / 254 * 1.0001;
          bound += of_w * std::fabs(xk) + of_x * std::fabs(wk) + of_w * of_x;
        }
      }
      EXPECT_NEAR(y[static_cast<size_t>(r * kOut + n)], want, bound + 1e-4);
    }
  }
}

// Floats and codes by one call, on any number of threads, with and without bias.
TEST(WeightMatrix, TasksShareTheirInput) {
  Random random(8, 0);
  const QuantizedTensor a = make_tensor({130, 128, 64, 4, Zeros::kFree}, random);
  const QuantizedTensor b = make_tensor({35, 128, 32, 4, Zeros::kSame}, random);
  const auto floats = random_rows(90 * 128, random);
  const WeightMatrix wa = WeightMatrix::of_codes(a);
  const WeightMatrix wb = WeightMatrix::of_codes(b);
  const WeightMatrix wc(floats.data(), 90, 128, MatmulPrecision::kF32);
  const auto bias = random_rows(130, random);
  for (const int64_t rows : {1, 5, 40}) {
    const auto x = random_rows(rows * 128, random);
    std::vector<std::vector<float>> first;
    for (const int n : {1, 2, 3}) {
      const ThreadCount count(n);
      for (const bool share : {false, true}) {
        std::vector<std::vector<float>> y{std::vector<float>(static_cast<size_t>(rows * 140)),
                                          std::vector<float>(static_cast<size_t>(rows * 35)),
                                          std::vector<float>(static_cast<size_t>(rows * 90))};
        const LinearTask tasks[] = {
            {&wa, bias.data(), y[0].data(), 140}, {&wb, nullptr, y[1].data(), 35}, {&wc, nullptr, y[2].data(), 90}};
        multiply(tasks, x.data(), rows, share);
        if (first.empty()) {
          first = y;
          const auto plain = product(scalar(), wa, x.data(), rows);
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t o = 0; o < 130; ++o) {
              EXPECT_EQ(y[0][static_cast<size_t>(r * 140 + o)],
                        plain[static_cast<size_t>(r * 130 + o)] + bias[static_cast<size_t>(o)]);
            }
          }
          EXPECT_EQ(y[1], product(scalar(), wb, x.data(), rows));
        }
        EXPECT_EQ(y, first) << n << " threads";
      }
    }
  }
}

TEST(CodeKernels, ByName) {
  EXPECT_STREQ(scalar().name, "scalar");
  for (const CodeKernels& row : supported_code_kernels()) {
    EXPECT_STREQ(code_kernels_by_name(row.name).name, row.name);
    EXPECT_STREQ(isa_name(kernels_by_name(row.name).isa), row.floats);
  }
  EXPECT_STREQ(code_kernels_by_name("").name, supported_code_kernels().back().name);
  // A row of float kernels never brings instructions beyond it.
  for (const Isa isa : supported_isas()) {
    const std::string name = isa_name(isa);
    const std::string found = code_kernels_by_name(name).name;
    EXPECT_TRUE(found == "scalar" || found == name || (found == "avx2" && name == "avx512")) << name << found;
  }
  EXPECT_THROW(code_kernels_by_name("sse9"), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin
