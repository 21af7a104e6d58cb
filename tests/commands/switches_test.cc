// Stages switched off and on: a method without a stage is the method that never had it, byte for byte.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "commands/model_run_fixture.h"
#include "core/enum_names.h"
#include "core/files/atomic_file.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

class Switches : public ModelRunTest {
 protected:
  QuantizeOptions options(const std::string& method, const std::function<void(QuantizeOptions&)>& change = {}) const {
    QuantizeOptions o = tiny_options();
    o.method = enum_named<Method>(method).value();
    o.scheme = Scheme::kSymmetric;
    o.builtin_share = 0;
    o.evaluation.text = "none";
    if (change) change(o);
    return o;
  }
  std::string weights(const QuantizeOptions& o) {
    const std::string to = out(std::to_string(++runs_));
    report_ = json::parse(quantize_model(model(), to, o).report.to_json());
    return read_text_file(to + "/model.awq.safetensors");
  }
  int runs_ = 0;
  json report_;  // of the last
};

TEST_F(Switches, WithoutAStageAMethodIsTheOneThatHasNone) {
  const std::string gptq_refined = weights(options("gptq", [](QuantizeOptions& o) {
    o.refine = o.signed_scales = o.guard = true;
    o.first_token_weight = 9;
  }));
  EXPECT_EQ(weights(options("awq", [](QuantizeOptions& o) { o.scale_search = false; })), gptq_refined);
  EXPECT_EQ(report_["options"]["scale_search"], false);
  EXPECT_TRUE(report_["scales"].empty());
  const std::string rtn = weights(options("rtn"));
  EXPECT_EQ(weights(options("gptq",
                            [](QuantizeOptions& o) {
                              o.error_feedback = false;
                              o.range = RangeChoice::kAbsmax;
                            })),
            rtn);
  EXPECT_EQ(report_["options"]["error_feedback"], false);
  EXPECT_EQ(weights(options("awq-paper",
                            [](QuantizeOptions& o) {
                              o.scale_search = false;
                              o.clip = false;
                            })),
            rtn);
  const std::string gptq = weights(options("gptq"));
  EXPECT_EQ(weights(options("rtn",
                            [](QuantizeOptions& o) {
                              o.error_feedback = true;
                              o.range = RangeChoice::kGram;
                            })),
            gptq);
  EXPECT_NE(gptq, rtn);
  const std::string awq_nearest = weights(options("awq", [](QuantizeOptions& o) { o.error_feedback = false; }));
  EXPECT_EQ(report_["options"]["guard"], false);  // there is nothing to judge
  EXPECT_EQ(awq_nearest, weights(options("awq", [](QuantizeOptions& o) {
              o.effort = Effort::kFast;
              o.calibration.samples = 16;
            })));
}

TEST_F(Switches, RefuseWhatTheyAreNot) {
  // A text, which was taken once and would convert to true, does not compile.
  static_assert(!std::is_assignable_v<Switch&, const char*> && !std::is_constructible_v<Switch, const char*>);
  EXPECT_THROW(weights(options("awq",
                               [](QuantizeOptions& o) {
                                 o.error_feedback = false;
                                 o.awq_loss = ScaleLoss::kFeedback;
                               })),
               ArgumentError);
}

}  // namespace
}  // namespace metal_marlin
