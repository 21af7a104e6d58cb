// Every float kernel on every instruction set of this machine against float64 arithmetic, with lengths that end inside
// a vector, and the choice of the table's row.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "kernels/dispatch.h"

namespace metal_marlin {
namespace {

constexpr double kRelative = 2e-6;  // float32 exp and tanh within a few units in the last place, sums of <= 1000 terms
const int64_t kSizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 576, 1000};

std::vector<float> random_values(int64_t n, uint64_t stream, double scale = 1.0) {
  Random random(11, stream);
  std::vector<float> v(static_cast<size_t>(n));
  for (auto& x : v) x = static_cast<float>(random.normal() * scale);
  return v;
}

class KernelsTest : public ::testing::TestWithParam<Isa> {
 protected:
  const KernelTable& table_ = *kernels(GetParam());
  static void expect_near(double got, double want, double scale, const char* what, int64_t n) {
    EXPECT_NEAR(got, want, kRelative * std::max(scale, std::fabs(want))) << what << " n=" << n;
  }
};

TEST_P(KernelsTest, RmsNorm) {
  for (const int64_t n : kSizes) {
    for (const float offset : {0.0f, 1.0f}) {
      auto x = random_values(n, 1, 3.0);
      const auto w = random_values(n, 2);
      std::vector<float> y(static_cast<size_t>(n) + 1, -77.0f);
      table_.rms_norm(x.data(), w.data(), offset, 1e-5f, n, y.data());
      double sum = 0;
      for (const float v : x) sum += static_cast<double>(v) * v;
      const double factor = 1 / std::sqrt(sum / static_cast<double>(n) + 1e-5f);
      for (size_t i = 0; i < x.size(); ++i)
        expect_near(y[i], x[i] * factor * (offset + static_cast<double>(w[i])), 1, "norm", n);
      EXPECT_EQ(y.back(), -77.0f);
      table_.rms_norm(x.data(), w.data(), offset, 1e-5f, n, x.data());
      EXPECT_EQ(0, std::memcmp(x.data(), y.data(), x.size() * 4)) << "in place";
    }
  }
  std::vector<float> zero(19, 0.0f);
  const auto w = random_values(19, 3);
  table_.rms_norm(zero.data(), w.data(), 0, 1e-6f, 19, zero.data());
  for (const float v : zero) EXPECT_EQ(v, 0.0f);
}

TEST_P(KernelsTest, Rope) {
  for (const int64_t half : {1, 2, 5, 8, 16, 20, 32, 64}) {
    auto x = random_values(2 * half + 1, 4);
    const auto before = x;
    std::vector<float> c;
    std::vector<float> s;
    for (int64_t i = 0; i < half; ++i) {
      c.push_back(std::cos(0.3f * static_cast<float>(i)));
      s.push_back(std::sin(0.3f * static_cast<float>(i)));
    }
    table_.rope(x.data(), c.data(), s.data(), half);
    for (size_t i = 0; i < static_cast<size_t>(half); ++i) {
      const size_t j = i + static_cast<size_t>(half);
      expect_near(x[i], static_cast<double>(before[i]) * c[i] - static_cast<double>(before[j]) * s[i], 1, "re", half);
      expect_near(x[j], static_cast<double>(before[j]) * c[i] + static_cast<double>(before[i]) * s[i], 1, "im", half);
    }
    EXPECT_EQ(x.back(), before.back());
  }
}

TEST_P(KernelsTest, Softmax) {
  for (const float cap : {0.0f, 2.5f}) {
    for (const int64_t n : kSizes) {
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, n}, {n / 3, n - n / 5}, {n - 1, n}}) {
        auto s = random_values(n + 1, 5, 9.0);
        const auto before = s;
        const float sum = table_.softmax(s.data(), begin, end, n, 0.7f, cap);
        std::vector<double> want(static_cast<size_t>(n), 0.0);
        double largest = -1e30;
        for (int64_t i = begin; i < end; ++i) {
          const auto j = static_cast<size_t>(i);
          want[j] = before[j] * static_cast<double>(0.7f);
          if (cap > 0) want[j] = cap * std::tanh(want[j] / cap);
          largest = std::max(largest, want[j]);
        }
        double total = 0;
        for (int64_t i = begin; i < end; ++i) total += std::exp(want[static_cast<size_t>(i)] - largest);
        // The scores reach 25, where a float32 is 2e-6 wide: so the exponentials differ by as much.
        for (int64_t i = 0; i < n; ++i) {
          const auto j = static_cast<size_t>(i);
          const double p = i >= begin && i < end ? std::exp(want[j] - largest) : 0.0;
          EXPECT_NEAR(s[j], p, 5e-6 * p + 1e-30) << n << " " << i;
        }
        EXPECT_NEAR(sum, total, 5e-6 * total);
        EXPECT_EQ(s.back(), before.back());
      }
    }
  }
  std::vector<float> extreme = {-3e38f, 3e38f, 3e38f, -3e38f, 0.0f, 1.0f, 2.0f, 3.0f, 4.0f};
  EXPECT_EQ(table_.softmax(extreme.data(), 0, 9, 9, 1.0f, 0.0f), 2.0f);
}

