#include "text/selection.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <limits>
#include <optional>

#include "core/random.h"
#include "core/threads.h"

namespace metal_marlin {
namespace {

constexpr double kRounding = 1e-9;  // float64 sums of some hundred terms in another order

Matrix random_profiles(int64_t rows, int64_t columns, uint64_t seed) {
  Random random(seed);
  Matrix m(rows, columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < columns; ++k) m(i, k) = static_cast<float>(std::exp(2 * random.normal()));
  }
  return m;
}

// f by its formula.
double plain_coverage(const Matrix& profiles, const std::vector<int64_t>& rows) {
  double f = 0;
  for (int64_t k = 0; k < profiles.cols(); ++k) {
    double mean = 0;
    for (int64_t i = 0; i < profiles.rows(); ++i) mean += profiles(i, k);
    mean /= static_cast<double>(profiles.rows());
    double sum = 0;
    for (const int64_t i : rows) sum += profiles(i, k);
    f += mean > 0 ? std::log(1 + sum / mean) : 0;
  }
  return f;
}

// The largest f of all subsets of that size.
double best_coverage(const Matrix& profiles, int64_t count) {
  double best = 0;
  for (uint32_t mask = 0; mask < (1U << profiles.rows()); ++mask) {
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < profiles.rows(); ++i) {
      if ((mask >> i & 1U) != 0) rows.push_back(i);
    }
    if (static_cast<int64_t>(rows.size()) == count) best = std::max(best, plain_coverage(profiles, rows));
  }
  return best;
}

TEST(Selection, CoverageIsTheFormula) {
  const Matrix profiles = random_profiles(9, 33, 1);
  EXPECT_NEAR(coverage(profiles, std::vector<int64_t>{4, 0, 7}), plain_coverage(profiles, {0, 4, 7}), kRounding);
}

TEST(Selection, IsTheGreedyChoiceAndNearTheBestOfAllSubsets) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const Matrix profiles = random_profiles(11, 24, seed);
    for (const int64_t count : {1, 3, 6, 11}) {
      const Selection chosen = select_sequences(profiles, count);
      // Every gain computed anew at every step.
      std::vector<int64_t> greedy;
      for (int64_t step = 0; step < count; ++step) {
        int64_t best = -1;
        double best_value = -1;
        for (int64_t i = 0; i < profiles.rows(); ++i) {
          if (std::find(greedy.begin(), greedy.end(), i) != greedy.end()) continue;
          std::vector<int64_t> with = greedy;
          with.push_back(i);
          if (const double v = plain_coverage(profiles, with); v > best_value) {
            best_value = v;
            best = i;
          }
        }
        greedy.push_back(best);
      }
      EXPECT_EQ(chosen.sequences, greedy);
      EXPECT_NEAR(chosen.coverage, plain_coverage(profiles, greedy), kRounding);
      const double best = best_coverage(profiles, count);
      EXPECT_GE(chosen.coverage, (1 - std::exp(-1.0)) * best);
      EXPECT_LE(chosen.coverage, best + kRounding);
      if (count == 1) EXPECT_NEAR(chosen.coverage, best, kRounding);
    }
  }
}

TEST(Selection, PrefersWhatIsNotCoveredYet) {
  // Two strong sequences that excite the same channels, and a weaker one that excites the others.
  Matrix profiles(3, 4);
  const float values[3][4] = {{9, 8, 0, 0}, {9, 7, 0, 0}, {0, 0, 1, 2}};
  for (int64_t i = 0; i < 3; ++i) std::copy_n(values[i], 4, profiles.row(i).data());
  auto two = select_sequences(profiles, 2).sequences;
  std::sort(two.begin(), two.end());
  EXPECT_EQ(two, (std::vector<int64_t>{0, 2}));
}

TEST(Selection, KeepsTheQuotasOfTheGroups) {
  const Matrix profiles = random_profiles(12, 20, 3);
  const std::vector<int64_t> group = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1};
  const Selection chosen = select_sequences(profiles, 5, group, std::vector<int64_t>{2, 3});
  std::vector<int64_t> counts(2, 0);
  for (const int64_t i : chosen.sequences) ++counts[static_cast<size_t>(group[static_cast<size_t>(i)])];
  EXPECT_EQ(counts, (std::vector<int64_t>{2, 3}));
  EXPECT_THROW(select_sequences(profiles, 5, group, std::vector<int64_t>{0, 5}), ArgumentError);
  EXPECT_THROW(select_sequences(profiles, 5, group, std::vector<int64_t>{2, 2}), ArgumentError);
}

