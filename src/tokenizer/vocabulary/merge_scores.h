// The scores of SentencePiece BPE from the merges of a tokenizer.json.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {

// One score for each token. SentencePiece joins the neighbours whose joined piece has the highest score, a
// tokenizer.json the pair that stands first among its merges. Both are the same where all ways to make a piece stand
// together in the merges, as transformers' converters write them: then the n-th piece gets the score -n, as in Llama.
// Pieces whose merges stand mixed have the same score. Types are those of gguf_tokenizer.h; tokens that are not normal
// get what llama.cpp's converter gives them. UnsupportedError, which opens with `file`, where a piece can be made in a
// way that the merges lack: there is no such vocabulary of SentencePiece.
std::vector<float> merge_scores(const std::vector<std::string>& tokens, const std::vector<int32_t>& types,
                                const std::vector<std::pair<std::string, std::string>>& merges,
                                const std::string& file);

}  // namespace metal_marlin