TEST_P(KernelsTest, Activations) {
  struct Case {
    const char* name;
    void (*kernel)(const float*, const float*, int64_t, float*) noexcept;
    double (*exact)(double);
  };
  const Case cases[] = {
      {"silu", table_.silu_mul, [](double g) { return g / (1 + std::exp(-g)); }},
      {"gelu", table_.gelu_mul, [](double g) { return 0.5 * g * (1 + std::erf(g / std::sqrt(2.0))); }},
      {"gelu_tanh", table_.gelu_tanh_mul,
       [](double g) { return g / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))); }},
      {"relu", table_.relu_mul, [](double g) { return g > 0 ? g : 0.0; }}};
  for (const auto& c : cases) {
    for (const int64_t n : kSizes) {
      auto gate = random_values(n, 6, 4.0);
      const auto up = random_values(n, 7);
      const float extremes[] = {0.0f, -0.0f, 1e-20f, -1e-20f, 90.0f, -90.0f, -1000.0f, 1000.0f};
      for (size_t i = 0; i < std::min<size_t>(8, gate.size()); ++i) gate[gate.size() - 1 - i] = extremes[i];
      std::vector<float> out(static_cast<size_t>(n) + 1, -77.0f);
      c.kernel(gate.data(), up.data(), n, out.data());
      for (size_t i = 0; i < gate.size(); ++i) expect_near(out[i], c.exact(gate[i]) * up[i], 1e-3, c.name, n);
      EXPECT_EQ(out.back(), -77.0f);
      c.kernel(gate.data(), up.data(), n, gate.data());
      out.pop_back();
      EXPECT_EQ(0, std::memcmp(gate.data(), out.data(), out.size() * 4)) << c.name << " in place";
    }
  }
}

TEST_P(KernelsTest, AddScaleSoftcap) {
  for (const int64_t n : kSizes) {
    const auto x = random_values(n, 8);
    auto y = random_values(n + 1, 9);
    const auto before = y;
    table_.add(x.data(), n, y.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], before[i] + x[i]);
    table_.scale(0.37f, n, y.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], (before[i] + x[i]) * 0.37f);
    auto z = random_values(n + 1, 10, 40.0);
    const auto z0 = z;
    table_.softcap(z.data(), 30.0f, n);
    for (size_t i = 0; i < x.size(); ++i) expect_near(z[i], 30 * std::tanh(z0[i] / 30.0), 1e-3, "cap", n);
    EXPECT_EQ(z.back(), z0.back());
    EXPECT_EQ(y.back(), before.back());
  }
}

