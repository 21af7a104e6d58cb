// --target-bits, --bits mixed, --linear-bits and inspect --sensitivity, as typed.
#include "command_line.h"

namespace metal_marlin::cli_test {
namespace {

using nlohmann::json;

TEST_F(WholePath, TargetBitsAreKeptAndReported) {
  const std::string options = " --group-size 8 --method rtn --scheme sym --format native --calibration " + text_ +
                              " --samples 8 --sequence-length 32 --sensitivity-tokens 64 --evaluate none ";
  const auto plan = run("quantize " + model_ + " -o " + output_ + options + "--target-bits 6.5 --dry-run");
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_NE(plan.out.find("at most 6.5 bits per weight"), std::string::npos) << plan.out;
  EXPECT_NE(plan.out.find("sensitivity"), std::string::npos) << plan.out;
  const auto outcome = run("quantize " + model_ + " -o " + output_ + options + "--target-bits 6.5 --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json mixed = parsed(outcome.out).at("mixed");
  EXPECT_EQ(mixed["target_bits"], 6.5);
  EXPECT_LE(mixed["bits_per_weight"].get<double>(), 6.5);
  EXPECT_NE(run("report " + output_).out.find("Bits of each linear"), std::string::npos);
  EXPECT_NE(run("report " + output_ + " --html -").out.find("KL estimated then"), std::string::npos);
  const auto by_hand =
      run("quantize " + model_ + " -o " + output_ + options + "--linear-bits '*.down_proj.*=8' --overwrite --json");
  ASSERT_EQ(by_hand.code, 0) << by_hand.err;
  const json linears = parsed(by_hand.out).at("linears");
  for (const json& l : linears) {
    EXPECT_EQ(l["bits"], l["name"].get<std::string>().find("down_proj") != std::string::npos ? 8 : 4);
  }
}

TEST_F(WholePath, WrongMixturesAreRefused) {
  const auto refused = [&](const std::string& options, const std::string& text) {
    const auto outcome =
        run("quantize " + model_ + " -o " + output_ + " --group-size 8 --calibration " + text_ + " " + options);
    EXPECT_EQ(outcome.code, 2) << options;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << options << "\n" << outcome.err;
    EXPECT_TRUE(!fs::exists(output_) || fs::is_empty(output_)) << options;
  };
  refused("--target-bits 1", "--target-bits");
  refused("--bits mixed", "--bits mixed: needs --target-bits X, or --max-kl X");
  refused("--bits 8 --target-bits 4.5 --format native", "--bits 8");
  refused("--linear-bits '*.down_proj.*=8'", "the format awq has one grid for all linears");
  refused("--linear-bits '*.down_proj.*=eight'", "PATTERN=BITS");
}

TEST_F(WholePath, InspectionMeasuresOnlyWhereAsked) {
  const auto idle = run("inspect " + model_ + " --samples 4");
  EXPECT_EQ(idle.code, 2);
  EXPECT_NE(idle.err.find("--samples is of no use without --sensitivity"), std::string::npos) << idle.err;
  const std::string measure = "inspect " + model_ + " --sensitivity --group-size 8 --method rtn --calibration " +
                              text_ + " --samples 8 --sequence-length 32";
  const auto text = run(measure);
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("KL/M weights"), std::string::npos);
  const auto outcome = run(measure + " --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json sensitivity = parsed(outcome.out).at("sensitivity");
  EXPECT_EQ(sensitivity["method"], "rtn");
  EXPECT_FALSE(sensitivity["items"].empty());
}

}  // namespace
}  // namespace metal_marlin::cli_test