TEST(Selection, HandlesChannelsThatHurt) {
  // A channel that is always 0, one that is enormous, equal rows: the earlier ones.
  Matrix profiles(5, 3);
  for (int64_t i = 0; i < 5; ++i) {
    profiles(i, 0) = 0;
    profiles(i, 1) = 1e30F;
    profiles(i, 2) = 1;
  }
  EXPECT_EQ(select_sequences(profiles, 3).sequences, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_TRUE(select_sequences(profiles, 0).sequences.empty());
  EXPECT_THROW(select_sequences(profiles, 6), ArgumentError);
  const Matrix nothing(4, 2);
  EXPECT_EQ(select_sequences(nothing, 2).sequences, (std::vector<int64_t>{0, 1}));
}

TEST(Selection, DoesNotDependOnTheThreads) {
  const Matrix profiles = random_profiles(40, 700, 8);
  std::optional<ThreadCount> thread_count;
  thread_count.emplace(1);
  const auto one = select_sequences(profiles, 9).sequences;
  thread_count.emplace(3);
  EXPECT_EQ(select_sequences(profiles, 9).sequences, one);
  thread_count.reset();
}

// Sequences of 3, 5 and 2 rows, two inputs of 300 (more than a tile) and 2 channels, two blocks, in two batches.
TEST(ProfileCollector, HoldsTheLargestSquareOfEachSequence) {
  const std::vector<int64_t> lengths = {3, 5, 2};
  constexpr int64_t kWide = 300;
  Random random(2);
  ProfileCollector collector(lengths, kWide + 2, 2);
  Matrix expected(3, 2 * (kWide + 2));
  for (int64_t block = 0; block < 2; ++block) {
    for (const auto& [first, last] : {std::pair<int64_t, int64_t>{0, 2}, {2, 3}}) {
      collector.begin_block(block, first);
      int64_t rows = 0;
      for (int64_t i = first; i < last; ++i) rows += lengths[static_cast<size_t>(i)];
      int64_t offset = block * (kWide + 2);
      for (const auto& [input, width] :
           {std::pair<LinearInput, int64_t>{LinearInput::kQkv, kWide}, {LinearInput::kDown, 2}}) {
        Matrix x(rows, width);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t k = 0; k < width; ++k) x(r, k) = static_cast<float>(random.normal());
        }
        int64_t row = 0;
        for (int64_t i = first; i < last; ++i) {
          const int64_t n = lengths[static_cast<size_t>(i)];
          for (int64_t k = 0; k < width; ++k) {
            float most = 0;
            for (int64_t r = 0; r < n; ++r) most = std::max(most, std::fabs(x(row + r, k)));
            expected(i, offset + k) = most * most;
          }
          row += n;
        }
        // As the forward pass delivers them: not always at the borders of sequences.
        const int64_t cut = rows / 2;
        collector.add(input, x.data(), cut, width);
        collector.add(input, x.data() + cut * width, rows - cut, width);
        offset += width;
      }
    }
  }
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t k = 0; k < expected.cols(); ++k) ASSERT_EQ(collector.profiles()(i, k), expected(i, k));
  }
}

TEST(ProfileCollector, RefusesNanAndWrongShapes) {
  const std::vector<float> bad = {1, std::numeric_limits<float>::quiet_NaN()};
  ProfileCollector poisoned({1, 1}, 2, 1);
  poisoned.begin_block(0, 0);
  EXPECT_THROW(poisoned.add(LinearInput::kQkv, bad.data(), 1, 2), NumericError);
  // Also when good values follow.
  for (const float worst : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30F}) {
    const std::vector<float> first = {worst, 1, 2, 3};
    ProfileCollector other({2}, 2, 1);
    other.begin_block(0, 0);
    EXPECT_THROW(other.add(LinearInput::kQkv, first.data(), 2, 2), NumericError) << worst;
  }
  const std::vector<float> good(6, 1.0F);
  ProfileCollector collector({1, 1}, 2, 1);
  collector.begin_block(0, 0);
  EXPECT_THROW(collector.add(LinearInput::kQkv, good.data(), 3, 2), ArgumentError);
  collector.begin_block(0, 0);
  EXPECT_THROW(collector.add(LinearInput::kQkv, good.data(), 1, 3), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin
