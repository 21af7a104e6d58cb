// Runs the command as its users do, in a folder of its own.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace metal_marlin::cli_test {

namespace fs = std::filesystem;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

class CommandLine : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mm_cli_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Runs `metal-marlin ARGUMENTS` in a shell, with an empty stdin or that of a file.
  Outcome run(const std::string& arguments, const std::string& input = "/dev/null") {
    const std::string errors = (folder_ / "stderr").string();
    const std::string line =
        std::string("'") + METAL_MARLIN_BINARY + "' " + arguments + " < '" + input + "' 2> '" + errors + "'";
    Outcome outcome;
    FILE* pipe = popen(line.c_str(), "r");
    std::array<char, 4096> buffer;
    for (size_t count = 0; (count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
      outcome.out.append(buffer.data(), count);
    const int status = pclose(pipe);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    outcome.err = read(errors);
    return outcome;
  }

  static std::string read(const fs::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  fs::path folder_;
};

// The whole path on a tiny random model, as a user walks it.
class WholePath : public CommandLine {
 protected:
  void SetUp() override {
    CommandLine::SetUp();
    model_ = std::string(TEST_DATA) + "/models/llama";
    output_ = (folder_ / "out").string();
    text_ = (folder_ / "text.txt").string();
    std::ofstream stream(text_);
    for (int i = 0; i < 200; ++i) stream << "the cat sat on the mat and the dog ran to the house. ";
  }
  // A quantization of seconds; held-back text would need 4,096 tokens more.
  std::string quantize() const {
    return "quantize " + model_ + " -o " + output_ + " --group-size 8 --method awq --calibration " + text_ +
           " --samples 4 --sequence-length 32 --evaluate " + text_ + " --chunks 2 --context 32";
  }
  // A copy of the model with a chat template.
  std::string chat_model() const {
    const fs::path folder = folder_ / "chat-model";
    fs::copy(model_, folder);
    std::ofstream(folder / "chat_template.jinja") << "{% for m in messages %}{{ m.content }} {% endfor %}";
    return folder.string();
  }
  std::string model_;
  std::string output_;
  std::string text_;
};

inline nlohmann::json parsed(const std::string& text) {
  return nlohmann::json::parse(text, nullptr, false);
}

}  // namespace metal_marlin::cli_test
