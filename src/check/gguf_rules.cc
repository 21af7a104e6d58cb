// llama.cpp: keys, tokenizer and tensors of a GGUF file.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "check/rule.h"
#include "formats/text.h"
#include "tokenizer/vocabulary/gguf_pre_tokenizers.h"

namespace metal_marlin {
namespace {

void needs_gguf(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.gguf) return;
  std::string advice = "metal-marlin convert --to f16, then llama.cpp's convert_hf_to_gguf.py";
  if (f.method.empty() && !f.any_quantized()) advice = "llama.cpp's convert_hf_to_gguf.py";
  if (f.method == "gptq") {
    const bool all = std::all_of(f.modules.begin(), f.modules.end(), [](const auto& m) {
      return m.second.stored != WeightForm::kQweight || m.second.group_index;
    });
    if (all) advice = "llama.cpp's convert_hf_to_gguf.py, which dequantizes it";
  }
  answer.refused("a folder of safetensors; llama.cpp reads GGUF files alone", advice);
}

bool is_known(const std::string& architecture) {
  static const std::set<std::string_view> kKnown = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"};
  return kKnown.count(architecture) > 0;
}

void architecture(const Question& q, Answer& answer) {
  const auto& g = q.facts.gguf_facts;
  if (!g) return;
  if (g->architecture.empty()) {
    answer.refused("general.architecture: expected a text, found none", "write the file again");
  } else if (!is_known(g->architecture)) {
    answer.unknown(
        fmt::format("general.architecture is {}; the rules know llama, qwen2, qwen3, gemma2, gemma3 and phi3",
                    shown(g->architecture)),
        "try it");
  }
}

void keys(const Question& q, Answer& answer) {
  const auto& g = q.facts.gguf_facts;
  if (!g || !is_known(g->architecture)) return;
  Names missing;
  for (const char* key : {".context_length", ".embedding_length", ".block_count", ".feed_forward_length",
                          ".attention.head_count", ".attention.layer_norm_rms_epsilon"}) {
    if (g->keys.count(g->architecture + key) == 0) missing.add(g->architecture + key);
  }
  for (const char* key : {"tokenizer.ggml.model", "tokenizer.ggml.tokens"}) {
    if (g->keys.count(key) == 0) missing.add(key);
  }
  if (!missing.empty()) answer.refused(missing.text() + ": expected the key, found none", "write the file again");
}

void tokenizer(const Question& q, Answer& answer) {
  const auto& g = q.facts.gguf_facts;
  if (!g || g->texts.count("tokenizer.ggml.model") == 0) return;
  const std::string& model = g->texts.at("tokenizer.ggml.model");
  static const std::set<std::string_view> kModels = {"llama", "gpt2"};
  static const std::set<std::string_view> kOthers = {"bert", "t5", "rwkv", "plamo2", "no_vocab", "none", "gemma4"};
  if (kModels.count(model) == 0) {
    const std::string message = fmt::format("tokenizer.ggml.model is {}", shown(model));
    if (kOthers.count(model) > 0) {
      answer.unknown(message + ", which no rule looks at", "try it");
    } else {
      answer.refused(message + ", which llama.cpp does not know", "write the file again");
    }
    return;
  }
  const auto count = [&](const char* key) {
    const auto it = g->counts.find(key);
    return it == g->counts.end() ? uint64_t{0} : it->second;
  };
  const uint64_t tokens = count("tokenizer.ggml.tokens");
  if (model == "gpt2" && count("tokenizer.ggml.merges") == 0)
    answer.refused("tokenizer.ggml.merges: expected at least one, found none", "write the file again");
  for (const char* key : {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}) {
    if (g->counts.count(key) > 0 && count(key) < tokens)
      answer.refused(fmt::format("{}: expected {} as tokenizer.ggml.tokens, found {}", key, tokens, count(key)),
                     "write the file again");
  }
}

void pre_tokenizer(const Question& q, Answer& answer) {
  const auto& g = q.facts.gguf_facts;
  if (!g || g->texts.count("tokenizer.ggml.model") == 0 || g->texts.at("tokenizer.ggml.model") != "gpt2") return;
  const auto it = g->texts.find("tokenizer.ggml.pre");
  if (it == g->texts.end()) {
    answer.wrong(
        "tokenizer.ggml.pre: expected the name of a pre-tokenizer, found none: llama.cpp takes its default and says "
        "that the output will be degraded",
        "write the file again with a newer converter");
    return;
  }
  const auto names = gguf_pre_tokenizer_names();
  if (it->second == "default" || std::find(names.begin(), names.end(), it->second) != names.end()) return;
  answer.unknown(
      fmt::format("tokenizer.ggml.pre is {}, which is not among the {} names that this program knows; llama.cpp "
                  "refuses those that it does not know",
                  shown(it->second), names.size()),
      "try it with the version of llama.cpp that you have");
}

void embedding_rows(const Question& q, Answer& answer) {
  const auto& g = q.facts.gguf_facts;
  if (!g) return;
  const auto it = g->shapes.find("token_embd.weight");
  const auto tokens = g->counts.find("tokenizer.ggml.tokens");
  if (it == g->shapes.end()) {
    answer.refused("token_embd.weight: expected the tensor, found none", "write the file again");
  } else if (tokens != g->counts.end() && it->second.size() == 2 &&
             static_cast<uint64_t>(it->second[0]) != tokens->second) {
    answer.refused(fmt::format("token_embd.weight: expected {} rows as tokenizer.ggml.tokens, found {}", tokens->second,
                               it->second[0]),
                   "write the file again");
  }
}

void tensors(const Question& q, Answer& answer) {
  const auto& g = q.facts.gguf_facts;
  if (!g || !is_known(g->architecture)) return;
  const auto blocks = g->numbers.find(g->architecture + ".block_count");
  if (blocks == g->numbers.end()) return;
  constexpr int64_t kMostBlocks = 1000;
  if (blocks->second < 1 || blocks->second > kMostBlocks) {
    answer.refused(fmt::format("{}.block_count is {}", g->architecture, blocks->second), "write the file again");
    return;
  }
  const bool fused = g->architecture == "phi3";
  std::vector<std::string> names = {"attn_norm", "attn_output", "ffn_down", "ffn_up", "ffn_norm"};
  if (fused) {
    names.push_back("attn_qkv");
  } else {
    names.insert(names.end(), {"attn_q", "attn_k", "attn_v", "ffn_gate"});
  }
  if (g->architecture == "qwen3" || g->architecture == "gemma3")
    names.insert(names.end(), {"attn_q_norm", "attn_k_norm"});
  if (g->architecture == "gemma2" || g->architecture == "gemma3")
    names.insert(names.end(), {"post_attention_norm", "post_ffw_norm"});
  if (g->numbers.count(g->architecture + ".expert_count") > 0 && g->numbers.at(g->architecture + ".expert_count") > 0) {
    answer.unknown(g->architecture + ".expert_count: a mixture of experts, whose layers no rule looks at", "try it");
    return;
  }
  Names missing;
  if (g->shapes.count("output_norm.weight") == 0) missing.add("output_norm.weight");
  for (int64_t i = 0; i < blocks->second; ++i) {
    for (const std::string& name : names) {
      const std::string full = fmt::format("blk.{}.{}.weight", i, name);
      if (g->shapes.count(full) == 0) missing.add(full);
    }
  }
  if (!missing.empty()) answer.refused(missing.text() + ": expected the tensor, found none", "write the file again");
  Names extra;
  for (const auto& [name, shape] : g->shapes) {
    static_cast<void>(shape);
    if (name.find("inv_freq") != std::string::npos || name.find("rotary_emb") != std::string::npos) extra.add(name);
    if (name.rfind("blk.", 0) == 0) {
      const std::string digits = name.substr(4, name.find('.', 4) - 4);
      const bool number = !digits.empty() && digits.size() < 9 &&
                          std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
      if (number && std::stoll(digits) >= blocks->second) extra.add(name);
    }
  }
  if (!extra.empty())
    answer.refused(extra.text() + ": a tensor without a place, which llama.cpp refuses", "write the file again");
}

}  // namespace

