#include "quantize/rounding/rounding.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include "quantize/reference.h"
#include "quantize/rounding/rtn.h"

namespace metal_marlin {
namespace {

constexpr int64_t kIn = 64;
constexpr Grid kGrid{4, true, 32};

class RoundingTest : public testing::Test {
 protected:
  Matrix weight_ = reference::normal_matrix(24, kIn, 1, 0.05);
  Matrix gram_ = reference::gram_of(reference::activations(300, kIn, 2));
  GroupRanges ranges_ = group_ranges(weight_, kGrid, {RangeChoice::kGram}, &gram_);

  QuantizedTensor round(const RoundingOptions& options, RefineCounts* counts = nullptr) const {
    const GptqFactor factor = make_gptq_factor(gram_, options.gptq);
    return round_weight(options, weight_, gram_, ranges_, kGrid, options.feedback ? &factor : nullptr, counts);
  }
};

bool same(const QuantizedTensor& a, const QuantizedTensor& b) {
  return a.codes == b.codes && a.scales == b.scales && a.zeros == b.zeros;
}

// The two roundings and the refinement, called by hand.
TEST_F(RoundingTest, IsTheRoundingAskedForAndThenTheRefinement) {
  for (const double damping : {0.01, 0.4}) {
    RoundingOptions options;
    options.gptq.damping = damping;
    EXPECT_TRUE(same(round(options), quantize_rtn(weight_, ranges_, kGrid)));
    options.feedback = true;
    QuantizedTensor by_hand = quantize_gptq(weight_, make_gptq_factor(gram_, options.gptq), ranges_, kGrid);
    EXPECT_TRUE(same(round(options), by_hand));
    const RefineCounts expected = refine(weight_, gram_, by_hand, {.damping = damping});
    options.refine = true;
    RefineCounts counts;
    EXPECT_TRUE(same(round(options, &counts), by_hand));
    EXPECT_GT(expected.changed_codes, 0);
    EXPECT_EQ(counts.changed_codes, expected.changed_codes);
    EXPECT_EQ(counts.refitted_scales, expected.refitted_scales);
  }
}

// Every option of the refinement reaches it; its damping alone is that of the feedback.
TEST_F(RoundingTest, HandsOnTheOptionsOfTheRefinement) {
  RoundingOptions options;
  options.refine = true;
  options.refinement = {.passes = 0, .refit = false, .damping = 77};
  RefineCounts counts;
  EXPECT_TRUE(same(round(options, &counts), quantize_rtn(weight_, ranges_, kGrid)));
  EXPECT_EQ(counts.changed_codes, 0);
  options.refinement = {.passes = 5, .refit = true, .damping = 77};
  QuantizedTensor by_hand = quantize_rtn(weight_, ranges_, kGrid);
  refine(weight_, gram_, by_hand, {.passes = 5, .refit = true, .damping = options.gptq.damping});
  EXPECT_TRUE(same(round(options), by_hand));
}

TEST_F(RoundingTest, RefusesFeedbackWithoutAFactor) {
  RoundingOptions options;
  options.feedback = true;
  EXPECT_THROW(round_weight(options, weight_, gram_, ranges_, kGrid, nullptr), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin
