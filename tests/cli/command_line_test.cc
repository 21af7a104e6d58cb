// The command as its users call it: texts, exit codes, and what goes to stdout and to stderr.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "command_line.h"

namespace metal_marlin::cli_test {
namespace {

using nlohmann::json;

const std::vector<std::string> kCommands = {"quantize", "calibrate", "convert", "evaluate",   "generate",
                                            "chat",     "bench",     "inspect", "compare",    "diff",
                                            "check",    "report",    "help",    "completion", "man"};

// The option names that a --help states: words of two leading spaces that begin with a hyphen.
std::set<std::string> options_in_help(const std::string& help) {
  std::set<std::string> names;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("  -", 0) != 0) continue;
    std::istringstream words(line);
    for (std::string word; words >> word && word[0] == '-';) {
      const bool more = word.back() == ',';
      names.insert(more ? word.substr(0, word.size() - 1) : word);
      if (!more) break;
    }
  }
  return names;
}

std::string without_roff_escapes(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && text[i + 1] == '-') continue;
    plain += text[i];
  }
  return plain;
}

TEST_F(CommandLine, HelpOfTheWholeNamesEveryCommand) {
  const auto outcome = run("--help");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_TRUE(outcome.err.empty());
  for (const auto& name : kCommands) EXPECT_NE(outcome.out.find("\n  " + name + " "), std::string::npos) << name;
}

TEST_F(CommandLine, HelpOfEachCommandHasUsageOptionsAndExamples) {
  for (const auto& name : kCommands) {
    const auto outcome = run(name + " --help");
    EXPECT_EQ(outcome.code, 0) << name;
    EXPECT_TRUE(outcome.err.empty()) << outcome.err;
    EXPECT_NE(outcome.out.find("Usage: metal-marlin " + name), std::string::npos) << name;
    EXPECT_NE(outcome.out.find("Examples:\n"), std::string::npos) << name;
    for (const auto* option : {"--json", "--quiet", "--log-level", "--help", "--help-all"})
      EXPECT_EQ(options_in_help(outcome.out).count(option), 1u) << name << " " << option;
  }
}

TEST_F(CommandLine, HelpStatesDefaults) {
  const auto help = run("quantize --help-all").out;
  std::string flat;
  for (const char c : help) {
    const char plain = c == '\n' ? ' ' : c;
    if (plain != ' ' || flat.empty() || flat.back() != ' ') flat += plain;
  }
  for (const auto* text : {"(default: awq)", "(default: asym)", "(default: 128; 16 with --effort", "(default: 512)",
                           "(default: 0.01)", "(default: --resume)", "(default: self)", "(default: 1024)"})
    EXPECT_NE(flat.find(text), std::string::npos) << text;
}

TEST_F(CommandLine, VersionIsThreeNumbers) {
  for (const auto* word : {"--version", "-V", "version"}) {
    const auto outcome = run(word);
    EXPECT_EQ(outcome.code, 0);
    int major = 0, minor = 0, patch = 0;
    EXPECT_EQ(std::sscanf(outcome.out.c_str(), "metal-marlin %d.%d.%d\n", &major, &minor, &patch), 3) << outcome.out;
  }
}

TEST_F(CommandLine, HelpHasTwoTiers) {
  const auto common = options_in_help(run("quantize --help").out);
  const auto all = options_in_help(run("quantize --help-all").out);
  for (const auto* option : {"--output", "--format", "--method", "--group-size", "--calibration", "--samples",
                             "--evaluate", "--max-kl", "--memory", "--dry-run", "--verbose"})
    EXPECT_EQ(common.count(option), 1u) << option;
  for (const auto* option : {"--awq-loss", "--signed-scales", "--salient-ratio", "--chunks", "--precision"}) {
    EXPECT_EQ(common.count(option), 0u) << option;
    EXPECT_EQ(all.count(option), 1u) << option;
  }
  EXPECT_LT(common.size(), all.size());
  EXPECT_NE(run("quantize --help").out.find("--help-all"), std::string::npos);
  for (const auto& option : common) EXPECT_EQ(all.count(option), 1u) << option;
}

