// What the command says when something is not as it should be, and that it fails where it must.
#include <sys/stat.h>

#include <set>
#include <sstream>
#include <vector>

#include "command_line.h"
#include "formats/safetensors.h"

namespace metal_marlin::cli_test {
namespace {

using nlohmann::json;

std::string lines_with(const std::string& text, const std::string& part) {
  std::istringstream lines(text);
  std::string found;
  for (std::string line; std::getline(lines, line);)
    if (line.find(part) != std::string::npos) found += line + "\n";
  return found;
}

TEST_F(CommandLine, ANumberOrSizeThatIsNoneIsNamedWithItsValueAndWhatIsExpected) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"quantize m -o o --memory potato", "--memory", "'potato'"},
      {"quantize m -o o --memory 4XB", "--memory", "'4XB'"},
      {"quantize m -o o --memory -1", "--memory", "'-1'"},
      {"quantize m -o o --memory 4", "did you mean 4GB?", "'4', which is 4 bytes"},
      {"quantize m -o o --memory 512", "did you mean 512MB?", "'512', which is 512 bytes"},
      {"quantize m -o o --memory 700kB", "at least 1 MB", "'700kB', which is 700000 bytes"},
      {"calibrate m -o o.npz --memory 8", "did you mean 8GB?", "--memory"},
      {"evaluate m --text t --memory 2", "did you mean 2GB?", "--memory"},
      {"quantize m -o o --memory 1.2.3GiB", "--memory", "'1.2.3GiB'"},
      {"quantize m -o o --samples many", "--samples", "'many'"},
      {"quantize m -o o --samples 0", "--samples", "'0'"},
      {"quantize m -o o --seed 1.5", "--seed", "'1.5'"},
      {"quantize m -o o --salient-ratio 7", "--salient-ratio", "'7'"},
      {"quantize m -o o --damping none", "--damping", "'none'"},
      {"quantize m -o o --temperature hot", "--temperature", "'hot'"},
      {"quantize m -o o --max-kl low", "--max-kl", "'low'"},
      {"quantize m -o o --threads two", "--threads", "'two'"},
      {"quantize m -o o --group-size 12", "--group-size", "'12'"},
      {"quantize m -o o --method magic", "--method", "'magic'"},
      {"evaluate m --text t --chunks x", "--chunks", "'x'"},
      {"evaluate m --text t --context 1", "--context", "'1'"},
      {"generate m -p a -n x", "--predict", "'x'"},
      {"generate m -p a --temp warm", "--temp", "'warm'"},
  };
  for (const auto& [arguments, option, value] : cases) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    for (const std::string& part : {option, value, std::string("expected ")})
      EXPECT_NE(outcome.err.find(part), std::string::npos) << arguments << "\n" << outcome.err;
  }
}

TEST_F(WholePath, AFullStandardOutputIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string question = (folder_ / "question").string();
  std::ofstream(question) << "hello\n";
  const std::string chat = chat_model();
  for (const std::string& arguments :
       std::vector<std::string>{"--help",
                                "--version",
                                "inspect --help",
                                "help",
                                "man",
                                "completion bash",
                                "man --json",
                                "inspect " + model_,
                                "inspect " + model_ + " --json",
                                "report " + output_,
                                "report " + output_ + " --json",
                                "compare " + model_ + " " + output_,
                                quantize(),
                                quantize() + " --json",
                                quantize() + " --dry-run",
                                "generate " + model_ + " -p 'the cat' -n 2 --ignore-eos",
                                "generate " + model_ + " -p 'the cat' -n 2 --json",
                                "chat " + chat + " -n 2 --ignore-eos",
                                "evaluate " + model_ + " --text " + text_ + " --chunks 1 --context 16",
                                "evaluate " + model_ + " --text " + text_ + " --chunks 1 --context 16 --json"}) {
    const auto outcome = run(arguments + " > /dev/full", question);
    EXPECT_EQ(outcome.code, 1) << arguments << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find("standard output"), std::string::npos) << arguments << "\n" << outcome.err;
  }
}

TEST_F(WholePath, AFullStandardErrorDoesNotStopTheWork) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const std::string line =
      std::string("'") + METAL_MARLIN_BINARY + "' " + quantize() + " --log-level debug > /dev/null 2> /dev/full";
  EXPECT_EQ(std::system(line.c_str()), 0);
  EXPECT_TRUE(fs::exists(fs::path(output_) / "report.json"));
}

TEST_F(WholePath, FaultyTextsAreAFaultOfTheInput) {
  const auto file = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  };
  const std::string empty = file("empty.txt", "");
  const std::string brief = file("brief.txt", "a cat");
  const std::string latin = file("latin.txt", "caf\xe9 au lait");
  for (const std::string& text : {empty, brief, latin, (folder_ / "none.txt").string(), folder_.string()}) {
    for (const std::string& arguments : std::vector<std::string>{
             "quantize " + model_ + " -o " + output_ + " --group-size 8 --calibration " + text,
             "quantize " + model_ + " -o " + output_ + " --group-size 8 --calibration " + text + " --dry-run",
             "quantize " + model_ + " -o " + output_ + " --group-size 8 --calibration " + text_ +
                 " --samples 2 --sequence-length 16 --evaluate " + text,
             "calibrate " + model_ + " -o " + (folder_ / "s.npz").string() + " --calibration " + text,
             "evaluate " + model_ + " --text " + text}) {
      const auto outcome = run(arguments);
      EXPECT_EQ(outcome.code, 1) << arguments << "\n" << outcome.err;
      EXPECT_NE(outcome.err.find(text), std::string::npos) << arguments << "\n" << outcome.err;
    }
    EXPECT_FALSE(fs::exists(fs::path(output_) / ".metal-marlin"));  // no run has begun
    fs::remove_all(output_);
  }
  EXPECT_FALSE(fs::exists(folder_ / "s.npz"));
  for (const std::string& text : {empty, latin, folder_.string()}) {
    const auto outcome = run("generate " + model_ + " -f " + text);
    EXPECT_EQ(outcome.code, 1) << text;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
  }
}

