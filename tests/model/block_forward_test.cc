// The forward pass of a block against float64 loops, for each difference between the families; its cache, its hooks,
// and its independence of threads and of other sequences.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cstring>
#include <numeric>

#include "core/threads.h"
#include "kernels/gemm.h"
#include "model/kv_cache.h"
#include "reference.h"

namespace metal_marlin {
namespace {

using testing::Rows;
using testing::TestModel;

// float32 chains of at most 100 products of numbers near 1, through norm, softmax and two residuals.
constexpr double kF32Tolerance = 2e-5;
// Inputs rounded to 8 bits: 2^-9 each, averaged over the sum, through seven linears.
constexpr double kBf16Tolerance = 5e-2;
// Keys rounded by 2^-12 of their size; with q/k norms of weight 2 and 80 dimensions scores reach 36: 36 * 2^-12.
constexpr double kF16CacheTolerance = 9e-3;

const std::vector<int64_t> kLengths = {1, 7, 33, 130, 0, 12, 100};  // around the row blocks, windows, few and many rows

Rows to_rows(const Matrix& m, int64_t first, int64_t count) {
  Rows rows;
  for (int64_t r = first; r < first + count; ++r) rows.emplace_back(m.row(r).begin(), m.row(r).end());
  return rows;
}

int64_t total(const std::vector<int64_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

double largest_difference(const Matrix& m, int64_t first, const Rows& rows) {
  double worst = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < rows[r].size(); ++c) {
      worst = std::max(worst, std::fabs(m(first + static_cast<int64_t>(r), static_cast<int64_t>(c)) - rows[r][c]));
    }
  }
  return worst;
}

class BlockForwardTest : public ::testing::TestWithParam<size_t> {
 protected:
  BlockForwardTest() : model_(std::move(testing::test_models()[GetParam()])) {}
  Matrix input(const std::vector<int64_t>& lengths) const {
    return testing::random_matrix(total(lengths), model_.config.hidden_size, 7, 1.0);
  }
  TestModel model_;
};

TEST_P(BlockForwardTest, EqualsFloat64WithHooks) {
  const Matrix x = input(kLengths);
  Matrix states = x.clone();
  std::array<std::vector<float>, kLinearInputs> inputs;
  BlockForward forward(model_.family, model_.config);
  forward.run(1, model_.block, states, kLengths,
              [&](LinearInput input, const float* data, int64_t rows, int64_t features) {
                auto& t = inputs[static_cast<size_t>(input)];
                t.insert(t.end(), data, data + rows * features);
              });
  Matrix without_hook = x.clone();
  forward.run(1, model_.block, without_hook, kLengths);
  EXPECT_EQ(0, std::memcmp(states.data(), without_hook.data(), static_cast<size_t>(states.size()) * 4));
  int64_t row = 0;
  for (const int64_t n : kLengths) {
    const auto reference = testing::reference_forward(model_, 1, to_rows(x, row, n));
    EXPECT_LT(largest_difference(states, row, reference.states), kF32Tolerance) << n;
    for (size_t t = 0; n > 0 && t < kLinearInputs; ++t) {
      const auto width = static_cast<int64_t>(reference.inputs[t][0].size());
      ASSERT_EQ(static_cast<int64_t>(inputs[t].size()), x.rows() * width);
      Matrix got(x.rows(), width);
      std::copy(inputs[t].begin(), inputs[t].end(), got.data());
      EXPECT_LT(largest_difference(got, row, reference.inputs[t]), kF32Tolerance) << "input " << t << " length " << n;
    }
    row += n;
  }
}

TEST_P(BlockForwardTest, SameBytesWithAnyNumberOfThreads) {
  const Matrix x = input(kLengths);
  BlockForward forward(model_.family, model_.config);
  Matrix one = x.clone();
  {
    const ThreadCount thread_count(1);
    forward.run(0, model_.block, one, kLengths);
  }
  for (const int n : {2, 3}) {
    const ThreadCount thread_count(n);
    Matrix several = x.clone();
    forward.run(0, model_.block, several, kLengths);
    EXPECT_EQ(0, std::memcmp(one.data(), several.data(), static_cast<size_t>(one.size()) * 4)) << n << " threads";
  }
}

TEST_P(BlockForwardTest, OtherSequencesDoNotMatter) {
  const Matrix x = input(kLengths);
  BlockForward forward(model_.family, model_.config);
  Matrix together = x.clone();
  forward.run(0, model_.block, together, kLengths);
  int64_t row = 0;
  for (const int64_t n : kLengths) {
    Matrix alone(n, x.cols());
    for (int64_t r = 0; r < n; ++r) std::copy_n(x.row(row + r).data(), x.cols(), alone.row(r).data());
    forward.run(0, *forward.prepare(model_.block), alone, std::vector<int64_t>{n});
    // Bit for bit where oneDNN's AVX-512 products run (see gemm.h), else within rounding.
    const double bound = gemm_isa_name().starts_with("avx512") ? 0.0 : kF32Tolerance;
    EXPECT_LE(largest_difference(together, row, to_rows(alone, 0, n)), bound) << n;
    row += n;
  }
}

TEST_P(BlockForwardTest, CacheContinuesTheSequence) {
  const std::vector<int64_t> lengths = {41, 3, 20};
  const Matrix x = input(lengths);
  BlockForward forward(model_.family, model_.config);
  Matrix full = x.clone();
  forward.run(0, model_.block, full, lengths);
  for (const auto storage : {KvType::kF32, KvType::kF16}) {
    const double tolerance = storage == KvType::kF32 ? kF32Tolerance : kF16CacheTolerance;
    KvCache cache(model_.config, 3, 41, storage);
    const auto prepared = forward.prepare(model_.block);
    // Prompts of 1, 2 and 10 tokens; then 9 more each at once where there are so many; then one by one.
    std::vector<int64_t> done = {0, 0, 0};
    const std::vector<int64_t> starts = {0, 41, 44};
    const auto step = [&](const std::vector<int64_t>& counts) {
      Matrix part(total(counts), x.cols());
      int64_t row = 0;
      for (size_t s = 0; s < 3; ++s) {
        for (int64_t i = 0; i < counts[s]; ++i, ++row) {
          std::copy_n(x.row(starts[s] + done[s] + i).data(), x.cols(), part.row(row).data());
        }
      }
      forward.run(0, *prepared, part, counts, {}, &cache);
      row = 0;
      for (size_t s = 0; s < 3; ++s) {
        EXPECT_LT(largest_difference(full, starts[s] + done[s], to_rows(part, row, counts[s])), tolerance)
            << "sequence " << s << " after " << done[s];
        row += counts[s];
        done[s] += counts[s];
        EXPECT_EQ(cache.length(0, static_cast<int64_t>(s)), done[s]);
      }
    };
    step({1, 2, 10});
    step({9, 0, 9});
    while (done[0] < 41) step({1, done[1] < 3 ? 1 : 0, done[2] < 20 ? 1 : 0});
    Matrix more(1, x.cols());
    EXPECT_THROW(forward.run(0, *prepared, more, std::vector<int64_t>{1}, {}, &cache), ArgumentError);
    // Truncated and decoded again: the same.
    cache.truncate(0, 30);
    done[0] = 30;
    step({5, 0, 0});
  }
}

TEST_P(BlockForwardTest, Bf16IsClose) {
  const Matrix x = input(kLengths);
  BlockForward exact(model_.family, model_.config);
  BlockForward rounded(model_.family, model_.config, MatmulPrecision::kBF16);
  EXPECT_EQ(rounded.precision() == MatmulPrecision::kBF16, has_bf16_gemm());
  Matrix a = x.clone();
  Matrix b = x.clone();
  exact.run(0, model_.block, a, kLengths);
  rounded.run(0, model_.block, b, kLengths);
  double error = 0;
  double size = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    error += std::pow(a.values()[static_cast<size_t>(i)] - b.values()[static_cast<size_t>(i)], 2);
    size += std::pow(a.values()[static_cast<size_t>(i)], 2);
  }
  EXPECT_LT(std::sqrt(error / size), kBf16Tolerance);
  EXPECT_EQ(error > 0, has_bf16_gemm());
}

