// The tiny models of tests/data/models and what transformers computes from them.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace metal_marlin::test {

inline std::string tiny_model(const std::string& name) {
  return std::string(TEST_DATA) + "/models/" + name;
}

// Without llama-dynamic: its frequencies grow with the sequence, so that keys in a cache were turned by others than a
// forward pass over the whole sequence uses (in transformers as here).
inline const std::vector<std::string>& tiny_model_names() {
  static const std::vector<std::string> kNames = {
      "llama",   "llama-bias", "llama-linear",  "llama-llama3", "llama-yarn-mscale", "llama-yarn-attention-factor",
      "mistral", "phi3",       "qwen2",         "qwen2-window", "qwen2-yarn",        "qwen3",
      "gemma2",  "gemma3",     "gemma3-pattern"};
  return kNames;
}

// input_ids [sequences][tokens] and logits [sequences * tokens][vocab] of golden.safetensors.
struct GoldenLogits {
  std::vector<std::vector<int32_t>> ids;
  std::vector<float> logits;
  int64_t vocab = 0;
  float largest = 0;

  // prefix "short.": the first tokens run alone.
  explicit GoldenLogits(const std::string& name, const std::string& prefix = "") {
    const SafetensorsFile file(tiny_model(name) + "/golden.safetensors");
    const TensorView& i = file.get(prefix + "input_ids");
    const TensorView& l = file.get(prefix + "logits");
    vocab = l.shape[2];
    for (int64_t s = 0; s < i.shape[0]; ++s) {
      std::vector<int32_t> row(static_cast<size_t>(i.shape[1]));
      std::memcpy(row.data(), i.bytes.data() + static_cast<size_t>(s) * row.size() * 4, row.size() * 4);
      ids.push_back(row);
    }
    logits.resize(l.bytes.size() / 4);
    std::memcpy(logits.data(), l.bytes.data(), l.bytes.size());
    for (const float v : logits) largest = v > largest ? v : (-v > largest ? -v : largest);
  }
  const float* row(size_t sequence, size_t token) const {
    return logits.data() + (sequence * ids[0].size() + token) * static_cast<size_t>(vocab);
  }
};

}  // namespace metal_marlin::test