TEST_F(WholePath, EvaluateReadsItsTextBeforeTheModel) {
  const auto outcome = run("evaluate " + (folder_ / "no-model").string() + " --text " + (folder_ / "no-text").string());
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("no-text"), std::string::npos) << outcome.err;
}

TEST_F(WholePath, CalibrateKnowsBeforeAnyWorkThatItsOutputCannotBeWritten) {
  const std::string tail = " --calibration " + text_ + " --samples 2 --sequence-length 16";
  for (const std::string& output :
       {(folder_ / "no" / "such" / "stats.npz").string(), (folder_ / "folder.npz").string()}) {
    fs::create_directory(folder_ / "folder.npz");
    const auto outcome = run("calibrate " + model_ + " -o " + output + tail + " --log-level debug");
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_NE(outcome.err.find(output), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("tokenize"), std::string::npos) << outcome.err;  // the stage that would come next
  }
  const auto outcome = run("calibrate " + model_ + " -o " + (folder_ / "stats.txt").string() + tail);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find(".npz"), std::string::npos) << outcome.err;
}

TEST_F(WholePath, OptionsWithoutEffectAreSaidInOneWarning) {
  const std::string base = "quantize " + model_ + " -o " + output_ + " --group-size 8 --calibration " + text_ +
                           " --samples 4 --sequence-length 32 --evaluate " + text_ +
                           " --chunks 2 --context 32 --method rtn";
  const auto outcome = run(base +
                           " --salient-ratio 0.02 --damping 0.5 --guard on --awq-loss block --activation-method "
                           "max --seed 4 --temperature 0.9 --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::string line = lines_with(outcome.err, "without effect");
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << outcome.err;
  for (const char* name :
       {"--salient-ratio", "--damping", "--guard", "--awq-loss", "--activation-method", "--seed", "--temperature"})
    EXPECT_NE(line.find(name), std::string::npos) << name << "\n" << line;
  for (const char* name : {"--samples (", "--chunks (", "--group-size (", "--method ("})
    EXPECT_EQ(line.find(name), std::string::npos) << name << "\n" << line;
  const json warnings = parsed(outcome.out)["warnings"];
  // The others: calibrated and evaluated on one text, and a source in float32 written in 16 bits.
  ASSERT_EQ(warnings.size(), 3U) << warnings;
  EXPECT_NE(line.find(warnings[1].get<std::string>()), std::string::npos) << warnings;
  EXPECT_NE(run("report " + output_).out.find("without effect"), std::string::npos);
  // They are not what makes another run of it.
  const auto again = run(base + " --seed 5");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.err.find("nothing was left to do"), std::string::npos) << again.err;
  EXPECT_EQ(run(base + " --scheme sym").code, 2);  // this would be
  // Nothing to say where all options are used, or left alone.
  fs::remove_all(output_);
  EXPECT_EQ(lines_with(run(base).err, "without effect"), "");
  fs::remove_all(output_);
  const auto gptq = run(base.substr(0, base.size() - 3) + "gptq --damping 0.02 --no-act-order --dry-run");
  EXPECT_EQ(gptq.code, 0) << gptq.err;
  EXPECT_EQ(lines_with(gptq.err, "without effect"), "");
  const auto planned = run(base + " --damping 0.5 --dry-run --json");
  EXPECT_NE(lines_with(planned.err, "without effect").find("--damping"), std::string::npos) << planned.err;
  EXPECT_EQ(parsed(planned.out)["warnings"].size(), 3U);  // as the run
  const auto stats = run("calibrate " + model_ + " -o " + (folder_ / "s.npz").string() + " --calibration " + text_ +
                         " --samples 2 --sequence-length 16 --seed 1");
  EXPECT_NE(lines_with(stats.err, "without effect").find("--seed"), std::string::npos) << stats.err;
}

TEST_F(WholePath, AGroupSizeThatFailsIsAnsweredWithSizesThatWork) {
  const std::string base = "quantize " + model_ + " -o " + output_ + " --calibration " + text_ +
                           " --samples 2 --sequence-length 16 --evaluate none --group-size ";
  for (const std::string size : {"auto", "64", "24"}) {  // in_features are 32 and 40
    const auto outcome = run(base + size);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find("down_proj"), std::string::npos) << outcome.err;
    const size_t at = outcome.err.find("these fit every linear: ");
    ASSERT_NE(at, std::string::npos) << outcome.err;
    std::istringstream sizes(outcome.err.substr(at + std::string("these fit every linear: ").size()));
    int tried = 0;
    for (std::string word; std::getline(sizes, word, ',');) {
      const auto advised = run(base + std::to_string(std::stoi(word)) + " --dry-run --json");
      EXPECT_EQ(advised.code, 0) << word << "\n" << advised.err;
      EXPECT_EQ(parsed(advised.out)["quantized"].size(), 14U) << word;
      ++tried;
    }
    EXPECT_GE(tried, 2);
  }
  // Hidden 20: no layout holds those linears, whatever the size. The others decide.
  const std::string gemma = std::string(TEST_DATA) + "/models/gemma3-pattern";
  const auto outcome = run("quantize " + gemma + " -o " + output_ + " --calibration " + text_ +
                           " --samples 2 --sequence-length 16 --evaluate none --dry-run --json --group-size 8");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const json plan = parsed(outcome.out);
  for (const json& s : plan["skipped"]) EXPECT_FALSE(s["reason"].get<std::string>().empty());
  for (const json& q : plan["quantized"]) EXPECT_EQ(q["shape"][1].get<int>() % 8, 0) << q;
}

// The bytes of a name are no text that must be UTF-8.
TEST_F(WholePath, AFolderMayHaveAnyName) {
  const std::string name = (folder_ / "caf\xe9 x").string();
  fs::copy(model_, name);
  model_ = "'" + name + "'";
  output_ = "'" + name + "-out'";
  const auto made = run(quantize() + " --json");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_TRUE(parsed(made.out).is_object());
  EXPECT_EQ(run("report " + output_).code, 0);
  EXPECT_TRUE(parsed(run("inspect " + output_ + " --json").out).is_object());
  EXPECT_TRUE(parsed(run("compare " + model_ + " " + output_ + " --json").out).is_object());
}

TEST_F(WholePath, WhenNothingIsLeftNothingIsDone) {
  for (const char* how : {"", " --dry-run"}) {
    const auto outcome = run("quantize " + model_ + " -o " + output_ + " --skip '*' --log-level debug" + how);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find("nothing is left to quantize"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("self text"), std::string::npos) << outcome.err;
    EXPECT_FALSE(fs::exists(output_));
  }
}

TEST_F(WholePath, ChatSaysBeforeLoadingThatThereIsNoTemplate) {
  const auto outcome = run("chat " + model_);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("chat template"), std::string::npos) << outcome.err;
}

TEST_F(WholePath, ChatTakesAnyLineEndAndGoesOnAfterALineThatIsTooLong) {
  const std::string model = chat_model();
  const auto chat = [&](const std::string& lines) {
    const std::string script = (folder_ / "script").string();
    std::ofstream(script, std::ios::binary) << lines;
    return run("chat " + model + " -n 4 -c 64 --temp 0 --ignore-eos", script);
  };
  const Outcome plain = chat("hello\nagain\n");
  EXPECT_EQ(plain.code, 0) << plain.err;
  const Outcome windows = chat("hello\r\nagain\r\n");
  EXPECT_EQ(windows.out, plain.out);
  // A mark that an editor puts before a text is no part of it.
  EXPECT_EQ(chat("\xEF\xBB\xBFhello\r\nagain\r\n").out, plain.out);
  const Outcome with_long = chat("hello\n" + std::string(5000, 'a') + "\nagain\n");
  EXPECT_EQ(with_long.out, plain.out);
  EXPECT_EQ(with_long.code, 1);  // the command line is right
  EXPECT_NE(with_long.err.find("the line is left out"), std::string::npos) << with_long.err;
  std::ofstream(model + "/chat_template.jinja") << "{% if %}";
  const Outcome broken = chat("hello\n");
  EXPECT_EQ(broken.code, 1);
  EXPECT_NE(broken.err.find("chat_template.jinja: the template cannot be parsed"), std::string::npos) << broken.err;
}

TEST_F(WholePath, APromptThatIsTooLongIsAFaultOfTheInputAndSamplingThatCannotBeOneOfTheOptions) {
  const std::string prompt = (folder_ / "prompt").string();
  std::ofstream(prompt) << std::string(5000, 'a');
  const Outcome too_long = run("generate " + model_ + " --file " + prompt + " -n 4 -c 64");
  EXPECT_EQ(too_long.code, 1) << too_long.err;
  EXPECT_NE(too_long.err.find("tokens, the context 64"), std::string::npos) << too_long.err;
  const std::string chat = chat_model();
  for (const std::string& command : {"generate " + model_ + " -p 'the cat'", "chat " + chat}) {
    for (const std::string option : {"--stop ''", "--top-p 0"}) {
      const Outcome refused = run(command + " " + option, prompt);
      EXPECT_EQ(refused.code, 2) << command << option << refused.err;
      EXPECT_NE(refused.err.find(option.substr(0, option.find(' '))), std::string::npos) << refused.err;
    }
  }
}

TEST_F(WholePath, APromptLosesItsByteOrderMark) {
  const auto continued = [&](const std::string& content) {
    const std::string prompt = (folder_ / "prompt").string();
    std::ofstream(prompt, std::ios::binary) << content;
    return run("generate " + model_ + " --file " + prompt + " -n 4 --temp 0 --ignore-eos");
  };
  const Outcome plain = continued("the cat");
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(continued("\xEF\xBB\xBFthe cat").out, plain.out);
  EXPECT_EQ(continued("\xEF\xBB\xBF").code, 1);
}

