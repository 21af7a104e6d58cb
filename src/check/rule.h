// A rule is a row of a table: which engines it speaks of, what it looks at, where the engine says so, and a function.
#pragma once

#include <metal_marlin/check.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "check/facts.h"

namespace metal_marlin {

enum class Engine : uint8_t { kVllm = 1, kSglang = 2, kTransformers = 4, kMlx = 8, kLlamaCpp = 16 };
using Engines = uint8_t;
constexpr Engines operator|(Engine a, Engine b) {
  return static_cast<Engines>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
constexpr Engines operator|(Engines a, Engine b) {
  return static_cast<Engines>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
constexpr Engines only(Engine engine) {
  return static_cast<Engines>(engine);
}
constexpr Engines kServers = Engine::kVllm | Engine::kSglang;
constexpr Engines kFolderReaders = kServers | Engine::kTransformers | Engine::kMlx;

// As options call it.
const char* engine_name(Engine engine) noexcept;

// What is asked: `facts` under this engine, on so many devices.
struct Question {
  const CheckpointFacts& facts;
  Engine engine;
  int64_t devices;

  bool is(Engine other) const noexcept { return engine == other; }
  const char* name() const noexcept { return engine_name(engine); }
};

// Takes what one rule finds.
class Answer {
 public:
  Answer(std::vector<CheckFinding>& out, const char* rule, const char* source)
      : out_(out), rule_(rule), source_(source) {}

  void refused(std::string message, std::string advice) { add("refused", std::move(message), std::move(advice)); }
  void wrong(std::string message, std::string advice) { add("wrong", std::move(message), std::move(advice)); }
  void unknown(std::string message, std::string advice) { add("unknown", std::move(message), std::move(advice)); }
  void slow(std::string message, std::string advice) { add("slow", std::move(message), std::move(advice)); }
  void note(std::string message, std::string advice) { add("note", std::move(message), std::move(advice)); }

 private:
  void add(const char* verdict, std::string message, std::string advice) {
    out_.push_back({rule_, verdict, std::move(message), std::move(advice), source_});
  }
  std::vector<CheckFinding>& out_;
  const char* rule_;
  const char* source_;
};

struct Rule {
  const char* name;  // kebab-case
  Engines engines;
  const char* looks_at;
  const char* source;  // package and version, file
  void (*ask)(const Question& question, Answer& answer);
};

// The tables, each in its file.
std::span<const Rule> file_rules();        // files and config
std::span<const Rule> model_rules();       // architecture and tensors
std::span<const Rule> scheme_rules();      // the format under each engine
std::span<const Rule> kernel_rules();      // bits, groups, shapes, types of vLLM and SGLang
std::span<const Rule> fused_rules();       // skip lists and fused layers
std::span<const Rule> parallel_rules();    // tensor parallel
std::span<const Rule> compressed_rules();  // compressed-tensors
std::span<const Rule> mlx_rules();
std::span<const Rule> gguf_rules();

// Names of which messages show the first and count the rest: "A", "A and 3 more".
class Names {
 public:
  void add(const std::string& name) {
    if (count_++ == 0) first_ = name;
  }
  bool empty() const noexcept { return count_ == 0; }
  int64_t count() const noexcept { return count_; }
  const std::string& first() const noexcept { return first_; }
  std::string text() const;

 private:
  std::string first_;
  int64_t count_ = 0;
};

}  // namespace metal_marlin
