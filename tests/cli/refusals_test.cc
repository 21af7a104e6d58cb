// What a refused or planned command leaves behind, and the words in which it is refused.
#include <regex>
#include <vector>

#include "command_line.h"

namespace metal_marlin::cli_test {
namespace {

class Refusals : public WholePath {
 protected:
  std::string quantize_to(const std::string& output, const std::string& options) const {
    return "quantize " + model_ + " -o " + output + " --group-size 8 --method rtn --calibration " + text_ +
           " --samples 4 --sequence-length 32 " + options;
  }
};

TEST_F(Refusals, NoCommandThatIsRefusedLeavesAFolder) {
  const std::string deep = (folder_ / "nn" / "a" / "b").string();
  const std::vector<std::string> commands = {
      quantize_to(deep, "--evaluate none --skip '*'"),
      quantize_to(deep, "--evaluate none --memory 1MiB"),
      quantize_to(deep, "--evaluate none --linear-bits '*.nothing=8'"),
      quantize_to(deep, "--evaluate " + (folder_ / "missing.txt").string()),
      quantize_to(deep, "--evaluate none --bits mixed --format native --target-bits 2"),
      "quantize " + (folder_ / "missing").string() + " -o " + deep,
      "convert " + model_ + " -o " + deep + " --to awq",
      "convert " + (folder_ / "missing").string() + " -o " + deep + " --to awq",
      "calibrate " + model_ + " -o " + deep + "/stats.npz --calibration " + (folder_ / "missing.txt").string(),
      "generate " + model_ + " -f " + (folder_ / "missing.txt").string() + " --output " + deep + "/out.jsonl",
      "report " + model_ + " --html " + deep + "/page.html",
  };
  for (const std::string& command : commands) {
    const auto refused = run(command);
    EXPECT_NE(refused.code, 0) << command;
    EXPECT_FALSE(fs::exists(folder_ / "nn")) << command << "\n" << refused.err;
    fs::remove_all(folder_ / "nn");
  }
  // What was there before stays.
  fs::create_directories(folder_ / "nn" / "a");
  for (const std::string& command : commands) {
    EXPECT_NE(run(command).code, 0) << command;
    EXPECT_TRUE(fs::is_directory(folder_ / "nn" / "a")) << command;
    EXPECT_TRUE(fs::is_empty(folder_ / "nn" / "a")) << command;
  }
  const auto done = run(quantize_to(deep, "--evaluate none --quiet"));
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(fs::exists(fs::path(deep) / "report.json"));
}

TEST_F(Refusals, WhatTheUserChoseIsNotLaidToTheFormat) {
  const auto skipped = run(quantize_to(output_, "--evaluate none --skip '*mlp*' --dry-run"));
  EXPECT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_NE(skipped.out.find("stay so by --skip, --linear-bits or --target-bits"), std::string::npos) << skipped.out;
  EXPECT_EQ(skipped.out.find("no format here quantizes linears"), std::string::npos) << skipped.out;
  const auto both = run(quantize_to(output_, "--evaluate none --skip '*v_proj*' --linear-bits '*v_proj*=8'"));
  EXPECT_NE(both.code, 0);
  EXPECT_NE(both.err.find("every linear that '*v_proj*' matches is left out by --skip"), std::string::npos) << both.err;
}

// Also where convert has made floats of the codes.
TEST_F(Refusals, AQuantizedSourceIsSaidThroughFloats) {
  const std::string codes = (folder_ / "codes").string();
  const std::string floats = (folder_ / "floats").string();
  ASSERT_EQ(run(quantize_to(codes, "--evaluate none --quiet")).code, 0);
  ASSERT_EQ(run("convert " + codes + " -o " + floats + " --to f16").code, 0);
  model_ = floats;
  const auto again = run(quantize_to(output_, "--evaluate none --dry-run"));
  EXPECT_NE(again.err.find("was quantized (awq) before convert wrote it as floats"), std::string::npos) << again.err;
}

TEST_F(Refusals, ADamagedListOfOurFilesIsNamed) {
  ASSERT_EQ(run(quantize_to(output_, "--evaluate none --quiet")).code, 0);
  std::ofstream(fs::path(output_) / "report.json") << "{";
  const auto refused = run(quantize_to(output_, "--evaluate none --overwrite"));
  EXPECT_NE(refused.code, 0);
  EXPECT_NE(refused.err.find("report.json, which would say"), std::string::npos) << refused.err;
}

TEST_F(Refusals, APlanEndsWithTheCodeOfItsRun) {
  const std::string evaluated = "--evaluate " + text_ + " --chunks 2 --context 32 ";
  ASSERT_EQ(run(quantize_to(output_, evaluated + "--quiet")).code, 0);
  const std::string other = (folder_ / "other").string();
  fs::create_directories(other);
  std::ofstream(fs::path(other) / "thesis.txt") << "precious";
  const std::string file = (folder_ / "file").string();
  std::ofstream(file) << "a file";
  const std::vector<std::pair<std::string, int>> cases = {
      {quantize_to(output_, evaluated), 0},
      {quantize_to(output_, evaluated + "--max-kl 1e-9"), 4},
      {quantize_to(output_, evaluated + "--scheme sym"), 2},
      {quantize_to(other, evaluated), 1},
      {quantize_to(file, evaluated), 2},
      {quantize_to(file + "/below", evaluated), 1},
      {quantize_to((folder_ / "new").string(), evaluated + "--memory 1MiB"), 1},
      {quantize_to((folder_ / "new").string(), "--evaluate none --skip '*'"), 2},
      {"quantize " + (folder_ / "missing").string() + " -o " + (folder_ / "new").string(), 1},
  };
  for (const auto& [command, code] : cases) {
    const auto plan = run(command + " --dry-run");
    EXPECT_EQ(plan.code, code) << command << "\n" << plan.err;
    const auto made = run(command);
    EXPECT_EQ(made.code, code) << command << "\n" << made.err;
  }
}

TEST_F(Refusals, ADifferenceNamesTheOptionsThatWereChosenInTheirWords) {
  const std::string base = "quantize " + model_ + " -o " + output_ +
                           " --group-size 8 --samples 4 --sequence-length 32 --evaluate none --calibration " + text_;
  ASSERT_EQ(run(base + " --quiet").code, 0);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {" --method gptq", "(--method awq there, gptq now)"},
      {" --scheme sym", "(--scheme asym there, sym now)"},
      {" --method gptq --damping 0.5", "(--method awq there, gptq now; --damping "},
      {" --no-act-order", "(--act-order there, --no-act-order now)"},
      {" --skip '*.layers.0.*' --skip '*.layers.1.self*'", "(--skip none there, *.layers.0.*,*.layers.1.self* now)"},
      {" --format native", "(--format awq there, native now)"},
      {" --guard off", "(--guard on there, off now)"},
      {" --calibration builtin", "(--calibration a text file there, a text file, builtin now"},
  };
  for (const auto& [options, expected] : cases) {
    const auto refused = run(base + options);
    EXPECT_EQ(refused.code, 2) << options << refused.err;
    EXPECT_NE(refused.err.find(expected), std::string::npos) << options << "\n" << refused.err;
    EXPECT_EQ(refused.err.find('['), std::string::npos) << refused.err;
  }
}

TEST_F(Refusals, APatternWithoutALinearIsAnsweredWithOneThatHasSome) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"*q_proj", "'*q_proj.weight'"}, {"q_proj", "'*.q_proj.weight'"},        {"model.layers.0", "'model.layers.0.*'"},
      {"*.q_porj.*", "'*.q_proj.*'"},  {"*.down_prj", "'*.down_proj.weight'"}, {"layers.1.mlp", "'*.layers.1.mlp.*'"},
  };
  for (const auto& [pattern, near] : cases) {
    const auto plan = run(quantize_to(output_, "--evaluate none --dry-run --skip '" + pattern + "'"));
    EXPECT_NE(plan.err.find("names look like model.layers.0.self_attn.q_proj.weight"), std::string::npos) << plan.err;
    EXPECT_NE(plan.err.find("did you mean " + near + "?"), std::string::npos) << pattern << "\n" << plan.err;
    const auto bits =
        run(quantize_to(output_, "--evaluate none --format native --dry-run --linear-bits '" + pattern + "=8'"));
    EXPECT_EQ(bits.code, 2);
    EXPECT_NE(bits.err.find("did you mean " + near + "?"), std::string::npos) << pattern << "\n" << bits.err;
  }
  const auto far = run(quantize_to(output_, "--evaluate none --dry-run --skip 'zebra'"));
  EXPECT_NE(far.err.find("names look like"), std::string::npos) << far.err;
  EXPECT_EQ(far.err.find("did you mean"), std::string::npos) << far.err;
}

