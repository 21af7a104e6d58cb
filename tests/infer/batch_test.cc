// Many texts at once: the same text as each alone, and a file of prompts of which some are bad.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/files/atomic_file.h"
#include "infer/tiny_models.h"

namespace metal_marlin {
namespace {

using namespace test;

GenerateOptions options_of(int64_t predict, double temp, uint64_t seed) {
  GenerateOptions options;
  options.predict = predict;
  options.temp = temp;
  options.seed = seed;
  options.ignore_eos = true;
  return options;
}

// With float32 on one core's kernels a row may depend on how many there are; the head in 16 bits and f32 linears of a
// tiny model give the same choices all the same.
TEST(Batch, EachTextIsThatOfItsRequestAlone) {
  TextGenerator generator(tiny_model("llama"));
  std::vector<BatchRequest> requests;
  const char* prompts[] = {"the", "a b", "one two three", "x", "the the the the"};
  for (size_t i = 0; i < 12; ++i) {
    BatchRequest request;
    request.prompt = prompts[i % 5];
    request.options = options_of(static_cast<int64_t>(5 + 7 * (i % 4)), i % 2 == 0 ? 0.0 : 0.9, i);
    requests.push_back(request);
  }
  requests[3].options.predict = 0;
  requests[5].prompt = std::string(40000, 'x');
  std::map<size_t, BatchAnswer> answers;
  generator.batch(requests, 4, [&](size_t index, const BatchAnswer& answer) {
    EXPECT_TRUE(answers.emplace(index, answer).second) << index;
    return true;
  });
  ASSERT_EQ(answers.size(), requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    if (i == 5) {
      EXPECT_NE(answers[i].error.find("tokens, the context"), std::string::npos) << answers[i].error;
      continue;
    }
    GenerateStats stats;
    EXPECT_EQ(answers[i].text, generator.generate(requests[i].prompt, requests[i].options, {}, &stats)) << i;
    EXPECT_EQ(answers[i].error, "");
    EXPECT_EQ(answers[i].stats.generated_tokens, stats.generated_tokens);
    EXPECT_EQ(answers[i].stats.stop, stats.stop);
  }
}

TEST(Batch, StopsWhereTheCallerAsks) {
  TextGenerator generator(tiny_model("llama"));
  std::vector<BatchRequest> requests(6);
  for (BatchRequest& request : requests) {
    request.prompt = "the";
    request.options = options_of(3, 0, 0);
  }
  int answers = 0;
  generator.batch(requests, 2, [&](size_t, const BatchAnswer&) { return ++answers < 3; });
  EXPECT_GE(answers, 3);
  EXPECT_LT(answers, 6);
  EXPECT_THROW(generator.batch(requests, 0, [](size_t, const BatchAnswer&) { return true; }), ArgumentError);
}

TEST(Batch, RefusesSpeculation) {
  TextGenerator generator(tiny_model("llama"));
  BatchRequest request;
  request.prompt = "the the";
  request.options = options_of(4, 0, 0);
  request.options.speculate = 2;
  std::string error;
  generator.batch({request}, 1, [&](size_t, const BatchAnswer& answer) {
    error = answer.error;
    return true;
  });
  EXPECT_NE(error.find("speculate"), std::string::npos) << error;
}

TEST(Batch, SpeculationAndKnownBeginningsDoNotChangeTheText) {
  TextGenerator generator(tiny_model("llama"));
  GenerateOptions options = options_of(60, 0, 0);
  GenerateStats stats;
  const std::string prompt = "the the the the the the";
  const std::string plain = TextGenerator(tiny_model("llama")).generate(prompt, options, {}, &stats);
  const int64_t generated = stats.generated_tokens;
  options.speculate = 8;
  EXPECT_EQ(generator.generate(prompt, options, {}, &stats), plain);
  EXPECT_EQ(stats.reused_tokens, 0);
  EXPECT_EQ(generator.generate(prompt, options, {}, &stats), plain);
  EXPECT_EQ(stats.reused_tokens, stats.prompt_tokens - 1);
  EXPECT_EQ(stats.generated_tokens, generated);
  EXPECT_GT(stats.accepted_tokens, 0);
  EXPECT_GE(stats.drafted_tokens, stats.accepted_tokens);
  options.speculate = 33;
  EXPECT_THROW(generator.generate(prompt, options), ArgumentError);
}

TEST(Batch, AFileOfPrompts) {
  const std::string folder = ::testing::TempDir() + "batch_file" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  const std::string input = folder + "/in.jsonl";
  const std::string output = folder + "/out.jsonl";
  write_text_file(
      input,
      "\xef\xbb\xbf{\"prompt\": \"the\", \"max_tokens\": 4, \"id\": \"first\"}\r\n"
      "\n"
      "{\"prompt\": 3}\n"
      "not json\n"
      "{\"prompt\": \"a\", \"messages\": []}\n"
      "{\"prompt\": \"the\", \"max_tokens\": -5}\n"
      "{\"prompt\": \"the\", \"stop\": [\"\"]}\n"
      "{\"prompt\": \"one\", \"max_tokens\": 2, \"temperature\": 0.5, \"seed\": 3, \"unknown\": 1, \"id\": [7]}");
  TextGenerator generator(tiny_model("llama"));
  const BatchFileResult result = generate_file(generator, input, output, options_of(8, 0, 0), 3);
  EXPECT_EQ(result.answered, 2);
  ASSERT_EQ(result.failures.size(), 5u);
  std::istringstream stream(read_text_file(output));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 7u);
  const int numbers[] = {1, 3, 4, 5, 6, 7, 8};
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(lines[i].at("line"), numbers[i]);
    EXPECT_EQ(lines[i].contains("error"), i != 0 && i != 6) << lines[i];
  }
  EXPECT_EQ(lines[0].at("id"), "first");
  EXPECT_EQ(lines[2].at("error"), "expected a JSON object; at byte 0 of this line expected a value, found 'n'");
  EXPECT_EQ(lines[0].at("text"), generator.generate("the", options_of(4, 0, 0)));
  EXPECT_EQ(lines[6].at("id"), nlohmann::json::parse("[7]"));
  EXPECT_EQ(lines[6].at("text"), generator.generate("one", options_of(2, 0.5, 3)));
  // Answers are replaced, other files are not: neither weights nor the questions.
  EXPECT_EQ(generate_file(generator, input, output, options_of(8, 0, 0), 3).answered, 2);
  const std::string weights = folder + "/model.safetensors";
  write_text_file(weights, "weights");
  for (const std::string& other : {weights, input}) {
    const std::string before = read_text_file(other);
    EXPECT_THROW(generate_file(generator, input, other, options_of(8, 0, 0), 3), ArgumentError);
    EXPECT_EQ(read_text_file(other), before);
  }
  EXPECT_THROW(generate_file(generator, folder + "/none", output, {}, 3), SystemError);
  EXPECT_THROW(generate_file(generator, folder, output, {}, 3), SystemError);
  write_text_file(input, "\n");
  EXPECT_THROW(generate_file(generator, input, output, {}, 3), FormatError);
  std::string many;
  for (int i = 0; i <= 1 << 18; ++i) many += "0\n";
  write_text_file(input, many);
  EXPECT_THROW(generate_file(generator, input, output, {}, 3), FormatError);
  write_text_file(input, std::string("{\"prompt\": \"the\"}\0 and more", 28));
  const BatchFileResult nul = generate_file(generator, input, output, options_of(4, 0, 0), 3);
  ASSERT_EQ(nul.failures.size(), 1u);
  EXPECT_NE(nul.failures[0].find("found a zero byte"), std::string::npos) << nul.failures[0];
}

}  // namespace
}  // namespace metal_marlin