TEST_F(CommandLine, WrongUsageIsTwoAndSaysWhatIsAccepted) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "Usage:"},
      {"bogus", "there is no command 'bogus'; the commands are quantize, calibrate"},
      {"quantise", "did you mean quantize?"},
      {"quantize m -o o --formt awq", "there is no option '--formt'; did you mean --format?"},
      {"quantize m -o o --formt=awq", "there is no option '--formt'; did you mean --format?"},
      {"quantize", "MODEL is required"},
      {"quantize m", "--output"},
      {"quantize m -o o extra", "extra"},
      {"quantize m -o o --samples 3 --samples 0", "--samples: expected a whole number"},
      {"quantize m -o o --samples 1e9", "expected a whole number from 1 to 16777216, found '1e9', which is 1000000000"},
      {"quantize m -o o --calib x", "did you mean --calibration or --calibration-weights?"},
      {"quant m -o o", "did you mean quantize?"},
      {"quantize m -o", "--output: expected a value (OUT), found none"},
      {"quantize m -o o --samples", "--samples: expected a value (N), found none"},
      {"quantize m -o o --method --dry-run", "--method: expected one of awq"},
      {"quantize -o o m n", "'n' is more than expected"},
      {"quantize --skip p --skip q m -o o n", "'n' is more than expected"},
      {"quantize m -o o --dry-run=3", "--dry-run: expected no value, found '3'"},
      {"quantize m -o o --no-resume=false", "--no-resume: expected no value, found 'false'"},
      {"quantize m -o o --bogus", "--bogus"},
      {"quantize m -o o --method magic", "awq, awq-paper, awq-salient, gptq, rtn"},
      {"quantize m -o o --format awq,magic", "native, awq"},
      {"quantize m -o o --format awq,awq", "named twice"},
      {"quantize m -o o --format ''", "native, awq"},
      {"quantize m -o o --scheme odd", "asym, sym"},
      {"quantize m -o o --group-size big", "auto"},
      {"quantize m -o o --group-size 0", "auto"},
      {"quantize m -o o --samples 0", "from 1 to"},
      {"quantize m -o o --samples 9223372036854775807", "from 1 to"},
      {"evaluate m --text t --context 9223372036854775807", "from 8 to"},
      {"quantize m -o o --samples 12x", "whole number"},
      {"quantize m -o o --samples 99999999999999999999", "whole number"},
      {"quantize m -o o --seed -1", "whole number"},
      {"quantize m -o o --salient-ratio 1.5", "from 0 to 1"},
      {"quantize m -o o --salient-ratio nan", "from 0 to 1"},
      {"quantize m -o o --memory lots", "4GiB"},
      {"quantize m -o o --memory 4XB", "4GiB"},
      {"quantize m -o o --memory 1e99GiB", "4GiB"},
      {"quantize m -o o --memory 99999999TiB", "from 1 byte to 8 EiB"},
      {"quantize m -o o --memory ''", "4GiB"},
      {"quantize m -o o --threads 0", "from 1 to"},
      {"calibrate m -o s.npz --bos maybe", "auto, always, never"},
      {"evaluate m", "--text"},
      {"generate m", "--prompt"},
      {"generate m -p a -f b", "exclude each other"},
      {"quantize m -o o --verbose --quiet", "--verbose and --quiet exclude each other"},
      {"generate m -p ''", "empty"},
      {"help nothing", "there is no command 'nothing'"},
      {"--threads 2 quantize m -o o", "found '--threads'"},
      {"--quiet", "expected a command"},
      {"--log-level debug bogus", "there is no command 'bogus'"},
      {"generate m -p a --top-p 2", "from 0 to 1"},
      {"generate m -p a --top-p 0", "a number above 0, up to 1, found '0'"},
      {"generate m -p a --temp 101", "from 0 to 100"},
      {"generate m -p a --repeat-last-n -2", "of at least -1"},
      {"compare a", "B is required"},
      {"diff a", "B is required"},
      {"check a", "--target is required"},
      {"check a --target vlm", "vllm"},
      {"check a --target mlx --tensor-parallel 0", "from 1 to 1024"},
      {"completion tcsh", "bash, zsh, fish"},
  };
  for (const auto& [arguments, text] : cases) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments << "\n" << outcome.err;
    EXPECT_TRUE(outcome.out.empty()) << arguments;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << arguments << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find("--help"), std::string::npos) << arguments;
    EXPECT_EQ(outcome.err.find(" required but "), std::string::npos) << outcome.err;  // the parser's own words
  }
}

TEST_F(CommandLine, ManPageStatesEveryOptionOfEveryHelp) {
  const auto outcome = run("man");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out.rfind(".TH ", 0), 0u);
  const std::string page = without_roff_escapes(outcome.out);
  for (const auto& name : kCommands)
    for (const auto& option : options_in_help(run(name + " --help-all").out))
      EXPECT_NE(page.find("\\fB" + option + "\\fR"), std::string::npos) << name << " " << option;
}

TEST_F(CommandLine, CompletionScriptsNameEveryCommandAndOption) {
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const auto outcome = run("completion " + shell);
    EXPECT_EQ(outcome.code, 0);
    for (const auto& name : kCommands) {
      EXPECT_NE(outcome.out.find(name), std::string::npos) << shell << " " << name;
      for (const auto& option : options_in_help(run(name + " --help-all").out)) {
        const std::string shown = shell != "fish"    ? option
                                  : option[1] == '-' ? "-l " + option.substr(2)
                                                     : "-s " + option.substr(1);
        EXPECT_NE(outcome.out.find(shown), std::string::npos) << shell << " " << name << " " << option;
      }
    }
  }
}

// Completes the last word of `words` as an interactive bash would.
std::string bash_completes(const fs::path& script, const std::vector<std::string>& words) {
  std::string line = "bash -c 'compopt() { :; }; source " + script.string() + "; COMP_WORDS=(";
  for (const auto& word : words) line += "\"" + word + "\" ";
  line += "); COMP_CWORD=" + std::to_string(words.size() - 1) + "; _metal_marlin; echo \"${COMPREPLY[*]}\"'";
  std::string out;
  FILE* pipe = popen(line.c_str(), "r");
  std::array<char, 4096> buffer;
  for (size_t count = 0; (count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) out.append(buffer.data(), count);
  pclose(pipe);
  return out;
}

TEST_F(CommandLine, BashCompletionParsesAndCompletes) {
  const fs::path script = folder_ / "completion.bash";
  std::ofstream(script) << run("completion bash").out;
  ASSERT_EQ(std::system(("bash -n " + script.string()).c_str()), 0);
  EXPECT_EQ(bash_completes(script, {"metal-marlin", "qu"}), "quantize\n");
  EXPECT_EQ(bash_completes(script, {"metal-marlin", "quantize", "--sal"}), "--salient-ratio\n");
  EXPECT_EQ(bash_completes(script, {"metal-marlin", "quantize", "--method", "awq-"}), "awq-paper awq-salient\n");
  EXPECT_EQ(bash_completes(script, {"metal-marlin", "completion", "z"}), "zsh\n");
  EXPECT_EQ(bash_completes(script, {"metal-marlin", "help", "qu"}), "quantize\n");
  EXPECT_EQ(bash_completes(script, {"metal-marlin", "--json", "qu"}), "quantize\n");
  EXPECT_EQ(bash_completes(script, {"metal-marlin", "--json", "quantize", "--sal"}), "--salient-ratio\n");
  EXPECT_EQ(bash_completes(script, {"metal-marlin", "quantize", "--format", "native,aw"}), "native,awq\n");
}

TEST_F(CommandLine, AMissingModelIsAFaultOfTheInput) {
  const std::string missing = (folder_ / "nothing").string();
  const std::string output = (folder_ / "out").string();
  const std::string text = (folder_ / "text.txt").string();
  std::ofstream(text) << "some words";
  for (const auto& arguments :
       {"quantize " + missing + " -o " + output, "quantize " + missing + " -o " + output + " --dry-run",
        "inspect " + missing, "calibrate " + missing + " -o " + output + ".npz",
        "evaluate " + missing + " --text " + text, "generate " + missing + " -p a", "chat " + missing,
        "bench " + missing, "compare " + missing + " " + missing, "diff " + missing + " " + missing,
        "check " + missing + " --target vllm", "report " + missing}) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 1) << arguments << "\n" << outcome.err;
    EXPECT_TRUE(outcome.out.empty()) << arguments;
    EXPECT_NE(outcome.err.find(missing), std::string::npos) << arguments << "\n" << outcome.err;
    EXPECT_FALSE(fs::exists(output)) << arguments;
  }
}

TEST_F(CommandLine, AMissingPromptFileIsAFaultOfTheInput) {
  const auto outcome = run("generate m -f " + (folder_ / "none.txt").string());
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("none.txt"), std::string::npos);
}

TEST_F(WholePath, AQuantizedModelRunsAsItIsStored) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string sizes = " --prompt 8 --generate 4 --repeat 1 --json";
  const auto benched = run("bench " + output_ + sizes);
  ASSERT_EQ(benched.code, 0) << benched.err;
  const auto figures = parsed(benched.out);
  EXPECT_EQ(figures["compute"], "int8");
  EXPECT_EQ(figures["head"], "8");
  EXPECT_EQ(figures["prompt"]["tokens"], 8);
  EXPECT_GT(figures["generate"]["tokens_per_second"]["median"], 0.0);
  EXPECT_EQ(parsed(run("bench " + output_ + sizes + " --compute f32 --head 16").out)["compute"], "f32");
  EXPECT_EQ(parsed(run("bench " + model_ + sizes).out)["compute"], "f32");
  for (const std::string compute : {"auto", "int8", "bf16", "f32"}) {
    const auto outcome = run("generate " + output_ + " -p 'the cat' -n 4 --ignore-eos --temp 0 --compute " + compute);
    EXPECT_EQ(outcome.code, 0) << compute << outcome.err;
  }
  const auto floats = run("generate " + model_ + " -p 'the cat' -n 4 --compute int8");
  EXPECT_EQ(floats.code, 1);
  EXPECT_NE(floats.err.find("quantized"), std::string::npos) << floats.err;
  EXPECT_EQ(run("generate " + output_ + " -p a --compute int4").code, 2);
  EXPECT_EQ(run("generate " + output_ + " -p a --head 4").code, 2);
  EXPECT_EQ(run("evaluate " + output_ + " --text " + text_ + " --chunks 2 --context 32 --compute int8 --head 8").code,
            0);
}

TEST_F(WholePath, QuantizeWritesWhatTheOtherCommandsRead) {
  const auto made = run(quantize() + " --json");
  ASSERT_EQ(made.code, 0) << made.err;
  const auto report = parsed(made.out);
  ASSERT_TRUE(report.is_object()) << made.out;
  EXPECT_EQ(report["model"]["positions"], 2 * 31);  // all positions of a chunk but its first
  EXPECT_EQ(parsed(read(fs::path(output_) / "report.json")), report);

  const auto again = run(quantize());
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.err.find("nothing was left to do"), std::string::npos) << again.err;

  const auto rendered = run("report " + output_);
  EXPECT_EQ(rendered.code, 0) << rendered.err;
  EXPECT_NE(rendered.out.find("KL divergence"), std::string::npos);
  const std::string page = (folder_ / "report.html").string();
  EXPECT_EQ(run("report " + output_ + " --html " + page).code, 0);
  EXPECT_NE(read(page).find("</html>"), std::string::npos);
  EXPECT_EQ(parsed(run("report " + output_ + " --json").out), report);

  EXPECT_EQ(parsed(run("inspect " + output_ + " --json").out)["quantization"]["quant_method"], "awq");
  EXPECT_EQ(run("inspect " + output_ + " --tensors").code, 0);
  EXPECT_GT(parsed(run("compare " + model_ + " " + output_ + " --json").out)["relative_error"], 0.0);
  EXPECT_EQ(parsed(run("compare " + model_ + " " + model_ + " --json").out)["relative_error"], 0.0);
  EXPECT_EQ(run("diff " + model_ + " " + model_).code, 0);
  const auto differs = run("diff " + model_ + " " + output_ + " --json");
  EXPECT_EQ(differs.code, 4);
  EXPECT_EQ(parsed(differs.out)["changed_linears"], parsed(differs.out)["linears"]);
  const auto refused = run("check " + model_ + " --target llama.cpp --json");
  EXPECT_EQ(refused.code, 4);
  EXPECT_EQ(parsed(refused.out)["verdict"], "does not load");
  EXPECT_EQ(run("check " + model_ + " --target transformers").code, 0);

  const auto evaluated =
      run("evaluate " + output_ + " --reference " + model_ + " --text " + text_ + " --chunks 2 --context 32 --json");
  ASSERT_EQ(evaluated.code, 0) << evaluated.err;
  // The written checkpoint computes what the run said of it, but for the tiny model's f32 embedding and head, which AWQ
  // stores in f16: 2^-11 on their values.
  constexpr double kTolerance = 5e-3;
  const double mean = report["model"]["kl_divergence"]["mean"];
  EXPECT_NEAR(parsed(evaluated.out)["model"]["kl_divergence"]["mean"].get<double>(), mean, kTolerance * mean + 1e-6);

  const auto answer = run("generate " + output_ + " -p 'the cat' -n 4 --temp 0 --ignore-eos --json");
  ASSERT_EQ(answer.code, 0) << answer.err;
  const json stats = parsed(answer.out);
  EXPECT_EQ(stats["generated_tokens"], 4);
  for (const char* key : {"text", "prompt_tokens", "stop", "reused_tokens", "drafted_tokens", "accepted_tokens",
                          "load_seconds", "prompt_seconds", "generate_seconds"})
    EXPECT_TRUE(stats.contains(key)) << key;
  EXPECT_EQ(run("generate " + output_ + " -p 'the cat' -n 4 --temp 0 --ignore-eos").out,
            parsed(answer.out)["text"].get<std::string>() + "\n");
}

TEST_F(WholePath, AMissedLimitIsFourAndTheResultIsThere) {
  const auto outcome = run(quantize() + " --max-kl 0 --quiet");
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_EQ(outcome.out, output_ + "\n");  // the result is there all the same
  EXPECT_NE(outcome.err.find("--max-kl"), std::string::npos);
  EXPECT_TRUE(fs::exists(fs::path(output_) / "config.json"));
}

TEST_F(WholePath, ADryRunWritesNothing) {
  const auto outcome = run(quantize() + " --dry-run --json");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(parsed(outcome.out)["quantized"].size(), 2u * 7);  // two blocks of seven linears
  const auto text = run(quantize() + " --dry-run");
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("OUT will be "), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("of " + text_ + " to evaluate on"), std::string::npos) << text.out;
  EXPECT_FALSE(fs::exists(output_));
}

// The plan's size of the result is that of the run, part by part.
TEST_F(WholePath, ADryRunTellsTheSizeOfTheResult) {
  const json plan = parsed(run(quantize() + " --format awq,native --dry-run --json").out);
  const json report = parsed(run(quantize() + " --format awq,native --json").out);
  ASSERT_EQ(plan["sizes"].size(), 2U) << plan;
  EXPECT_EQ(plan["sizes"][0]["format"], "awq");
  EXPECT_EQ(plan["sizes"][0]["bytes"], report["model"]["bytes"]);
  EXPECT_EQ(plan["sizes"][0]["parts"], report["model"]["parts"]);
  uint64_t sum = 0;
  std::set<std::string> names;
  for (const json& part : report["model"]["parts"]) {
    sum += part["bytes"].get<uint64_t>();
    names.insert(part["name"].get<std::string>());
  }
  EXPECT_EQ(sum, report["model"]["bytes"].get<uint64_t>());
  EXPECT_EQ(names.count("linears") + names.count("embedding"), 2U) << report["model"]["parts"];
}

// Warnings with the paths of these tests cut to their last part.
json without_folders(const json& warnings) {
  std::string text = warnings.dump();
  const std::string models = std::string(TEST_DATA) + "/models/";
  for (size_t at = 0; (at = text.find(models)) != std::string::npos;) text.erase(at, models.size());
  const fs::path temporary = fs::temp_directory_path();
  for (size_t at = 0; (at = text.find(temporary.string() + "/mm_cli_")) != std::string::npos;)
    text.erase(at, text.find('/', at + temporary.string().size() + 1) + 1 - at);
  return json::parse(text);
}

