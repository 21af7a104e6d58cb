#include "recipe/tensor_plan.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include "recipe/make_recipe.h"
#include "recipe/presets.h"

namespace metal_marlin {
namespace {

TEST(TensorPlan, APlanWithoutAnyLinearIsRefused) {
  const auto source = ModelSource::open(std::string(TEST_DATA) + "/models/llama");
  QuantizeOptions options;
  options.group_size = 8;
  options.formats = {"native"};
  const Recipe recipe = make_recipe(options, *source);
  const auto layers = planned_layers(*source, options, recipe);
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[1].quantized.size(), 7u);
  EXPECT_NO_THROW(require_quantized(*source, layers));
  options.skip = {"*"};
  try {
    require_quantized(*source, planned_layers(*source, options, recipe));
    ADD_FAILURE();
  } catch (const ArgumentError& e) {
    const std::string message = e.what();
    EXPECT_NE(message.find(source->path()), std::string::npos) << message;
    EXPECT_NE(message.find("nothing is left to quantize"), std::string::npos) << message;
    EXPECT_NE(message.find("self_attn.q_proj.weight: --skip"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace metal_marlin