TEST_F(WholePath, TensorsWithoutAPlaceAreSaidOrRefused) {
  const std::string other = (folder_ / "other").string();
  fs::copy(model_, other);
  const SafetensorsFile source((fs::path(model_) / "model.safetensors").string());
  const auto with = [&](const std::string& name) {
    std::vector<TensorView> tensors = source.tensors();
    TensorView more = source.get("model.norm.weight");
    more.name = name;
    tensors.push_back(more);
    write_safetensors((fs::path(other) / "model.safetensors").string(), tensors);
    return run("quantize " + other + " -o " + output_ +
               " --overwrite --group-size 8 --method rtn --evaluate none --json");
  };
  const Outcome refused = with("model.layers.0.self_attn.q_norm.weight");
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.err.find("model.layers.0.self_attn.q_norm.weight) has no place in the family llama"),
            std::string::npos)
      << refused.err;
  const Outcome said = with("mtp.norm.weight");
  ASSERT_EQ(said.code, 0) << said.err;
  EXPECT_NE(lines_with(said.err, "1 of mtp"), "") << said.err;
  EXPECT_NE(parsed(said.out)["warnings"].dump().find("1 of mtp"), std::string::npos);
}

TEST_F(WholePath, ContextsBeyondTheModelsPositionsAreWarnedOf) {
  const std::string question = (folder_ / "question").string();
  std::ofstream(question) << "hello\n";
  const auto warned = [](const Outcome& outcome) { return lines_with(outcome.err, "max_position_embeddings"); };
  EXPECT_NE(warned(run("generate " + model_ + " -p 'the cat' -n 80 -c 100 --ignore-eos")), "");
  EXPECT_EQ(warned(run("generate " + model_ + " -p 'the cat' -n 8 --ignore-eos")), "");
  EXPECT_NE(warned(run("chat " + chat_model() + " -n 80 -c 100 --ignore-eos", question)), "");
  EXPECT_NE(warned(run("evaluate " + model_ + " --text " + text_ + " --chunks 1 --context 65")), "");
  EXPECT_EQ(warned(run("evaluate " + model_ + " --text " + text_ + " --chunks 1 --context 64")), "");
  const std::string base =
      "quantize " + model_ + " -o " + output_ + " --group-size 8 --method rtn --samples 2 --sequence-length ";
  for (const std::string how : {" --dry-run", ""}) {
    const std::string text = " --calibration " + text_;
    EXPECT_EQ(warned(run(base + "64 --evaluate none" + text + how)), "") << how;
    EXPECT_NE(warned(run(base + "65 --evaluate none --overwrite" + text + how)), "") << how;
    EXPECT_NE(warned(run(base + "64 --overwrite --context 65 --chunks 1 --evaluate " + text_ + text + how)), "") << how;
  }
  EXPECT_NE(warned(run(base + "65 --overwrite --dry-run")), "");               // of the model's own text
  EXPECT_EQ(warned(run(base + "64 --context 65 --overwrite --dry-run")), "");  // which --context does not concern
}

TEST_F(WholePath, SamplingOptionsThatGreedyChoiceIgnoresAreSaid) {
  const auto idle = run("generate " + model_ + " -p 'the cat' -n 2 --temp 0 --top-k 50 --seed 1 --ignore-eos");
  EXPECT_EQ(idle.code, 0);
  const std::string line = lines_with(idle.err, "without effect");
  for (const char* name : {"--top-k", "--seed", "--temp 0"}) EXPECT_NE(line.find(name), std::string::npos) << idle.err;
  EXPECT_EQ(line.find("--top-p"), std::string::npos) << line;
  EXPECT_EQ(lines_with(run("generate " + model_ + " -p 'the cat' -n 2 --top-k 50 --seed 1").err, "without effect"), "");
  EXPECT_EQ(lines_with(run("generate " + model_ + " -p 'the cat' -n 2 --temp 0").err, "without effect"), "");
  const std::string question = (folder_ / "question").string();
  std::ofstream(question) << "hello\nagain\n";
  const std::string said =
      lines_with(run("chat " + chat_model() + " -n 2 --temp 0 --min-p 0.1", question).err, "--min-p");
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST_F(WholePath, OptionsOfTheCommandAloneAreWarnedOfLikeTheOthers) {
  const std::string generate = "generate " + model_ + " -p 'the cat' -n 2";
  EXPECT_EQ(lines_with(run(generate + " --stats").err, "without effect"), "");
  EXPECT_NE(run(generate + " --batch 4").err.find("without effect: --batch (only --input uses it)"), std::string::npos);
  const std::string input = (folder_ / "in.jsonl").string();
  std::ofstream(input) << R"({"prompt": "the cat", "max_tokens": 2})" << "\n";
  const auto many = run("generate " + model_ + " --input " + input + " --output " + (folder_ / "out.jsonl").string() +
                        " --batch 2 --stats");
  EXPECT_EQ(many.code, 0) << many.err;
  EXPECT_NE(many.err.find("without effect: --stats ("), std::string::npos) << many.err;
  EXPECT_EQ(many.err.find("--batch"), std::string::npos) << many.err;
  const std::string quantize = "quantize " + model_ + " -o " + output_ + " --group-size 8 --method rtn --calibration " +
                               text_ + " --samples 4 --sequence-length 32 --evaluate none --verbose";
  EXPECT_NE(run(quantize + " --json").err.find("without effect: --verbose ("), std::string::npos);
  EXPECT_NE(run(quantize + " --dry-run").err.find("without effect: --verbose ("), std::string::npos);
  EXPECT_EQ(lines_with(run(quantize).err, "without effect"), "");
}

// One rule for command, library and Python, which is known before the model is opened.
TEST_F(CommandLine, ALimitNeedsATextToJudgeBy) {
  const auto outcome = run("quantize m -o o --evaluate none --max-kl 0.1");
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  EXPECT_NE(outcome.err.find("--max-kl: there is no text to judge by"), std::string::npos) << outcome.err;
}

TEST_F(WholePath, AReferenceOfAnotherTokenizerIsRefused) {
  const std::string tail = " --text " + text_ + " --chunks 1 --context 16";
  const auto refused = run("evaluate " + model_ + " --reference " + std::string(TEST_DATA) + "/models/mistral" + tail);
  EXPECT_EQ(refused.code, 1) << refused.err;
  EXPECT_NE(refused.err.find("tokenizer"), std::string::npos) << refused.err;
  // The same tokenizer in a model of another family: possible, and said.
  const auto other = run("evaluate " + model_ + " --reference " + std::string(TEST_DATA) + "/models/qwen2" + tail);
  EXPECT_EQ(other.code, 0) << other.err;
  EXPECT_NE(lines_with(other.err, "family").find("qwen2"), std::string::npos) << other.err;
  const auto same = run("evaluate " + model_ + " --reference " + model_ + tail);
  EXPECT_EQ(same.code, 0);
  EXPECT_EQ(lines_with(same.err, "warning"), "") << same.err;
}

TEST_F(WholePath, StatisticsOfAnotherModelAreRefusedByName) {
  const std::string stats = (folder_ / "stats.npz").string();
  ASSERT_EQ(
      run("calibrate " + model_ + " -o " + stats + " --calibration " + text_ + " --samples 4 --sequence-length 32")
          .code,
      0);
  const std::string tail = " -o " + output_ + " --group-size 8 --evaluate none --json --calibration " + stats;
  // All shapes are the same; only the weights and the name are not.
  const std::string twin = (folder_ / "twin").string();
  fs::copy(model_, twin);
  std::fstream weights(fs::path(twin) / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  weights.seekg(0, std::ios::end);
  const auto size = static_cast<int64_t>(weights.tellg());
  for (int64_t at = size / 2; at < size; at += 64) {
    weights.seekp(at);
    weights.put('\x3c');
  }
  weights.close();
  const auto refused = run("quantize " + twin + tail);
  EXPECT_EQ(refused.code, 1) << refused.err;
  EXPECT_NE(refused.err.find("twin"), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("llama (llama"), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find(stats), std::string::npos) << refused.err;
  EXPECT_FALSE(fs::exists(fs::path(output_) / "config.json"));
  EXPECT_EQ(run("quantize " + twin + tail + " --dry-run").code, 1);
  const auto taken = run("quantize " + model_ + tail);
  ASSERT_EQ(taken.code, 0) << taken.err;
  EXPECT_EQ(parsed(taken.out)["calibration"]["tokens"], 4 * 32);
  EXPECT_NE(run("report " + output_).out.find("128 tokens"), std::string::npos);
}

TEST_F(WholePath, LayersThatTheConfigDoesNotCountAreSaid) {
  const std::string cut = (folder_ / "cut").string();
  fs::copy(model_, cut);
  json config = parsed(read(fs::path(cut) / "config.json"));
  config["num_hidden_layers"] = 1;
  std::ofstream(fs::path(cut) / "config.json") << config.dump();
  const auto inspected = run("inspect " + cut);
  EXPECT_EQ(inspected.code, 0) << inspected.err;
  EXPECT_NE(lines_with(inspected.out, "num_hidden_layers 1").find("model.layers.1."), std::string::npos)
      << inspected.out;
  const json listed = parsed(run("inspect " + cut + " --json").out);
  std::set<std::string> surplus;
  for (const json& s : listed["skipped"]) {
    if (s["reason"].get<std::string>().find("num_hidden_layers 1") == std::string::npos) continue;
    EXPECT_TRUE(surplus.insert(s["name"].get<std::string>()).second) << s;  // each once
  }
  EXPECT_EQ(surplus.size(), 9U);  // seven linears, two norms
  const auto made = run("quantize " + cut + " -o " + output_ + " --group-size 8 --calibration " + text_ +
                        " --samples 2 --sequence-length 16 --evaluate none --json");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_NE(lines_with(made.err, "num_hidden_layers 1"), "") << made.err;
  std::set<std::string> skipped;
  const json report = parsed(made.out);
  for (const json& s : report["skipped"]) skipped.insert(s["name"].get<std::string>());
  EXPECT_TRUE(skipped.count("model.layers.1.mlp.up_proj.weight"));
  EXPECT_NE(
      lines_with(run("evaluate " + cut + " --text " + text_ + " --chunks 1 --context 16").err, "num_hidden_layers 1"),
      "");
  const json written = parsed(run("inspect " + output_ + " --tensors --json").out);
  for (const json& t : written["tensors"])
    EXPECT_EQ(t["name"].get<std::string>().find("layers.1."), std::string::npos) << t;
}

TEST_F(WholePath, DamagedReportsAreSaidToBeDamaged) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string whole = read(fs::path(output_) / "report.json");
  const std::string path = (folder_ / "other.json").string();
  const auto shows = [&](const std::string& text, const std::string& part) {
    std::ofstream(path, std::ios::binary) << text;
    for (const std::string& how : {std::string(), " --html " + (folder_ / "page.html").string()}) {
      const auto outcome = run("report " + path + how);
      EXPECT_EQ(outcome.code, 1) << text.substr(0, 80);
      EXPECT_NE(outcome.err.find(path), std::string::npos) << outcome.err;
      EXPECT_NE(outcome.err.find(part), std::string::npos) << part << "\n" << outcome.err;
      EXPECT_EQ(outcome.err.find("json.exception"), std::string::npos) << outcome.err;
    }
    EXPECT_FALSE(fs::exists(folder_ / "page.html"));
  };
  shows("", "expected a report that quantize wrote, found an empty file");
  shows(whole.substr(0, whole.size() / 2), "found the end of the text");
  shows("[1, 2]", "other JSON");
  shows("{\"model_type\": \"llama\"}", "other JSON");
  json report = parsed(whole);
  const auto with = [&](const char* pointer, const json& value) {
    json changed = report;
    changed[json::json_pointer(pointer)] = value;
    return changed.dump();
  };
  shows(with("/schema", 99), "schema");
  shows(with("/model/bytes", "many"), "model/bytes");
  shows(with("/linears/0/weight_error", nullptr), "linears/0/weight_error");
  shows(with("/linears/0", 5), "linears/0: expected an object, found 5");
  shows(with("/run/stages", json::array()), "run/stages");
  shows(with("/skipped", {1}), "skipped/0: expected an object, found 1");
  shows(with("/clamped", {1}), "clamped/0: expected an object");
  shows(with("/kept_in_16_bits", {1}), "kept_in_16_bits");
  shows(with("/gate/max_kl", 0.1), "gate/passed");
  shows(with("/calibration/few_tokens", {1}), "calibration/few_tokens/0: expected an object");
  shows(with("/rounding_choice", {{"sequences", 1}}), "rounding_choice/refined");
  shows(with("/run/peak_memory_bytes", -0.5), "run/peak_memory_bytes");
  json shorter = report;
  shorter["model"].erase("kl_divergence");
  shows(shorter.dump(), "model/kl_divergence: expected an object, found nothing");
  // A folder without one.
  const auto none = run("report " + folder_.string());
  EXPECT_EQ(none.code, 1);
  EXPECT_NE(none.err.find("no report.json"), std::string::npos) << none.err;
}

TEST_F(WholePath, ListsOfTheReportHaveTitlesAndNoRawJson) {
  ASSERT_EQ(run(quantize() + " --quiet --skip '*.layers.0.mlp.up_proj*'").code, 0);
  const std::string path = (fs::path(output_) / "report.json").string();
  json report = parsed(read(path));
  report["clamped"] = {{{"name", "a.norm"}, {"format", "awq"}, {"clamped", 2}, {"flushed", 1}, {"largest", 1e6}},
                       {{"name", "b.up_proj"}, {"raised_scales", 3}, {"clamped_scales", 0}}};
  report["warnings"] = {"something <odd>"};
  report["calibration"]["few_tokens"] = {{{"name", "c.down_proj"}, {"tokens", 512}, {"in_features", 1536}}};
  report["rounding_choice"] = {{"sequences", 2}, {"refined", 10},  {"feedback", 3},
                               {"nearest", 1},   {"fallbacks", 4}, {"damping", {{"0.1", 9}, {"1", 3}, {"0.01", 1}}}};
  const std::string choice =
      "Rounding chosen on 2 sequences of the validation split: 10 refined, 3 with feedback only, 1 to nearest (4 with "
      "less than the "
      "recipe's steps); "
      "damping 0.01 for 1, 0.1 for 9, 1 for 3";
  std::ofstream(path) << report.dump();
  const std::string clamped =
      "values beyond the largest float16, clamped: 2 (largest 1e+06), values too small for a float16, now 0: 1";
  const auto text = run("report " + output_).out;
  for (const std::string& part :
       {std::string("Skipped: not quantized, and why (2)\n  model.layers.0.mlp."),
        std::string("Warnings (1)\n  something <odd>\n"),
        "Clamped or flushed: beyond the range of float16 (2)\n  a.norm: " + clamped +
            "\n  b.up_proj: scales below the least normal float16, raised to it: 3\n",
        std::string("model.layers.*.input_layernorm.weight (2)\n"), std::string("\nLeft in 16 bits or more ("),
        std::string("Fewer than 4 calibration tokens for each input channel\n  c.down_proj: 512 tokens for 1536 "
                    "channels (1 linear)\n"),
        "\n" + choice + "\n"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  const std::string html = run("report " + output_ + " --html -").out;
  std::string escaped_choice = choice;
  escaped_choice.replace(escaped_choice.find('\''), 1, "&#x27;");
  for (const std::string& part :
       {std::string("<td>a.norm</td><td>awq</td><td>" + clamped + "</td>"),
        std::string("<td>b.up_proj</td><td>all</td>"),
        std::string("<td>model.layers.0.mlp.up_proj.weight</td><td>--skip</td>"), std::string("something &lt;odd&gt;"),
        std::string("<td>model.layers.*.input_layernorm.weight</td><td class=\"n\">2</td>"),
        std::string("<td class=\"n\">40 &times; 32</td>"), std::string("<h2>Warnings (1)</h2>"),
        std::string("<td>c.down_proj</td><td class=\"n\">512</td><td class=\"n\">1536</td>"), escaped_choice + "."})
    EXPECT_NE(html.find(part), std::string::npos) << part << "\n" << html;
  for (const char* raw : {"{", "[&quot;", "kept_in_16_bits"})
    EXPECT_EQ(html.find(raw, html.find("</style>")), std::string::npos) << raw;
  report["clamped"] = json::array();
  std::ofstream(path) << report.dump();
  EXPECT_EQ(run("report " + output_ + " --html -").out.find("Clamped"), std::string::npos);  // no empty sections
}

TEST_F(WholePath, ThePageIsWrittenWholeOrNotAtAll) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const auto nowhere = run("report " + output_ + " --html " + (folder_ / "no" / "page.html").string());
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_NE(nowhere.err.find("page.html"), std::string::npos) << nowhere.err;
  EXPECT_EQ(nowhere.err.find("Success"), std::string::npos) << nowhere.err;
  EXPECT_NE(run("report " + output_ + " --html -").out.find("</html>"), std::string::npos);
  if (!fs::exists("/dev/full")) return;
  const auto device = run("report " + output_ + " --html /dev/full");
  EXPECT_EQ(device.code, 1) << device.err;
  struct stat info {};
  ASSERT_EQ(stat("/dev/full", &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
}

TEST_F(WholePath, BrokenJsonOfAModelIsToldInOurWords) {
  for (const std::string& name :
       {std::string("config.json"), std::string("tokenizer_config.json"), std::string("tokenizer.json")}) {
    const std::string broken = (folder_ / ("broken-" + name)).string();
    fs::copy(model_, broken);
    std::ofstream(fs::path(broken) / name) << "{\"model_type\": \"llama\",\n  oops}";
    const auto outcome = run("evaluate " + broken + " --text " + text_);
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_NE(outcome.err.find(name), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("expected a key in double quotes at byte 26, found 'o'"), std::string::npos)
        << outcome.err;
    EXPECT_EQ(outcome.err.find("json.exception"), std::string::npos) << outcome.err;
  }
}

TEST_F(WholePath, HelpExplainsACommandAndFlagsMayStandBeforeIt) {
  EXPECT_EQ(run("help").out, run("--help").out);
  EXPECT_EQ(run("help quantize").out, run("quantize --help").out);
  const json tree = parsed(run("help --json").out);
  EXPECT_EQ(tree["commands"][0]["name"], "quantize");
  EXPECT_EQ(parsed(run("man --json").out), tree);
  EXPECT_EQ(parsed(run("completion fish --json").out)["script"].get<std::string>(), run("completion fish").out);
  EXPECT_EQ(parsed(run("--json inspect " + model_).out), parsed(run("inspect --json " + model_).out));
  EXPECT_TRUE(parsed(run("--quiet --log-level error --json inspect " + model_).out).is_object());
  EXPECT_TRUE(run("-q " + quantize()).err.empty());
}

TEST_F(WholePath, LogLevelsDoSomethingInEveryCommand) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string chat = chat_model();
  for (const std::string& arguments : std::vector<std::string>{
           quantize(),
           "calibrate " + model_ + " -o " + (folder_ / "s.npz").string() + " --calibration " + text_ +
               " --samples 2 --sequence-length 16",
           "evaluate " + model_ + " --text " + text_ + " --chunks 1 --context 16",
           "generate " + model_ + " -p 'the cat' -n 2", "chat " + chat, "inspect " + model_,
           "bench " + model_ + " --prompt 4 --generate 2 --repeat 1", "compare " + model_ + " " + model_,
           "diff " + model_ + " " + model_, "check " + model_ + " --target transformers", "report " + output_, "help",
           "completion bash", "man"}) {
    EXPECT_NE(lines_with(run(arguments + " --log-level debug").err, "peak memory"), "") << arguments;
    EXPECT_EQ(lines_with(run(arguments + " --log-level error").err, "peak memory"), "") << arguments;
    EXPECT_EQ(lines_with(run(arguments + " --log-level debug --quiet").err, "peak memory"), "") << arguments;
  }
}

TEST_F(WholePath, SmallSizesAreNotRoundedToNothing) {
  const auto outcome = run("inspect " + model_);
  EXPECT_EQ(outcome.out.find("0.0 MB"), std::string::npos) << outcome.out;
  EXPECT_NE(lines_with(outcome.out, "skipped").find("norm or bias (5)"), std::string::npos) << outcome.out;
  EXPECT_NE(lines_with(outcome.out, "skipped").find("embedding (1): model.embed_tokens.weight"), std::string::npos)
      << outcome.out;
}

TEST_F(WholePath, PrecisionAndComputeMustAgree) {
  const std::string base = "evaluate " + model_ + " --text " + text_ + " --chunks 1 --context 16";
  for (const std::string both : {" --precision f32 --compute bf16", " --precision bf16 --compute f32",
                                 " --precision f32 --compute int8", " --precision bf16 --compute int8"}) {
    const auto outcome = run(base + both);
    EXPECT_EQ(outcome.code, 2) << both;
    EXPECT_NE(outcome.err.find("contradict each other"), std::string::npos) << outcome.err;
  }
  for (const std::string both :
       {" --precision f32 --compute f32", " --precision auto --compute f32", " --precision f32 --compute auto"})
    EXPECT_EQ(run(base + both).code, 0) << both;
}

TEST_F(WholePath, StatisticsAreReplacedOnlyWhenSomebodySaysSo) {
  const std::string stats = (folder_ / "s.npz").string();
  const std::string base =
      "calibrate " + model_ + " -o " + stats + " --calibration " + text_ + " --samples 2 --sequence-length ";
  ASSERT_EQ(run(base + "16").code, 0);
  const std::string before = read(stats);
  const auto refused = run(base + "8");
  EXPECT_EQ(refused.code, 2) << refused.err;
  EXPECT_NE(refused.err.find("--overwrite"), std::string::npos) << refused.err;
  EXPECT_EQ(read(stats), before);
  EXPECT_EQ(run(base + "8 --overwrite").code, 0);
  EXPECT_NE(read(stats), before);
  // Statistics of this program, and no other file.
  for (const std::string& content : {std::string("precious"), std::string()}) {
    std::ofstream(stats) << content;
    const auto foreign = run(base + "8 --overwrite");
    EXPECT_EQ(foreign.code, 2) << foreign.err;
    EXPECT_NE(foreign.err.find("found another file"), std::string::npos) << foreign.err;
    EXPECT_EQ(read(stats), content);
  }
}

TEST_F(WholePath, APageReplacesPagesAlone) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string page = (folder_ / "page.html").string();
  const std::string html = "report " + output_ + " --html " + page;
  ASSERT_EQ(run(html).code, 0);
  const std::string made = read(page);
  EXPECT_EQ(run(html).code, 0);
  EXPECT_EQ(read(page), made);
  std::ofstream(page) << "<!doctype html><html>my thesis</html>";
  const auto refused = run(html);
  EXPECT_EQ(refused.code, 2) << refused.err;
  EXPECT_NE(refused.err.find("found another file"), std::string::npos) << refused.err;
  EXPECT_EQ(read(page), "<!doctype html><html>my thesis</html>");
}

TEST_F(WholePath, NoTokensAskedForIsNoLine) {
  const auto outcome = run("generate " + model_ + " -p 'the cat' -n 0");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(parsed(run("generate " + model_ + " -p 'the cat' -n 0 --json").out)["generated_tokens"], 0);
}

// Every option that names a file: what is wrong with it is said in the system's words.
TEST_F(WholePath, AFileThatCannotBeReadOrWrittenIsNamedWithTheReason) {
  const std::string none = (folder_ / "none.txt").string();
  const std::string inside = text_ + "/inside.txt";  // of a file
  const std::string loop = (folder_ / "loop.txt").string();
  fs::create_symlink("loop.txt", loop);
  const std::string small = " --samples 2 --sequence-length 16";
  const std::string quantize = "quantize " + model_ + " -o " + output_ + " --group-size 8 --calibration ";
  for (const auto& [path, reason] : {std::pair(none, "No such file or directory"), std::pair(inside, "Not a directory"),
                                     std::pair(loop, "Too many levels of symbolic links")}) {
    for (const std::string& arguments :
         {"generate " + model_ + " -f " + path, "evaluate " + model_ + " --text " + path,
          "calibrate " + model_ + " -o " + (folder_ / "s.npz").string() + " --calibration " + path,
          quantize + path + " --dry-run", quantize + text_ + small + " --evaluate " + path}) {
      const auto outcome = run(arguments);
      EXPECT_EQ(outcome.code, 1) << arguments;
      EXPECT_NE(outcome.err.find(path), std::string::npos) << arguments << outcome.err;
      EXPECT_NE(outcome.err.find(reason), std::string::npos) << arguments << outcome.err;
    }
  }
  EXPECT_NE(run("inspect " + loop).err.find("Too many levels"), std::string::npos);
  EXPECT_NE(run("report " + loop).err.find("Too many levels"), std::string::npos);
  // To write: the plan knows it as well as the run.
  for (const auto& [path, reason] : {std::pair(inside, "Not a directory"), std::pair(loop, "Too many levels")}) {
    const std::string base = "quantize " + model_ + " -o " + path + " --group-size 8 --evaluate none --calibration ";
    const auto made = run(base + text_ + small);
    EXPECT_EQ(made.code, 1) << made.err;
    EXPECT_NE(made.err.find(reason), std::string::npos) << made.err;
    const auto plan = run(base + text_ + small + " --dry-run --json");
    EXPECT_EQ(plan.code, 1) << plan.err;
    EXPECT_NE(parsed(plan.out)["stops"].dump().find("cannot "), std::string::npos) << plan.out;
  }
  if (geteuid() != 0) {
    const fs::path closed = folder_ / "closed";
    fs::create_directory(closed);
    fs::permissions(closed, fs::perms::owner_read | fs::perms::owner_exec);
    const auto plan = run("quantize " + model_ + " -o " + (closed / "out").string() +
                          " --group-size 8 --evaluate none --calibration " + text_ + small + " --dry-run --json");
    EXPECT_EQ(plan.code, 1) << plan.err;
    EXPECT_NE(parsed(plan.out)["stops"].dump().find("Permission denied"), std::string::npos) << plan.out;
  }
}

}  // namespace
}  // namespace metal_marlin::cli_test