TEST_F(Refusals, WithoutAnEvaluationTheReasonIsTheOneThatHolds) {
  const std::string reason = "not evaluated: --evaluate none";
  const auto made = run(quantize_to(output_, "--evaluate none"));
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_NE(made.out.find(reason), std::string::npos) << made.out;
  const auto text = run("report " + output_);
  EXPECT_NE(text.out.find(reason), std::string::npos) << text.out;
  const std::string page = read(fs::path(output_) / "report.html");
  EXPECT_NE(page.find("not evaluated</b>: --evaluate none"), std::string::npos);
  EXPECT_EQ(page.find("there was no text"), std::string::npos);
  EXPECT_NE(
      read(fs::path(output_) / "README.md").find("| evaluated against the source on | nothing (--evaluate none) |"),
      std::string::npos);
}

TEST_F(Refusals, OneThingIsNotManyThings) {
  const std::regex many(
      "(^|[^0-9.,])1 "
      "(tensors|linears|values|blocks|tokens|sequences|chunks|threads|layers|heads|weights|bytes|scales)");
  const auto made = run(quantize_to(output_, "--evaluate " + text_ + " --chunks 1 --context 32 --threads 1"));
  ASSERT_EQ(made.code, 0) << made.err;
  const std::string native = (folder_ / "native").string();
  const auto converted = run("convert " + output_ + " -o " + native + " --to native");
  ASSERT_EQ(converted.code, 0) << converted.err;
  for (const std::string& text :
       {made.out, made.err, converted.out, run("inspect " + model_).out, run("inspect " + output_).out,
        run("report " + output_).out, run("inspect " + std::string(TEST_DATA) + "/models/gguf/llama.gguf").out,
        read(fs::path(output_) / "README.md"), run(quantize_to(native + "2", "--dry-run --threads 1")).out})
    EXPECT_FALSE(std::regex_search(text, many)) << text;
  const std::string card = read(fs::path(native) / "README.md");
  EXPECT_NE(card.find("llama in 4 bits, converted by Metal Marlin"), std::string::npos) << card;
}

// The schema is read and checked before the model: the last command finds none.
TEST_F(Refusals, JsonSchemas) {
  const std::string good = (folder_ / "good.json").string();
  const std::string bad = (folder_ / "bad.json").string();
  std::ofstream(good) << "\xef\xbb\xbf" << R"({"type":"integer","minimum":10,"maximum":99})";
  std::ofstream(bad) << R"({"type":"array","uniqueItems":true})";
  std::ofstream(folder_ / "empty.json") << "\n";
  const std::string start = "generate " + (folder_ / "no_model").string() + " -p the ";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"--json-schema-file " + bad, bad + ": this JSON schema cannot be used: Unimplemented keys"},
      {"--json-schema '{'", "--json-schema: no valid JSON"},
      {"--json-schema ''", "--json-schema: expected a JSON schema, found an empty text"},
      {"--json-schema-file " + (folder_ / "empty.json").string(), "found an empty text"},
      {"--json-schema-file " + (folder_ / "missing.json").string(), "the JSON schema cannot be read"},
      {"--json-schema-file " + folder_.string(), "found a folder"},
      {"--json-schema true --json-schema-file " + good, "exclude each other"},
      {"--json-schema-file " + good, "no_model"},
  };
  for (const auto& [options, part] : cases) {
    const auto refused = run(start + options);
    EXPECT_NE(refused.code, 0) << options;
    EXPECT_NE(refused.err.find(part), std::string::npos) << options << ": " << refused.err;
  }
  const auto done = run("generate " + model_ + " -p the --json-schema-file " + good);
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(std::regex_match(done.out, std::regex("[1-9][0-9]\n"))) << done.out;
}

}  // namespace
}  // namespace metal_marlin::cli_test