std::span<const Rule> gguf_rules() {
  static constexpr const char* kModel =
      "llama.cpp as in llama-cpp-python 0.3.36: src/llama-model.cpp, src/models/*.cpp";
  static constexpr const char* kVocabulary = "llama.cpp as in llama-cpp-python 0.3.36: src/llama-vocab.cpp";
  static constexpr Rule kRules[] = {
      {"needs-gguf", only(Engine::kLlamaCpp), "the kind of the checkpoint",
       "llama.cpp as in llama-cpp-python 0.3.36: src/llama-model-loader.cpp, conversion/base.py", needs_gguf},
      {"gguf-architecture", only(Engine::kLlamaCpp), "general.architecture", kModel, architecture},
      {"gguf-keys", only(Engine::kLlamaCpp), "keys that the loader requires", kModel, keys},
      {"gguf-tokenizer", only(Engine::kLlamaCpp), "tokenizer.ggml.model, merges, scores, token types", kVocabulary,
       tokenizer},
      {"gguf-pre-tokenizer", only(Engine::kLlamaCpp), "tokenizer.ggml.pre", kVocabulary, pre_tokenizer},
      {"gguf-embedding-rows", only(Engine::kLlamaCpp), "rows of token_embd against the tokens", kModel, embedding_rows},
      {"gguf-tensors", only(Engine::kLlamaCpp), "the tensors of each block, and tensors without a place", kModel,
       tensors},
  };
  return kRules;
}

}  // namespace metal_marlin
