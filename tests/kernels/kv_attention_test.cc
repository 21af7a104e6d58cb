// Attention over a page of cached keys and values on every instruction set of this machine: against float64, and each
// row with the same bits alone and among others.
#include "kernels/kv_attention.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "core/tensor.h"
#include "kernels/dispatch.h"

namespace metal_marlin {
namespace {

// Chains of at most 256 float32 products, exp within a few units in the last place, scores below 30 in size: an error
// of 30 * 2^-23 in a score is one of that size in its exponential.
constexpr double kTolerance = 2e-5;

struct Page {
  Buffer bytes;
  std::vector<double> keys;    // [position][head_dim]
  std::vector<double> values;  // [position][head_dim]
};

Page make_page(KvType type, int64_t head_dim, uint64_t stream) {
  Random random(5, stream);
  Page page{Buffer(static_cast<size_t>(kv_page_bytes(type, head_dim))), {}, {}};
  const int64_t padded = padded_head_dim(head_dim);
  const int64_t values = kKvPage * head_dim;
  auto* scales = reinterpret_cast<float*>(page.bytes.data() + values + kKvPage * padded);  // of 8 bits
  const auto put = [&](int64_t at, double x, float scale) {
    switch (type) {
      case KvType::kF32:
        reinterpret_cast<float*>(page.bytes.data())[at] = static_cast<float>(x);
        return static_cast<double>(static_cast<float>(x));
      case KvType::kF16: {
        const uint16_t half = f32_to_f16(static_cast<float>(x));
        reinterpret_cast<uint16_t*>(page.bytes.data())[at] = half;
        return static_cast<double>(f16_to_f32(half));
      }
      case KvType::kI8:
        break;
    }
    const auto code = static_cast<int8_t>(std::lround(std::fmin(127.0, std::fmax(-127.0, x * 40))));
    reinterpret_cast<int8_t*>(page.bytes.data())[at] = code;
    return static_cast<double>(code) * scale;
  };
  for (int64_t j = 0; j < kKvPage; ++j) {
    const float key_scale = 0.02f + 0.001f * static_cast<float>(j % 7);
    const float value_scale = 0.03f - 0.001f * static_cast<float>(j % 5);
    if (type == KvType::kI8) {
      scales[j] = key_scale;
      scales[kKvPage + j] = value_scale;
    }
    for (int64_t i = 0; i < head_dim; ++i) page.keys.push_back(put(i * kKvPage + j, random.normal(), key_scale));
    for (int64_t i = 0; i < head_dim; ++i) {
      page.values.push_back(put(values + j * padded + i, random.normal(), value_scale));
    }
  }
  return page;
}

struct Rows {
  int64_t head_dim;
  std::vector<float> q;
  std::vector<int32_t> begin;
  std::vector<int32_t> end;
  std::vector<float> max;
  std::vector<float> sum;
  std::vector<float> out;

