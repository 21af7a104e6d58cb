#include "recipe/group_size.h"

#include "recipe/presets.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

namespace metal_marlin {
namespace {

int64_t resolve(const std::string& model, const std::string& size, const std::vector<std::string>& skip = {},
                const std::string& format = "awq") {
  QuantizeOptions o;
  if (size != "auto") o.group_size = std::stoll(size);
  o.skip = skip;
  o.formats = {format};
  return resolve_group_size(*ModelSource::open(std::string(TEST_DATA) + "/models/" + model), o);
}

std::string refusal(const std::string& model, const std::string& size, const std::vector<std::string>& skip = {}) {
  try {
    resolve(model, size, skip);
  } catch (const ArgumentError& e) {
    return e.what();
  }
  return "taken";
}

// in_features of the tiny Llama: 32, and 40 of down_proj.
TEST(GroupSize, AutoAndExplicitSizes) {
  EXPECT_EQ(resolve("llama", "8"), 8);
  EXPECT_EQ(resolve("llama", "-1"), -1);
  EXPECT_EQ(resolve("llama", "auto", {"*down_proj*"}), 32);
  EXPECT_EQ(resolve("llama", "32", {"*down_proj*"}), 32);
  for (const std::string size : {"auto", "16", "32", "64", "40"}) {
    const std::string message = refusal("llama", size);
    EXPECT_NE(message.find("these fit every linear: 8, -1 (one group per row)"), std::string::npos) << message;
  }
  EXPECT_NE(refusal("llama", "16").find("model.layers.0.mlp.down_proj.weight (in_features 40)"), std::string::npos);
  EXPECT_EQ(refusal("llama", "16").find("q_proj"), std::string::npos);    // 16 divides 32
  EXPECT_EQ(refusal("llama", "16").find("layers.1"), std::string::npos);  // each kind once
  EXPECT_NE(refusal("llama", "40").find("q_proj"), std::string::npos);
}

// Gemma 3: in_features 32, 48 of o_proj, and 20 of down_proj, which no layout holds at any size.
TEST(GroupSize, LinearsThatNoLayoutHoldsHaveNoSay) {
  EXPECT_EQ(resolve("gemma3", "16"), 16);
  EXPECT_EQ(resolve("gemma3", "8"), 8);
  for (const std::string size : {"auto", "32"}) {
    const std::string message = refusal("gemma3", size);
    EXPECT_EQ(message.find("down_proj"), std::string::npos) << message;
    EXPECT_NE(message.find("o_proj.weight (in_features 48)"), std::string::npos) << message;
    EXPECT_NE(message.find("these fit every linear: 16, 8, -1"), std::string::npos) << message;
  }
  // With nothing to quantize any size does; that nothing is left is said elsewhere.
  EXPECT_EQ(resolve("llama", "auto", {"*"}), 128);
  EXPECT_EQ(resolve("llama", "64", {"*"}), 64);
}

TEST(GroupSize, NamesWhatIsNoSize) {
  for (const int64_t size : {0, -2, 12}) {
    QuantizeOptions o;
    o.group_size = size;
    try {
      options_in_force(o);
      ADD_FAILURE() << size;
    } catch (const ArgumentError& e) {
      EXPECT_EQ(e.what(),
                "--group-size: expected auto, -1 or a multiple of 8 such as 32, found " + std::to_string(size));
      EXPECT_EQ(e.option(), "group-size");
    }
  }
}

}  // namespace
}  // namespace metal_marlin
