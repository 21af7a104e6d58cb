// convert as its users call it: exit codes, output, and what is left when it refuses.
#include "command_line.h"

namespace metal_marlin::cli_test {
namespace {

class ConvertCommand : public WholePath {
 protected:
  std::string in(const std::string& name) const { return (folder_ / name).string(); }
};

TEST_F(ConvertCommand, WrongUsageIsTwo) {
  for (const auto& [arguments, text] : std::vector<std::pair<std::string, std::string>>{
           {"convert a -o b", "--to"},
           {"convert a --to awq", "--output"},
           {"convert -o b --to awq", "IN is required"},
           {"convert a -o b --to gguf", "native, awq, gptq, gptq_v2, marlin"}}) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
  }
}

// What was measured of the codes holds for them in another format: the card of a conversion, and of one of that, has
// the model's name, its figures and the calibration.
TEST_F(ConvertCommand, CarriesNameFiguresAndCalibrationAlong) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string second = (folder_ / "second").string();
  const std::string third = (folder_ / "third").string();
  ASSERT_EQ(run("convert " + output_ + " -o " + second + " --to gptq_v2").code, 0);
  ASSERT_EQ(run("convert " + second + " -o " + third + " --to native").code, 0);
  for (const std::string& folder : {second, third}) {
    const std::string card = read(fs::path(folder) / "README.md");
    EXPECT_NE(card.find("# llama in 4 bits"), std::string::npos) << card;
    for (const char* part : {"| calibration |", "KL divergence",
                             "| evaluated against the source on | text.txt: 2 chunks of 32 tokens |", "## Use"})
      EXPECT_NE(card.find(part), std::string::npos) << part << "\n" << card;
  }
  // A card that is no card of ours tells nothing.
  std::ofstream(fs::path(second) / "README.md") << "---\nfigures:\n  \"positions\": 3\n---\n# other in 4 bits\n";
  ASSERT_EQ(run("convert " + second + " -o " + third + " --to native --overwrite").code, 0);
  EXPECT_NE(read(fs::path(third) / "README.md").find("# second in 4 bits"), std::string::npos);
}

TEST_F(ConvertCommand, TurnsAResultIntoAnotherFormatThatTheOtherCommandsRead) {
  ASSERT_EQ(run("quantize " + model_ + " -o " + in("awq") +
                " --group-size 8 --scheme sym --method rtn --evaluate none --calibration " + text_ +
                " --samples 2 --sequence-length 32 --quiet")
                .code,
            0);
  const auto made = run("convert " + in("awq") + " -o " + in("gptq") + " --to gptq --json");
  ASSERT_EQ(made.code, 0) << made.err;
  const auto report = parsed(made.out);
  EXPECT_EQ(report["from"], "awq");
  EXPECT_EQ(report["to"], "gptq");
  EXPECT_EQ(report["linears"], 2 * 7);
  EXPECT_EQ(parsed(run("compare " + in("awq") + " " + in("gptq") + " --json").out)["relative_error"], 0.0);
  EXPECT_EQ(parsed(run("inspect " + in("gptq") + " --json").out)["quantization"]["checkpoint_format"], "gptq");
  const std::string answer = " -p 'the cat' -n 6 --temp 0 --ignore-eos";
  EXPECT_EQ(run("generate " + in("gptq") + answer).out, run("generate " + in("awq") + answer).out);
  const std::string evaluation = " --text " + text_ + " --chunks 1 --context 32 --json";
  EXPECT_EQ(parsed(run("evaluate " + in("gptq") + evaluation).out)["model"]["perplexity"],
            parsed(run("evaluate " + in("awq") + evaluation).out)["model"]["perplexity"]);

  const auto again = run("convert " + in("awq") + " -o " + in("gptq") + " --to native");
  EXPECT_NE(again.code, 0);
  EXPECT_NE(again.err.find("--overwrite"), std::string::npos) << again.err;
  const auto quiet = run("convert " + in("awq") + " -o " + in("gptq") + " --to native --overwrite --quiet");
  EXPECT_EQ(quiet.code, 0) << quiet.err;
  EXPECT_TRUE(quiet.out == in("gptq") + "\n" && quiet.err.empty()) << quiet.out << quiet.err;

  const auto refused = run("convert " + in("awq") + " -o " + in("marlin") + " --to marlin");
  EXPECT_EQ(refused.code, 1) << refused.err;
  EXPECT_NE(refused.err.find("_proj.weight"), std::string::npos) << refused.err;
  EXPECT_FALSE(fs::exists(in("marlin")));
  EXPECT_EQ(run("convert " + model_ + " -o " + in("x") + " --to awq").code, 1);
  EXPECT_EQ(run("convert " + in("nothing") + " -o " + in("x") + " --to awq").code, 1);
  EXPECT_FALSE(fs::exists(in("x")));
}

// Who types it wants the checkpoint written anew.
TEST_F(ConvertCommand, IntoTheFormatThatItHasIsARewrite) {
  ASSERT_EQ(run(quantize() + " --format native,awq,gptq_v2 --quiet").code, 0);
  for (const std::string format : {"native", "awq", "gptq_v2"}) {
    const auto outcome = run("convert " + output_ + "/" + format + " -o " + in("again-" + format) + " --to " + format);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(fs::exists(in("again-" + format) + "/config.json"));
  }
  ASSERT_EQ(run("convert " + model_ + " -o " + in("half") + " --to f16 --quiet").code, 0);
  const auto half = run("convert " + in("half") + " -o " + in("again") + " --to f16");
  EXPECT_EQ(half.code, 0) << half.err;
  EXPECT_TRUE(fs::exists(in("again") + "/config.json"));
}

// A model that answers in conversations is asked in one.
TEST_F(ConvertCommand, TheCardOfAChatModelUsesItsTemplate) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  EXPECT_EQ(read(fs::path(output_) / "README.md").find("apply_chat_template"), std::string::npos);
  fs::remove_all(output_);
  model_ = chat_model();
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string card = read(fs::path(output_) / "README.md");
  EXPECT_NE(card.find("tokenizer.apply_chat_template("), std::string::npos) << card;
  EXPECT_NE(card.find("add_generation_prompt=True"), std::string::npos) << card;
  EXPECT_EQ(card.find("The capital of France is\", return_tensors"), std::string::npos) << card;
}

// Blocks without their run.json are still hours of work.
TEST_F(ConvertCommand, NoInterruptedRunIsReplaced) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const fs::path journal = fs::path(in("other")) / ".metal-marlin";
  fs::create_directories(journal);
  std::ofstream(journal / "block-00000.safetensors") << "x";
  for (const std::string how : {"", " --overwrite"}) {
    const auto outcome = run("convert " + output_ + " -o " + in("other") + " --to native" + how);
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_NE(outcome.err.find("interrupted run of quantize"), std::string::npos) << outcome.err;
    EXPECT_TRUE(fs::exists(journal / "block-00000.safetensors"));
  }
}

}  // namespace
}  // namespace metal_marlin::cli_test
