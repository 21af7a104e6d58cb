// How byte-level BPE vocabularies of GGUF files cut text before merging: the values of tokenizer.ggml.pre.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

struct GgufPreTokenizer {
  std::string_view name;
  // Applied one after the other; matches and what lies between them become pieces, which the next one cuts further.
  // Rust regex syntax, as in the models' tokenizer.json.
  std::vector<std::string_view> patterns;
  bool nfc = false;            // text is brought to Unicode NFC first
  bool ignore_merges = false;  // a piece that is a token as a whole is that token, whatever the merges say
  bool adds_bos = false;       // when the file does not say
  bool byte_level = true;      // false: SentencePiece-like, spaces become U+2581 and unknown bytes <0xXX>
};

// Throws UnsupportedError, which lists the known names; `file` opens the message.
const GgufPreTokenizer& gguf_pre_tokenizer(std::string_view name, const std::string& file);
std::vector<std::string_view> gguf_pre_tokenizer_names();

// Patterns that always cut behind a line feed between a visible ASCII character and an ASCII letter, and match the same
// on both sides when the text is cut there.
std::vector<std::string_view> line_cutting_patterns();
// Patterns that match the same on both sides when the text is cut there, but need not cut themselves.
std::vector<std::string_view> line_indifferent_patterns();

}  // namespace metal_marlin
