// A tiny model with a plan, a stream of random tokens, and the statistics of its first block: what the stages of a run
// need, without a run.
#pragma once

#include <gtest/gtest.h>
#include <metal_marlin/quantize.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/random.h"
#include "model/stream.h"
#include "recipe/make_recipe.h"
#include "recipe/presets.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "stages/fold_block.h"
#include "statistics/statistics.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {

class BlockFixture : public ::testing::Test {
 protected:
  explicit BlockFixture(const std::string& model = "llama", Method method = Method::kAwq)
      : source_(ModelSource::open(std::string(TEST_DATA) + "/models/" + model)) {
    options_.method = method;
    options_.group_size = 8;
    options_.formats = {"native"};
    plan();
  }
  // After a change of options_.
  void plan() {
    run_options_ = options_;
    recipe_ = make_recipe(run_options_, *source_);
    recipe_.precision = MatmulPrecision::kF32;
    layers_ = planned_layers(*source_, run_options_, recipe_);
  }
  BlockJob job(int64_t layer = 0) const { return {*source_, recipe_, layers_[static_cast<size_t>(layer)], layer}; }
  TokenSet tokens(size_t sequences, size_t length, uint64_t seed) const {
    TokenSet set;
    Random random(seed);
    for (size_t s = 0; s < sequences; ++s) {
      auto& sequence = set.sequences.emplace_back();
      for (size_t i = 0; i < length; ++i)
        sequence.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(source_->config().vocab_size))));
    }
    return set;
  }
  std::unique_ptr<Stream> stream(const TokenSet& set) const {
    auto out = std::make_unique<Stream>(*source_, set.lengths());
    out->embed(set);
    return out;
  }
  // Of the first block's inputs.
  StatsByInput stats(const TokenSet& set) const {
    StatsCollector collector(true, MatmulPrecision::kF32, set.lengths());
    stream(set)->pass(0, load_block(*source_, 0), collector.hook());
    return collector.finish();
  }
  BlockStats block_stats() const {
    BlockStats out;
    out.calibration = stats(tokens(16, 32, 1));
    out.held_back = stats(tokens(4, 32, 2));
    return out;
  }

  QuantizeOptions options_;      // as a user gives them
  QuantizeOptions run_options_;  // with what follows from the method
  std::unique_ptr<ModelSource> source_;
  Recipe recipe_;
  std::vector<LayerTensors> layers_;
  Observer observer_;
  Tracker tracker_{observer_};
};

inline bool same_values(const Matrix& a, const Matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::equal(a.values().begin(), a.values().end(), b.values().begin());
}

}  // namespace metal_marlin