TEST_P(KernelsTest, ConversionsEqualTheScalarOnesBitForBit) {
  std::vector<uint16_t> all(65536);
  std::iota(all.begin(), all.end(), uint16_t{0});
  std::vector<float> wide(all.size());
  const auto same = [](float a, float b) {
    return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
  };
  table_.f16_to_f32(all.data(), 65536, wide.data());
  for (size_t i = 0; i < all.size(); ++i) ASSERT_TRUE(same(wide[i], f16_to_f32(all[i]))) << i;
  table_.bf16_to_f32(all.data(), 65536, wide.data());
  for (size_t i = 0; i < all.size(); ++i) ASSERT_TRUE(same(wide[i], bf16_to_f32(all[i]))) << i;
  // Every exponent, with fractions at and around the ties of both formats.
  std::vector<float> x;
  for (uint32_t top = 0; top < 65536; ++top) {
    for (const uint32_t low : {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      x.push_back(std::bit_cast<float>(top << 16 | low));
    }
  }
  std::vector<uint16_t> narrow(x.size());
  table_.f32_to_f16(x.data(), static_cast<int64_t>(x.size()), narrow.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_TRUE(narrow[i] == f32_to_f16(x[i]) || (std::isnan(x[i]) && std::isnan(f16_to_f32(narrow[i])))) << x[i];
  }
  table_.f32_to_bf16(x.data(), static_cast<int64_t>(x.size()), narrow.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(narrow[i], f32_to_bf16(x[i])) << x[i];
}

TEST_P(KernelsTest, AccumulateStats) {
  for (const int64_t rows : {0, 1, 7, 8, 9, 100}) {
    for (const int64_t cols : {1, 3, 8, 17, 70}) {
      const int64_t ld = cols + 5;
      const auto x = random_values(std::max<int64_t>(1, rows) * ld, 12, 2.0);
      const auto n = static_cast<size_t>(cols);
      std::vector<double> sum(n, 0.5);
      std::vector<double> squares(n, 0.25);
      std::vector<float> most(n, 0.125f);
      table_.accumulate_stats(x.data(), rows, cols, ld, sum.data(), most.data(), squares.data());
      for (size_t c = 0; c < n; ++c) {
        double want = 0.5;
        double want2 = 0.25;
        float largest = 0.125f;
        for (int64_t r = 0; r < rows; ++r) {
          const float v = std::fabs(x[static_cast<size_t>(r * ld) + c]);
          want += v;
          want2 += static_cast<double>(v) * v;
          largest = std::max(largest, v);
        }
        expect_near(sum[c], want, 1, "sum", cols);
        expect_near(squares[c], want2, 1, "squares", cols);
        EXPECT_EQ(most[c], largest);
      }
    }
  }
}

TEST_P(KernelsTest, LogitRows) {
  for (const int64_t n : {1, 2, 5, 16, 33, 1000, 49152}) {
    const auto p = random_values(n, 13, 4.0);
    auto q = p;
    const auto noise = random_values(n, 14, 0.03);
    for (size_t i = 0; i < q.size(); ++i) q[i] += noise[i] + 3.0f;  // the shift must not matter
    const auto s = table_.logit_row_stats(p.data(), q.data(), n);
    double zp = 0;
    double zq = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      zp += std::exp(static_cast<double>(p[i]));
      zq += std::exp(static_cast<double>(q[i]));
    }
    double kl = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      kl += std::exp(static_cast<double>(p[i])) / zp * (p[i] - std::log(zp) - (q[i] - std::log(zq)));
    }
    EXPECT_NEAR(s.log_sum_p, std::log(zp), 1e-6);
    EXPECT_NEAR(s.log_sum_q, std::log(zq), 1e-6);
    // The float32 exponents reach 16, half a unit there is 4.8e-7; it is weighted with differences of 0.03, in both
    // rows.
    EXPECT_NEAR(s.kl, kl, 3e-8) << n;
    EXPECT_EQ(s.argmax_p, std::max_element(p.begin(), p.end()) - p.begin());
    EXPECT_EQ(s.argmax_q, std::max_element(q.begin(), q.end()) - q.begin());
    int64_t at = -1;
    EXPECT_EQ(table_.log_sum_exp(p.data(), n, &at), s.log_sum_p);
    EXPECT_EQ(at, s.argmax_p);
    EXPECT_NEAR(table_.logit_row_stats(p.data(), p.data(), n).kl, 0.0, 1e-12);
  }
  std::vector<float> ties(50, -1.0f);
  ties[21] = ties[40] = 2.0f;
  int64_t at = -1;
  table_.log_sum_exp(ties.data(), 50, &at);
  EXPECT_EQ(at, 21);
  std::vector<float> far = {-3e38f, 88.0f, -200.0f};
  EXPECT_NEAR(table_.log_sum_exp(far.data(), 3, &at), 88.0, 1e-6);
}

TEST_P(KernelsTest, SmallGemm) {
  for (const int64_t m : {1, 3, 6, 12, 13, 29}) {
    for (const int64_t n : {1, 7, 16, 32, 33, 52, 64}) {
      for (const int64_t k : {0, 1, 5, 64, 100}) {
        const auto a = random_values(m * (k + 3), 15);
        const auto b = random_values(std::max<int64_t>(1, k) * (n + 2), 16);
        std::vector<float> c(static_cast<size_t>(m * (n + 1)), -77.0f);
        table_.small_gemm(a.data(), k + 3, b.data(), n + 2, c.data(), n + 1, m, n, k);
        std::vector<float> one(static_cast<size_t>(n));
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double want = 0;
            for (int64_t l = 0; l < k; ++l) {
              want += static_cast<double>(a[static_cast<size_t>(i * (k + 3) + l)]) *
                      b[static_cast<size_t>(l * (n + 2) + j)];
            }
            expect_near(c[static_cast<size_t>(i * (n + 1) + j)], want, 10, "gemm", n);
          }
          EXPECT_EQ(c[static_cast<size_t>(i * (n + 1) + n)], -77.0f);
          table_.small_gemm(a.data() + i * (k + 3), k + 3, b.data(), n + 2, one.data(), n, 1, n, k);
          EXPECT_EQ(0, std::memcmp(one.data(), c.data() + i * (n + 1), one.size() * 4)) << "the other rows matter";
        }
      }
    }
  }
}

