// What a text may be so that it is a JSON value that fits a JSON schema: which tokens may come next, by llguidance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace metal_marlin {

class Tokenizer;

// In bytes.
inline constexpr size_t kLargestJsonSchema = size_t{2} << 20;

// What may follow in one text that is being generated. Movable; for one thread at a time. After an exception it must
// not be used any more.
class Grammar {
 public:
  Grammar(Grammar&&) noexcept;
  Grammar& operator=(Grammar&&) noexcept;
  ~Grammar();

  // Sets logits [vocab] of the tokens that may not come next to -infinity; those that end a text are kept exactly where
  // the value may end. NaN and +infinity are left as they are. Throws FormatError where no token may follow (the
  // vocabulary lacks a character that the schema asks for) and where the step takes more than its limits of memory and
  // time; Interrupted as set_interrupt_check() says.
  void mask(std::span<float> logits);
  // Adds a token that mask() allowed and that is no end. Whether the value is complete and nothing may follow. Throws
  // as mask().
  bool take(int32_t token);
  // How many of the first of `tokens` may follow, one after another.
  size_t fitting(std::span<const int32_t> tokens);
  // Whether what was taken is a value that fits.
  bool may_end();

 private:
  friend class Grammars;
  struct Handle;
  Grammar();
  [[noreturn]] void fail() const;

  std::unique_ptr<Handle> handle_;
  std::shared_ptr<const std::vector<int32_t>> ends_;
  std::string name_;
  std::vector<uint32_t> bits_;
};

// Makes grammars for the texts of one model. What all of them share is made with the first: some ten milliseconds and
// MiB for 50,000 tokens.
class Grammars {
 public:
  // `rows` of the model's head; `ends`: the tokens that end a text. The tokenizer must outlive this.
  Grammars(const Tokenizer& tokenizer, int64_t rows, std::vector<int32_t> ends);
  ~Grammars();

  // `schema` is the text of a JSON schema, `name` opens messages: its file. FormatError, each time, for a text that is
  // no JSON or larger than check_json_schema() says, and for what llguidance says of it: a keyword that is not
  // supported, a schema that no value fits, a limit of memory and time that it exceeds. UnsupportedError for a
  // tokenizer whose tokens do not stand for bytes by themselves. The last schema is kept.
  Grammar of_schema(const std::string& schema, const std::string& name);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Checks a schema without a model, as far as that goes. FormatError as of_schema(): at most 2 MiB, 64 levels of nesting
// and 50,000 values.
void check_json_schema(const std::string& schema, const std::string& name);

}  // namespace metal_marlin