// Texts that are too short, statistics in place of texts, and more to choose from than there is.
TEST_F(WholePath, ThePlanLeavesOutNoWarningOfTheRun) {
  const std::string stats = (folder_ / "stats.npz").string();
  ASSERT_EQ(
      run("calibrate " + model_ + " -o " + stats + " --calibration " + text_ + " --samples 4 --sequence-length 32")
          .code,
      0);
  const std::string base = "quantize " + model_ + " -o " + output_ + " --group-size 8 --overwrite ";
  for (const std::string& how : {
           "--method rtn --calibration " + stats + " --evaluate none",
           "--method gptq --calibration " + stats,
           "--method rtn --calibration " + text_ + " --samples 4000 --sequence-length 32 --evaluate " + text_ +
               " --chunks 500 --context 32",
           "--method rtn --calibration " + text_ + " --samples 4000 --select 3000 --sequence-length 32 --evaluate none",
           "--method rtn --calibration " + text_ +
               " --samples 2 --sequence-length 16 --evaluate none --format native --target-bits 6 --sensitivity-tokens "
               "4000",
       }) {
    const auto plan = run(base + how + " --dry-run --json");
    const auto made = run(base + how + " --json");
    ASSERT_EQ(plan.code, 0) << how << plan.err;
    ASSERT_EQ(made.code, 0) << how << made.err;
    // The selection itself is made by the run: only what is warned of before the first block is compared.
    EXPECT_EQ(without_folders(parsed(plan.out)["warnings"]), parsed(made.out)["warnings"]) << how;
  }
}

TEST_F(WholePath, WhatStopsTheRunStandsInThePlanAsJson) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const auto done = run(quantize() + " --dry-run");
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.out.find("the run would have nothing to do"), std::string::npos) << done.out;
  const auto stopped = run(quantize() + " --scheme sym --dry-run --json");
  EXPECT_EQ(stopped.code, 2);
  const json plan = parsed(stopped.out);
  ASSERT_TRUE(plan.is_object()) << stopped.out << stopped.err;
  EXPECT_NE(plan["stops"].get<std::string>().find("holds another result (--scheme asym there, sym now"),
            std::string::npos)
      << plan["stops"];
  EXPECT_NE(stopped.err.find("the run would stop: "), std::string::npos) << stopped.err;
  std::ofstream(fs::path(output_) / "thesis.txt") << "precious";
  fs::remove(fs::path(output_) / "report.json");
  const auto foreign = run(quantize() + " --dry-run --json");
  EXPECT_EQ(foreign.code, 1);
  EXPECT_NE(parsed(foreign.out)["stops"].dump().find("thesis.txt"), std::string::npos) << foreign.out;
  fs::remove_all(output_);
  const auto small = run(quantize() + " --memory 1MiB --dry-run --json");
  EXPECT_EQ(small.code, 1);
  EXPECT_NE(parsed(small.out)["stops"].dump().find("--memory 1 MiB"), std::string::npos) << small.out << small.err;
}

TEST_F(WholePath, TheRunAndItsPlanWarnOfTheSame) {
  const std::string same = "quantize " + model_ + " -o " + output_ + " --group-size 8 --method rtn --calibration " +
                           text_ + " --samples 4 --sequence-length 32 --evaluate " + text_ +
                           " --chunks 2 --context 32 --skip '*.nolayer.*'";
  const json planned = parsed(run(same + " --dry-run --json").out)["warnings"];
  const json warned = parsed(run(same + " --json").out)["warnings"];
  EXPECT_EQ(without_folders(planned), warned);                                         // a report holds no folders
  EXPECT_NE(planned.dump().find("written in 16 bits"), std::string::npos) << planned;  // the model is in float32
  EXPECT_NE(planned.dump().find("matches no linear"), std::string::npos) << planned;
  EXPECT_NE(planned.dump().find("will flatter"), std::string::npos) << planned;
}

TEST_F(WholePath, AQuantizedSourceIsWarnedOfInPlanAndRun) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string tail =
      " --group-size 8 --method rtn --calibration " + text_ + " --samples 4 --sequence-length 32 --evaluate none";
  const std::string again = "quantize " + output_ + " -o " + (folder_ / "again").string() + tail;
  for (const std::string& command : {again + " --dry-run", again}) {
    const auto outcome = run(command);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_NE(outcome.err.find("is already quantized (awq)"), std::string::npos) << outcome.err;
  }
}

