// tokenizer.model: any bytes give a tokenizer that encodes and decodes, or an Error.
#include <metal_marlin/error.h>

#include <array>

#include "fuzz_input.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary/sentencepiece_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  static const std::array<std::string, 3> kSettings = {
      "", R"({"legacy": false, "add_prefix_space": false, "eos_token": "</s>"})",
      R"({"added_tokens_decoder": {"2": {"content": "<|x|>", "special": true}}, "add_eos_token": true})"};
  try {
    const auto rebuilt = tokenizer_from_sentencepiece(fuzz::as_text(data, size), "fuzz", kSettings[size % 3]);
    TokenizerFiles files;
    files.tokenizer_json = rebuilt.tokenizer_json;
    files.tokenizer_config_json = rebuilt.tokenizer_config_json;
    files.generation_config_json = rebuilt.generation_config_json;
    const Tokenizer tokenizer = Tokenizer::from_files(files, "fuzz");
    tokenizer.decode(tokenizer.encode("Hello, w\xc3\xb6rld  \n a\xef\xbd\xb6", true), true);
  } catch (const Error&) {
  }
  return 0;
}
