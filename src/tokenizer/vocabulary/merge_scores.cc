#include "tokenizer/vocabulary/merge_scores.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <unordered_map>

#include "core/counted.h"
#include "formats/text.h"
#include "tokenizer/tokenizer_json.h"

namespace metal_marlin {
namespace {

constexpr float kScoreOfUserDefined = -1000;
constexpr float kScoreOfUnused = -10000;
// A piece of n bytes costs up to n^2. The largest vocabularies take 40 million.
constexpr uint64_t kMostWork = 1'000'000'000;

struct Piece {
  size_t id;
  size_t first = 0;  // of its merges
  size_t last = 0;
  size_t merges = 0;
};
using Pieces = std::unordered_map<std::string_view, Piece>;

bool is_normal(int32_t type) {
  return type == static_cast<int32_t>(TokenType::kNormal);
}

// How many ways there are to make the text from two pieces.
size_t ways(std::string_view text, const Pieces& pieces) {
  size_t count = 0;
  for (size_t cut = 1; cut < text.size(); ++cut) {
    if ((static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) continue;  // inside a character
    count += pieces.contains(text.substr(0, cut)) && pieces.contains(text.substr(cut)) ? 1 : 0;
  }
  return count;
}

}  // namespace

std::vector<float> merge_scores(const std::vector<std::string>& tokens, const std::vector<int32_t>& types,
                                const std::vector<std::pair<std::string, std::string>>& merges,
                                const std::string& file) {
  Pieces pieces;
  pieces.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i)
    if (is_normal(types[i])) pieces.emplace(tokens[i], Piece{i});

  std::vector<Piece*> made;  // in the order of their first merges
  std::string joined;
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    const auto piece = pieces.find(joined.assign(left).append(right));
    // What is taken whole from the text is never made from pieces.
    if (piece == pieces.end() || !pieces.contains(left) || !pieces.contains(right)) continue;
    if (piece->second.merges++ == 0) {
      piece->second.first = i;
      made.push_back(&piece->second);
    }
    piece->second.last = i;
  }
  uint64_t work = 0;
  for (const auto& [text, piece] : pieces) {
    work += static_cast<uint64_t>(text.size()) * text.size();
    if (work > kMostWork)
      throw FormatError(
          fmt::format("{}: vocab: expected tokens of a few bytes, found many as long as {}: pieces this long make no "
                      "vocabulary; get "
                      "the file from the model's publisher again",
                      file, counted(text.size(), "byte")));
    if (const size_t possible = ways(text, pieces); possible != piece.merges)
      throw UnsupportedError(fmt::format(
          "{}: merges: a GGUF file can hold vocabularies of SentencePiece, which make each token from two others in "
          "every way, found token {} with {} of {}: this tokenizer cannot be written to GGUF; write the model in "
          "another format",
          file, shown(text), counted(piece.merges, "merge"), possible));
  }

  std::vector<float> scores(tokens.size(), 0);
  size_t rank = 1;  // the first piece of Llama has the score -1
  size_t last = 0;  // of the merges of the pieces with this rank
  for (const Piece* piece : made) {
    if (piece != made.front() && piece->first > last) ++rank;
    last = std::max(last, piece->last);
    scores[piece->id] = -static_cast<float>(rank);
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (is_normal(types[i]) && pieces.at(tokens[i]).merges == 0) scores[i] = -static_cast<float>(rank + 1);
    if (types[i] == static_cast<int32_t>(TokenType::kUserDefined)) scores[i] = kScoreOfUserDefined;
    if (types[i] == static_cast<int32_t>(TokenType::kUnused)) scores[i] = kScoreOfUnused;
  }
  return scores;
}

}  // namespace metal_marlin