TEST_P(KernelsTest, RowProducts) {
  for (const int64_t d : {1, 16, 20, 64, 80, 256}) {
    for (const int64_t count : {0, 1, 9}) {
      const int64_t ld = d + 4;
      const auto rows = random_values(std::max<int64_t>(1, count) * ld, 17);
      const auto x = random_values(d, 18);
      const auto p = random_values(count + 1, 19);
      std::vector<float> dots(static_cast<size_t>(count) + 1, -77.0f);
      table_.dot_rows(x.data(), rows.data(), ld, count, d, dots.data());
      EXPECT_EQ(dots.back(), -77.0f);
      std::vector<float> sum(static_cast<size_t>(d) + 1, 0.5f);
      table_.add_weighted_rows(p.data(), rows.data(), ld, count, d, sum.data());
      EXPECT_EQ(sum.back(), 0.5f);
      std::vector<double> want_sum(static_cast<size_t>(d), 0.5);
      for (int64_t r = 0; r < count; ++r) {
        double want = 0;
        for (size_t i = 0; i < x.size(); ++i) {
          const double v = rows[static_cast<size_t>(r * ld) + i];
          want += x[i] * v;
          want_sum[i] += p[static_cast<size_t>(r)] * v;
        }
        expect_near(dots[static_cast<size_t>(r)], want, 10, "dot", d);
      }
      for (size_t i = 0; i < x.size(); ++i) expect_near(sum[i], want_sum[i], 1, "weighted", d);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, KernelsTest, ::testing::ValuesIn(supported_isas()),
                         [](const auto& isa) { return isa_name(isa.param); });

TEST(Dispatch, NamesAndRefusals) {
  EXPECT_EQ(supported_isas().front(), Isa::kScalar);
  EXPECT_EQ(kernels_by_name("").isa, supported_isas().back());
  for (const Isa isa : supported_isas()) EXPECT_EQ(kernels_by_name(isa_name(isa)).isa, isa);
  try {
    kernels_by_name("mmx");
    FAIL() << "an unknown name passed";
  } catch (const ArgumentError& e) {
    EXPECT_NE(std::string(e.what()).find("'mmx'"), std::string::npos) << e.what();
    for (const Isa isa : supported_isas()) EXPECT_NE(std::string(e.what()).find(isa_name(isa)), std::string::npos);
  }
#if defined(__x86_64__)
  EXPECT_THROW(kernels_by_name("neon"), ArgumentError);
  EXPECT_THROW(kernels_by_name("neon_dot"), ArgumentError);
  EXPECT_NE(kernels(Isa::kSse4), nullptr);
  EXPECT_EQ(kernels(Isa::kAvx512) != nullptr, __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"));
#elif defined(__aarch64__)
  EXPECT_THROW(kernels_by_name("avx2"), ArgumentError);
  EXPECT_NE(kernels(Isa::kNeon), nullptr) << "every such processor has NEON";
#endif
}

TEST(AccumulateStats, SameBytesWithAnyNumberOfThreads) {
  std::optional<ThreadCount> thread_count;
  const int64_t rows = 77;
  const int64_t cols = 1001;
  const auto x = random_values(rows * cols, 20);
  std::vector<double> sums[2];
  for (const int n : {1, 2}) {
    thread_count.emplace(n);
    auto& s = sums[n - 1];
    s.assign(2 * 1001, 0.0);
    std::vector<float> most(1001, 0.0f);
    accumulate_stats(x.data(), rows, cols, s.data(), most.data(), s.data() + cols);
  }
  thread_count.reset();
  EXPECT_EQ(0, std::memcmp(sums[0].data(), sums[1].data(), sums[0].size() * 8));
}

}  // namespace
}  // namespace metal_marlin
