#include "tokenizer/grammar.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "formats/json/bounded_json.h"
#include "formats/text.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_c/tokenizer_c.h"

namespace metal_marlin {
namespace {

constexpr uint64_t kMostValues = 50000;
constexpr size_t kLongestReason = 1000;

struct FreeVocabulary {
  void operator()(tokenizer_c_vocabulary* v) const noexcept { tokenizer_c_vocabulary_free(v); }
};
struct FreeGrammar {
  void operator()(tokenizer_c_grammar* g) const noexcept { tokenizer_c_grammar_free(g); }
};
using Vocabulary = std::unique_ptr<tokenizer_c_vocabulary, FreeVocabulary>;
using GrammarPointer = std::unique_ptr<tokenizer_c_grammar, FreeGrammar>;

// The reason of the last failure; a text of the schema may stand in it.
std::string reason() {
  const std::string why = tokenizer_c_last_error();
  if (why == "stopped") throw Interrupted("interrupted");
  return escaped(why, kLongestReason);
}

Vocabulary vocabulary_of(const Tokenizer* tokenizer, int64_t rows, const std::vector<int32_t>& ends) {
  const std::vector<uint32_t> ids(ends.begin(), ends.end());
  Vocabulary vocabulary(tokenizer_c_vocabulary_create(tokenizer == nullptr ? nullptr : tokenizer->handle(),
                                                      static_cast<size_t>(rows), ids.data(), ids.size()));
  if (vocabulary == nullptr)
    throw UnsupportedError(fmt::format("JSON schemas do not go with this model: {}", reason()));
  return vocabulary;
}

GrammarPointer compiled(const tokenizer_c_vocabulary* vocabulary, const std::string& schema, const std::string& name) {
  if (schema.size() > kLargestJsonSchema) {
    throw FormatError(fmt::format("{}: expected a JSON schema of at most {} bytes, found {}", name, kLargestJsonSchema,
                                  schema.size()));
  }
  const nlohmann::json json = parse_json(schema, name, {.values = kMostValues});
  if (!json.is_object() && !json.is_boolean()) {
    throw FormatError(fmt::format("{}: expected a JSON schema, an object, found {}", name, json.type_name()));
  }
  GrammarPointer grammar(tokenizer_c_grammar_create(vocabulary, schema.data(), schema.size()));
  if (grammar == nullptr) throw FormatError(fmt::format("{}: this JSON schema cannot be used: {}", name, reason()));
  return grammar;
}

}  // namespace

struct Grammar::Handle {
  GrammarPointer grammar;
};

Grammar::Grammar() = default;
Grammar::Grammar(Grammar&&) noexcept = default;
Grammar& Grammar::operator=(Grammar&&) noexcept = default;
Grammar::~Grammar() = default;

void Grammar::fail() const {
  throw FormatError(fmt::format("{}: a text by this JSON schema cannot go on: {}", name_, reason()));
}

void Grammar::mask(std::span<float> logits) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  bits_.resize((logits.size() + 31) / 32);
  const int may_end = tokenizer_c_grammar_mask(handle_->grammar.get(), bits_.data(), bits_.size());
  if (may_end < 0) fail();
  if (may_end == 1) {
    for (const int32_t end : *ends_) {
      const auto id = static_cast<size_t>(end);
      if (id < logits.size()) bits_[id / 32] |= uint32_t{1} << (id % 32);
    }
  }
  for (size_t id = 0; id < logits.size(); ++id) {
    if ((bits_[id / 32] >> (id % 32) & 1u) == 0 && logits[id] < kInfinity) logits[id] = -kInfinity;
  }
}

bool Grammar::take(int32_t token) {
  const int complete = tokenizer_c_grammar_take(handle_->grammar.get(), static_cast<uint32_t>(token));
  if (complete < 0) fail();
  return complete == 1;
}

size_t Grammar::fitting(std::span<const int32_t> tokens) {
  const std::vector<uint32_t> ids(tokens.begin(), tokens.end());
  const int64_t count = tokenizer_c_grammar_fitting(handle_->grammar.get(), ids.data(), ids.size());
  if (count < 0) fail();
  return static_cast<size_t>(count);
}

bool Grammar::may_end() {
  const int answer = tokenizer_c_grammar_may_end(handle_->grammar.get());
  if (answer < 0) fail();
  return answer == 1;
}

struct Grammars::Impl {
  const Tokenizer& tokenizer;
  int64_t rows;
  std::shared_ptr<const std::vector<int32_t>> ends;
  Vocabulary vocabulary;
  // The last schema with its name, and what became of it.
  std::string known, failure;
  GrammarPointer grammar;
};

Grammars::Grammars(const Tokenizer& tokenizer, int64_t rows, std::vector<int32_t> ends)
    : impl_(new Impl{tokenizer, rows, std::make_shared<const std::vector<int32_t>>(std::move(ends)), {}, {}, {}, {}}) {}
Grammars::~Grammars() = default;

Grammar Grammars::of_schema(const std::string& schema, const std::string& name) {
  Impl& impl = *impl_;
  if (impl.vocabulary == nullptr) impl.vocabulary = vocabulary_of(&impl.tokenizer, impl.rows, *impl.ends);
  if (std::string asked = name + '\0' + schema; impl.known != asked) {
    impl.grammar.reset();
    impl.failure.clear();
    impl.known.clear();
    try {
      impl.grammar = compiled(impl.vocabulary.get(), schema, name);
    } catch (const FormatError& error) {
      impl.failure = error.what();
    }
    impl.known = std::move(asked);
  }
  if (impl.grammar == nullptr) throw FormatError(impl.failure);
  Grammar grammar;
  grammar.handle_ = std::make_unique<Grammar::Handle>();
  grammar.handle_->grammar.reset(tokenizer_c_grammar_copy(impl.grammar.get()));
  grammar.ends_ = impl.ends;
  grammar.name_ = name;
  if (grammar.handle_->grammar == nullptr) grammar.fail();
  return grammar;
}

void check_json_schema(const std::string& schema, const std::string& name) {
  static_cast<void>(compiled(vocabulary_of(nullptr, 0, {}).get(), schema, name));
}

}  // namespace metal_marlin