  Rows(int64_t rows, int64_t d) : head_dim(d) {
    Random random(6, static_cast<uint64_t>(d));
    for (int64_t i = 0; i < rows * d; ++i) q.push_back(static_cast<float>(random.normal()));
    max.assign(static_cast<size_t>(rows), -std::numeric_limits<float>::infinity());
    sum.assign(static_cast<size_t>(rows), 0.0f);
    out.assign(static_cast<size_t>(rows * padded_head_dim(d)), 0.0f);
    begin.resize(static_cast<size_t>(rows));
    end.resize(static_cast<size_t>(rows));
  }
  // What the rows see of a page: all, a beginning, an end, one position, nothing.
  void see(int64_t page) {
    for (size_t r = 0; r < begin.size(); ++r) {
      const std::pair<int32_t, int32_t> parts[] = {{0, 64}, {0, 17}, {33, 64}, {5, 6}, {20, 20}};
      std::tie(begin[r], end[r]) = parts[(r + static_cast<size_t>(page)) % 5];
    }
  }
  // Rows first .. first + count - 1 over a page.
  void run(const KernelTable& table, const Page& page, KvType type, float scale, float cap, size_t first,
           size_t count) {
    Buffer scratch(static_cast<size_t>(attend_scratch(head_dim)) * 4);
    AttendPage task;
    task.q = q.data() + first * static_cast<size_t>(head_dim);
    task.rows = static_cast<int64_t>(count);
    task.head_dim = head_dim;
    task.page = page.bytes.data();
    task.type = type;
    task.begin = begin.data() + first;
    task.end = end.data() + first;
    task.scale = scale;
    task.cap = cap;
    task.max = max.data() + first;
    task.sum = sum.data() + first;
    task.out = out.data() + first * static_cast<size_t>(padded_head_dim(head_dim));
    task.scratch = reinterpret_cast<float*>(scratch.data());
    table.attend_page(task);
  }
};

class KvAttentionTest : public ::testing::TestWithParam<std::tuple<Isa, KvType>> {};

TEST_P(KvAttentionTest, EqualsSoftmaxInFloat64) {
  const auto [isa, type] = GetParam();
  const KernelTable& table = *kernels(isa);
  for (const int64_t d : {4, 16, 20, 64, 80, 96, 128, 256}) {
    for (const float cap : {0.0f, 20.0f}) {
      const Page pages[] = {make_page(type, d, 1), make_page(type, d, 2), make_page(type, d, 3)};
      const float scale = 1 / std::sqrt(static_cast<float>(d));
      Rows rows(11, d);
      std::vector<std::vector<std::pair<double, const double*>>> seen(11);  // score and value of each row
      for (int64_t p = 0; p < 3; ++p) {
        rows.see(p);
        rows.run(table, pages[p], type, scale, cap, 0, 11);
        for (size_t r = 0; r < 11; ++r) {
          for (int32_t j = rows.begin[r]; j < rows.end[r]; ++j) {
            double score = 0;
            const auto at = static_cast<size_t>(j) * static_cast<size_t>(d);
            for (size_t i = 0; i < static_cast<size_t>(d); ++i) {
              score += static_cast<double>(rows.q[r * static_cast<size_t>(d) + i]) * pages[p].keys[at + i];
            }
            score *= scale;
            if (cap > 0) score = cap * std::tanh(score / cap);
            seen[r].emplace_back(score, pages[p].values.data() + at);
          }
        }
      }
      for (size_t r = 0; r < 11; ++r) {
        double sum = 0;
        std::vector<double> out(static_cast<size_t>(d), 0.0);
        for (const auto& [score, value] : seen[r]) {
          sum += std::exp(score);
          for (size_t i = 0; i < out.size(); ++i) out[i] += std::exp(score) * value[i];
        }
        for (size_t i = 0; i < out.size(); ++i) {
          const float got = rows.out[r * static_cast<size_t>(padded_head_dim(d)) + i] / rows.sum[r];
          EXPECT_NEAR(got, out[i] / sum, kTolerance)
              << "head_dim " << d << " cap " << cap << " row " << r << " at " << i;
        }
        EXPECT_NEAR(std::log(rows.sum[r]) + rows.max[r], std::log(sum), kTolerance * std::max(1.0, std::log(sum)));
      }
    }
  }
}

TEST_P(KvAttentionTest, ARowHasTheSameBitsAloneAndAmongOthers) {
  const auto [isa, type] = GetParam();
  const KernelTable& table = *kernels(isa);
  for (const int64_t d : {16, 64, 80}) {
    const Page pages[] = {make_page(type, d, 1), make_page(type, d, 2)};
    Rows together(kAttendRows, d);
    for (int64_t p = 0; p < 2; ++p) {
      together.see(p);
      together.run(table, pages[p], type, 0.3f, 0, 0, kAttendRows);
    }
    for (const size_t step : {1, 2, 3, 5, 7, 13}) {
      Rows parts(kAttendRows, d);
      for (int64_t p = 0; p < 2; ++p) {
        parts.see(p);
        for (size_t r = 0; r < kAttendRows; r += step) {
          parts.run(table, pages[p], type, 0.3f, 0, r, std::min(step, static_cast<size_t>(kAttendRows) - r));
        }
      }
      EXPECT_EQ(0, std::memcmp(parts.out.data(), together.out.data(), together.out.size() * 4)) << d << " by " << step;
      EXPECT_EQ(parts.sum, together.sum);
      EXPECT_EQ(parts.max, together.max);
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<Isa, KvType>>& info) {
  const char* types[] = {"f32", "f16", "i8"};
  return std::string(isa_name(std::get<0>(info.param))) + "_" + types[static_cast<size_t>(std::get<1>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(All, KvAttentionTest,
                         ::testing::Combine(::testing::ValuesIn(supported_isas()),
                                            ::testing::Values(KvType::kF32, KvType::kF16, KvType::kI8)),
                         name_of);

}  // namespace
}  // namespace metal_marlin
