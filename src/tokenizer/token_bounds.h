// How long tokens may be. The tokenizer's library takes some 70 bytes of memory for each byte of a token that it looks
// for in texts, so a file of a few megabytes in one token would fill memory.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace metal_marlin {

inline constexpr size_t kLongestToken = size_t{64} << 10;  // the longest tokens in use have some hundred bytes
inline constexpr size_t kMostTokens = size_t{1} << 20;     // four times the largest vocabularies
// Of tokens that are looked for in the text itself (added tokens), together. The most in use are some thousand.
inline constexpr size_t kMostAddedTokens = size_t{1} << 17;
inline constexpr size_t kMostAddedBytes = size_t{4} << 20;

// FormatError naming file and key where the token is longer than kLongestToken.
void check_token(std::string_view token, const std::string& file, std::string_view key);

// FormatError, naming `file` and the key, for a tokenizer.json with a longer token, key or other string, or with more
// added tokens than the bounds above allow. The table of characters of a SentencePiece normalizer may have 16 MiB.
// What is no JSON passes. Takes no memory; about 50 ms for the largest files in use.
void check_tokenizer_json(std::string_view text, const std::string& file);

}  // namespace metal_marlin
