// tokenizer.json through the Rust library: any bytes give a tokenizer whose ids stand in its vocabulary, or an Error.
// What follows the first NUL is the text to encode. The same file gives the keys of a GGUF file, or an Error.
#include <metal_marlin/error.h>

#include <algorithm>

#include "fuzz_input.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary/gguf_vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  const std::string_view all = fuzz::as_text(data, size);
  const size_t cut = std::min(all.find('\0'), all.size());
  const std::string_view text =
      cut < all.size() ? all.substr(cut + 1) : std::string_view("Hello, w\xc3\xb6rld  \n\n<s> 123");
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(all.substr(0, cut), "fuzz");
    tokenizer.line_cut();
    for (const bool special : {false, true}) {
      const auto ids = tokenizer.encode(text, special);
      for (const int32_t id : ids) {
        fuzz::require(id >= 0, "an id is not negative");
        tokenizer.id_to_token(id);
      }
      tokenizer.decode(ids, special);
    }
    TokenizerFiles files;
    files.tokenizer_json = all.substr(0, cut);
    const auto rows = tokenizer.vocab_size() + 1;  // with a token to pad
    const GgufVocabulary gguf = gguf_vocabulary(files, tokenizer, rows, "fuzz");
    fuzz::require(gguf.data.tokens.size() == static_cast<size_t>(rows), "each row of the model has a token");
  } catch (const Error&) {
  }
  return 0;
}
