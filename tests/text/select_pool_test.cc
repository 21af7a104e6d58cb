// The choice of sequences against a greedy search written here, on profiles that the test collects itself.
#include "text/select_pool.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "model/model.h"
#include "stages/block_fixture.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSequences = 12;
constexpr size_t kLength = 16;

class SelectPoolTest : public BlockFixture {
 protected:
  SelectPoolTest() {
    machine_.precision = MatmulPrecision::kF32;
    for (size_t i = 0; i < kSequences; ++i) group_.push_back(static_cast<int64_t>(i % 2));
  }
  PoolSelection select(const std::vector<int64_t>& quota) {
    const std::string scratch = (fs::temp_directory_path() / ("select_pool_" + std::to_string(getpid()))).string();
    return select_pool(*source_, pool_, group_, quota, machine_, scratch, tracker_);
  }
  // The largest square of each channel over a sequence's tokens, for all inputs of all blocks.
  std::vector<std::vector<double>> profiles() const {
    std::vector<std::vector<double>> out(kSequences);
    for (size_t s = 0; s < kSequences; ++s) {
      TokenSet one;
      one.sequences = {pool_.sequences[s]};
      const auto stream = this->stream(one);
      for (int64_t layer = 0; layer < source_->config().num_hidden_layers; ++layer) {
        std::map<LinearInput, std::vector<double>> largest;
        stream->pass(layer, load_block(*source_, layer),
                     [&](LinearInput input, const float* x, int64_t rows, int64_t features) {
                       std::vector<double>& most = largest[input];
                       most.resize(static_cast<size_t>(features));
                       for (int64_t r = 0; r < rows; ++r) {
                         for (int64_t k = 0; k < features; ++k) {
                           const double value = x[r * features + k];
                           most[static_cast<size_t>(k)] = std::max(most[static_cast<size_t>(k)], value * value);
                         }
                       }
                     });
        for (const auto& [input, most] : largest) out[s].insert(out[s].end(), most.begin(), most.end());
      }
    }
    return out;
  }
  static double coverage(const std::vector<std::vector<double>>& profiles, const std::set<size_t>& chosen) {
    double sum = 0;
    for (size_t k = 0; k < profiles[0].size(); ++k) {
      double mean = 0;
      double covered = 0;
      for (size_t s = 0; s < profiles.size(); ++s) {
        mean += profiles[s][k] / static_cast<double>(profiles.size());
        if (chosen.count(s) > 0) covered += profiles[s][k];
      }
      if (mean > 0) sum += std::log1p(covered / mean);
    }
    return sum;
  }

  TokenSet pool_ = tokens(kSequences, kLength, 5);
  std::vector<int64_t> group_;
  MachineOptions machine_;
};

TEST_F(SelectPoolTest, IsTheGreedyChoiceUnderQuotas) {
  const std::vector<int64_t> quota = {3, 2};
  const auto all = profiles();
  std::set<size_t> expected;
  std::vector<int64_t> left = quota;
  while (expected.size() < 5) {
    double best = -1;
    size_t next = 0;
    for (size_t s = 0; s < kSequences; ++s) {
      if (expected.count(s) > 0 || left[static_cast<size_t>(group_[s])] == 0) continue;
      std::set<size_t> with = expected;
      with.insert(s);
      if (const double f = coverage(all, with); f > best) best = f, next = s;
    }
    expected.insert(next);
    --left[static_cast<size_t>(group_[next])];
  }
  const PoolSelection found = select(quota);
  EXPECT_EQ(found.sequences, std::vector<int64_t>(expected.begin(), expected.end()));
  EXPECT_EQ(found.blocks, source_->config().num_hidden_layers);
  std::set<size_t> whole;
  for (size_t s = 0; s < kSequences; ++s) whole.insert(s);
  EXPECT_NEAR(found.coverage, coverage(all, expected) / coverage(all, whole), 1e-4);
}

TEST_F(SelectPoolTest, AWholePoolCoversItself) {
  const PoolSelection all = select({6, 6});
  EXPECT_EQ(all.sequences.size(), kSequences);
  EXPECT_NEAR(all.coverage, 1, 1e-9);
}

// Memory decides where the states are, and nothing else.
TEST_F(SelectPoolTest, DoesNotDependOnMemory) {
  const PoolSelection in_memory = select({2, 2});
  machine_.memory_bytes = 1;
  const PoolSelection spilled = select({2, 2});
  EXPECT_EQ(spilled.sequences, in_memory.sequences);
  EXPECT_EQ(spilled.coverage, in_memory.coverage);
}

TEST_F(SelectPoolTest, StopsWhenTheObserverSaysSo) {
  Observer observer;
  int64_t seen = -1;
  observer.on_progress = [&](const Progress& p) {
    seen = std::max(seen, p.done);
    return p.stage != "select" || p.done < 1;
  };
  Tracker tracker(observer);
  EXPECT_THROW(select_pool(*source_, pool_, group_, {2, 2}, machine_, "", tracker), Interrupted);
  EXPECT_EQ(seen, 1);
}

}  // namespace
}  // namespace metal_marlin