INSTANTIATE_TEST_SUITE_P(Families, BlockForwardTest, ::testing::Range(size_t{0}, testing::test_models().size()),
                         [](const auto& model) { return testing::test_models()[model.param].name; });

TEST(BlockForward, LongSequencesInBatchesEqualFloat64) {
  // Beyond a batch of tokens and an attention task; the reference looks at the last rows of the long one only.
  auto models = testing::test_models();
  TestModel& m = models[3];
  m.config.num_attention_heads = 2;
  m.config.num_key_value_heads = 1;
  m.config.sliding_window = {0, 1100};
  m.config.attention_logit_softcapping = 0;
  m.block = Block();
  testing::fill_block(m, false, false, true);
  const std::vector<int64_t> lengths = {1500, 2600, 50};
  const Matrix x = testing::random_matrix(4150, m.config.hidden_size, 9, 1.0);
  BlockForward forward(m.family, m.config);
  for (const int64_t layer : {0, 1}) {
    Matrix states = x.clone();
    int64_t rows_seen = 0;
    forward.run(layer, m.block, states, lengths, [&](LinearInput input, const float*, int64_t rows, int64_t) {
      if (input == LinearInput::kDown) rows_seen += rows;
    });
    EXPECT_EQ(rows_seen, 4150);
    const auto reference = testing::reference_forward(m, layer, to_rows(x, 0, 1500));
    EXPECT_LT(largest_difference(states, 0, reference.states), kF32Tolerance);
    const auto last = testing::reference_forward(m, layer, to_rows(x, 4100, 50));
    EXPECT_LT(largest_difference(states, 4100, last.states), kF32Tolerance);
  }
}

TEST(BlockForward, RefusesContradictions) {
  const auto models = testing::test_models();
  const TestModel& m = models[0];
  BlockForward forward(m.family, m.config);
  Matrix states(5, m.config.hidden_size);
  const std::vector<int64_t> five = {5};
  EXPECT_THROW(forward.run(2, m.block, states, five), ArgumentError);
  EXPECT_THROW(forward.run(0, m.block, states, std::vector<int64_t>{4}), ArgumentError);
  EXPECT_THROW(forward.run(0, m.block, states, std::vector<int64_t>{7, -2}), ArgumentError);
  Matrix narrow(5, 3);
  EXPECT_THROW(forward.run(0, m.block, narrow, five), ArgumentError);
  Block wrong = m.block.clone();
  wrong.linear(LinearKind::kUp).weight = Matrix(8, 8);
  EXPECT_THROW(forward.run(0, wrong, states, five), ArgumentError);
  wrong = m.block.clone();
  wrong.norm(NormKind::kInput).clear();
  EXPECT_THROW(forward.run(0, wrong, states, five), ArgumentError);
  KvCache cache(m.config, 1, 8);
  EXPECT_THROW(forward.run(0, m.block, states, std::vector<int64_t>{2, 3}, {}, &cache), ArgumentError);
  EXPECT_THROW(KvCache(m.config, 0, 8), ArgumentError);
}

TEST(BlockForward, CountsOperations) {
  ModelConfig c = testing::base_config();
  c.sliding_window = {0, 4};
  const BlockForward forward(Family(), c);
  const double weights = 40.0 * (2 * 96 + 2 * 32 + 3 * 72);
  EXPECT_EQ(forward.operations(0, std::vector<int64_t>{6}), 2 * 6 * weights + 4 * 21 * 96);
  EXPECT_EQ(forward.operations(1, std::vector<int64_t>{6, 2}), 2 * 8 * weights + 4 * (1 + 2 + 3 + 4 * 3 + 3) * 96);
}

}  // namespace
}  // namespace metal_marlin