TEST_F(WholePath, OfAnOptionGivenTwiceTheLastCounts) {
  const json options =
      parsed(run(quantize() +
                 " --dry-run --json --samples 3 --samples 7 --scheme sym --scheme asym "
                 "--method rtn -o /nowhere -o " +
                 output_ + " --act-order --no-act-order --skip a --skip b --group-size 32 --group-size 8")
                 .out)["options"];
  EXPECT_EQ(options["samples"], 7);
  EXPECT_EQ(options["scheme"], "asym");
  EXPECT_EQ(options["method"], "rtn");
  EXPECT_EQ(options["act_order"], false);
  EXPECT_EQ(options["skip"], json({"a", "b"}));
  EXPECT_EQ(parsed(run(quantize() + " --dry-run --json --no-act-order --act-order").out)["options"]["act_order"], true);
  EXPECT_EQ(run("inspect " + model_ + " --json --json").code, 0);
}

TEST_F(WholePath, AliasesAreTaken) {
  const json options = parsed(run(quantize() + " --ctx-size 16 --temp 0.5 --dry-run --json").out)["options"];
  EXPECT_EQ(options["context"], 16);
  EXPECT_EQ(options["temperature"], 0.5);
  const auto answer =
      run("generate " + model_ + " -p 'the cat' --max-tokens 3 --temperature 0 --context 64 --ignore-eos --json");
  ASSERT_EQ(answer.code, 0) << answer.err;
  EXPECT_EQ(parsed(answer.out)["generated_tokens"], 3);
}

TEST_F(WholePath, ARunEndsWithItsResultAndTheNextStep) {
  const auto outcome = run(quantize());
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_LE(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 11) << outcome.out;
  for (const std::string& part :
       {" " + output_ + "\n", output_ + "/report.html", "metal-marlin generate " + output_ + " -p TEXT",
        std::string("verdict"), std::string("KL divergence"), std::string("embedding")})
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << "\n" << outcome.out;
  const auto whole = run(quantize() + " --verbose");
  EXPECT_NE(whole.out.find("\nstage "), std::string::npos) << whole.out;
  EXPECT_EQ(run(quantize() + " --quiet").out, output_ + "\n");
}

TEST_F(WholePath, AnUnquantizedModelsPerplexityHasAKeyOfItsOwn) {
  const json alone = parsed(run("evaluate " + model_ + " --text " + text_ + " --chunks 1 --context 32 --json").out);
  EXPECT_EQ(alone["perplexity"], alone["model"]["perplexity"]["quantized"]);
  EXPECT_GT(alone["perplexity"], 1.0);
  EXPECT_TRUE(alone["reference_perplexity"].is_null());
}

TEST_F(WholePath, GenerateNamesChatWhereTheModelHasATemplate) {
  const auto raw = run("generate " + chat_model() + " -p 'the cat' -n 2 --temp 0 --ignore-eos");
  EXPECT_EQ(raw.code, 0);
  EXPECT_NE(raw.err.find("metal-marlin chat "), std::string::npos) << raw.err;
  EXPECT_EQ(run("generate " + model_ + " -p 'the cat' -n 2 --temp 0 --ignore-eos").err, "");
}

// Names of tensors, warnings and paths of a report may be anybody's.
TEST_F(WholePath, NothingOfAReportSteersTheTerminal) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string path = (fs::path(output_) / "report.json").string();
  json report = parsed(read(path));
  const std::string bad = "a\x1b]0;title\x07 b\r\nforged line \xc2\x9b \xe2\x80\xae \x7f \xe2\x80\x8b";
  report["warnings"] = {bad};
  report["linears"][0]["name"] = bad;
  report["skipped"] = {{{"name", bad}, {"reason", bad}}};
  report["input"]["path"] = bad;
  report["run"]["stages"][bad] = {{"seconds", 1.0}, {"cpu_seconds", 1.0}};
  std::ofstream(path) << report.dump();
  for (const std::string arguments : {"report " + output_, "report " + output_ + " --html -"}) {
    const auto outcome = run(arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    for (const char* part : {"\x1b", "\x07", "\r", "\nforged", "\xc2\x9b", "\xe2\x80\xae", "\x7f", "\xe2\x80\x8b"})
      EXPECT_EQ(outcome.out.find(part), std::string::npos) << arguments;
    // Shown as messages show them, so that two names stay two.
    EXPECT_NE(outcome.out.find("a\\x1b]0;title\\x07 b\\r\\nforged line \\u009b \\u202e \\x7f \\u200b"),
              std::string::npos)
        << outcome.out;
  }
}

