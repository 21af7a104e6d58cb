// --calibration several times, with weights, and --select, as typed.
#include "command_line.h"

#include <regex>

#include "options/tables.h"

namespace metal_marlin::cli_test {
namespace {

using nlohmann::json;

TEST_F(WholePath, SeveralCalibrationSourcesAreMixedByTheirWeights) {
  const std::string chats = (folder_ / "chats.jsonl").string();
  std::ofstream stream(chats);
  for (int i = 0; i < 40; ++i)
    stream << R"({"conversations": [{"from": "human", "value": "the dog and the cat sat on the house"}]})" << "\n";
  stream.close();
  const auto outcome =
      run("quantize " + chat_model() + " -o " + output_ + " --group-size 8 --method rtn --calibration " + text_ +
          " --calibration=" + chats +
          " --calibration-weights 1,3 --samples 8 --select 4 --sequence-length 32 --evaluate none --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json calibration = json::parse(outcome.out).at("calibration");
  EXPECT_EQ(calibration["source"], "text.txt, chats.jsonl");  // no folders of this machine
  EXPECT_EQ(calibration["sources"][0]["sequences"], 2);
  EXPECT_EQ(calibration["sources"][1]["sequences"], 6);
  EXPECT_EQ(calibration["selection"]["sequences"].size(), 4U);
  EXPECT_EQ(json::parse(outcome.out).at("options")["calibration_weights"], (json{1.0, 3.0}));
}

TEST_F(WholePath, WrongSourcesAndWeightsAreNamed) {
  const auto refused = [&](const std::string& options, int code, const std::string& text) {
    const auto outcome = run("quantize " + model_ + " -o " + output_ + " --group-size 8 " + options);
    EXPECT_EQ(outcome.code, code) << options;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << options << "\n" << outcome.err;
    EXPECT_TRUE(!fs::exists(output_) || fs::is_empty(output_)) << options;
  };
  const std::string two = "--calibration " + text_ + " --calibration self ";
  refused(two + "--calibration-weights 1,x", 2, "--calibration-weights: ");
  refused(two + "--calibration-weights 1,", 2, "--calibration-weights: ");
  refused(two + "--calibration-weights 1,-2", 2, "--calibration-weights: ");
  refused(two + "--calibration-weights 1,2,3", 2,
          "expected one number for each of the 2 sources, in their order, found 3");
  refused("--select 0", 2, "--select");
  refused("--calibration " + text_ + " --samples 4 --select 5", 2, "--select: expected at most --samples");
  std::ofstream(folder_ / "bad.jsonl") << "{\"text\": \"fine\"}\n{\"texts\": \"the dog\"}\n";
  refused("--calibration " + (folder_ / "bad.jsonl").string(), 1,
          "bad.jsonl:2: expected one of the keys \"messages\", \"conversations\" and \"text\", found none of them (the "
          "first key is \"texts\")");
}

TEST_F(CommandLine, HelpNamesTheSourcesAndTheirDefaults) {
  const auto outcome = run("quantize --help-all");
  EXPECT_EQ(outcome.code, 0);
  for (const char* text :
       {"--calibration self|builtin|FILE", "FILE.jsonl", "--calibration-weights X[,...]", "--select N"}) {
    EXPECT_NE(outcome.out.find(text), std::string::npos) << text << "\n" << outcome.out;
  }
}

// The groups of the table come to the command by themselves.
TEST_F(CommandLine, QuantizeTakesEveryOptionOfItsTable) {
  const std::string help = run("quantize --help-all").out + "\n";
  for (const auto& row : quantize_options().rows()) {
    if (row.name.empty()) continue;
    const std::regex option("(^|\\s|,)--" + row.name + "[^a-z-]");
    EXPECT_TRUE(std::regex_search(help, option)) << row.name << " of the group " << row.group;
  }
}

}  // namespace
}  // namespace metal_marlin::cli_test