// The page may be passed on.
TEST_F(WholePath, ThePageHasTheModelsNameAndNoFolders) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string page = read(fs::path(output_) / "report.html");
  EXPECT_NE(page.find("<title>llama: quantization report</title>"), std::string::npos) << page.substr(0, 400);
  EXPECT_EQ(page.find(folder_.string()), std::string::npos);
  EXPECT_EQ(page.find(TEST_DATA), std::string::npos);
  for (const char* part : {"prefers-color-scheme:dark", "overflow-x:auto", "metal-marlin quantize llama -o out",
                           "<pre>metal-marlin generate out -p TEXT</pre>", "class=\"worst\"", "<h1>llama</h1>"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_EQ(page.find("(0)</h2>"), std::string::npos);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_LT(page.find("class=\"verdict"), page.find("<h2>Linears"));
  EXPECT_LT(page.find("<h2>Warnings"), page.find("<h2>Linears"));
}

TEST_F(WholePath, StatisticsOfCalibrateAreUsed) {
  const std::string stats = (folder_ / "stats.npz").string();
  const auto made = run("calibrate " + model_ + " -o " + stats + " --calibration " + text_ +
                        " --samples 4 --sequence-length 32 --json");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(parsed(made.out)["tokens"], 4 * 32);
  const auto used = run("quantize " + model_ + " -o " + output_ + " --group-size 8 --calibration " + stats +
                        " --evaluate none --json");
  EXPECT_EQ(used.code, 0) << used.err;
  EXPECT_TRUE(parsed(used.out)["model"]["kl_divergence"]["mean"].is_null());
}

TEST_F(WholePath, AnOptionThatDoesNotFitTheModelIsNamed) {
  const auto outcome =
      run("quantize " + model_ + " -o " + output_ + " --group-size 64 --calibration " + text_ + " --evaluate none");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("down_proj"), std::string::npos) << outcome.err;
  EXPECT_FALSE(fs::exists(output_));
}

// The figures were measured on a file that was named: no word of text that was held back.
TEST_F(WholePath, TextsAndPageSayOnWhichTextTheFiguresAre) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string text = run("report " + output_).out;
  const std::string page = run("report " + output_ + " --html -").out;
  for (const std::string& shown : {text, page}) EXPECT_EQ(shown.find("held back"), std::string::npos) << shown;
  EXPECT_NE(text.find("on the file   worst on the file"), std::string::npos) << text;
  EXPECT_NE(page.find("Relative, on text.txt."), std::string::npos) << page;
  EXPECT_NE(page.find("with the largest errors on text.txt are marked"), std::string::npos) << page;
  EXPECT_NE(page.find("<th class=\"n\">on the file</th>"), std::string::npos) << page;
  // Of a part of the calibration text it is true.
  fs::remove_all(output_);
  std::ofstream(text_, std::ios::app) << std::string(40000, 'a');
  ASSERT_EQ(run("quantize " + model_ + " -o " + output_ + " --group-size 8 --method rtn --calibration " + text_ +
                " --samples 4 --sequence-length 32 --context 32 --quiet")
                .code,
            0);
  EXPECT_NE(run("report " + output_).out.find("held back   worst held back"), std::string::npos);
  EXPECT_NE(run("report " + output_ + " --html -").out.find("Relative, on text that was held back."),
            std::string::npos);
}

// On a narrow screen the names of the lines flow as text, and the drawing scrolls: nothing lies on anything else.
TEST_F(WholePath, TheKeyOfTheDrawingIsTextBesideIt) {
  ASSERT_EQ(run(quantize() + " --quiet").code, 0);
  const std::string page = run("report " + output_ + " --html -").out;
  const size_t key = page.find("<p class=\"key\">");
  const size_t plot = page.find("class=\"plot\"");
  ASSERT_TRUE(key != std::string::npos && plot != std::string::npos && key < plot) << page;
  EXPECT_LT(page.find("down_proj", key), plot);
  EXPECT_NE(page.find(".key{display:flex;flex-wrap:wrap"), std::string::npos);
  const std::string drawing = page.substr(plot, page.find("</svg>", plot) - plot);
  EXPECT_EQ(drawing.find("_proj</text>"), std::string::npos) << drawing;
}

}  // namespace
}  // namespace metal_marlin::cli_test
