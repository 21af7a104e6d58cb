// Whether the engine knows the model, and whether all its tensors are there.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "check/rule.h"
#include "core/counted.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr int64_t kMostLayers = 1000;

struct KnownModel {
  const char* type;
  bool fused = false;       // qkv_proj, gate_up_proj
  bool head_norms = false;  // q_norm, k_norm
  bool four_norms = false;
  bool biases = false;  // of q, k and v
};

// The model types whose tensors are known here. All four engines that read folders have them.
const KnownModel* known_model(const CheckpointFacts& facts) {
  static constexpr std::array<KnownModel, 7> kModels = {
      {{.type = "llama"},
       {.type = "mistral"},
       {.type = "qwen2", .biases = true},
       {.type = "qwen3", .head_norms = true},
       {.type = "gemma2", .four_norms = true},
       {.type = "gemma3_text", .head_norms = true, .four_norms = true},
       {.type = "phi3", .fused = true}}};
  for (const KnownModel& model : kModels) {
    if (facts.sizes.model_type == model.type) return &model;
  }
  return nullptr;
}

void architecture(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.gguf || !f.has_config) return;
  if (f.sizes.model_type.empty()) {
    answer.refused("config.json: expected model_type, found none", "take config.json from the original model");
    return;
  }
  if (f.sizes.experts && *f.sizes.experts > 0) {
    answer.unknown(fmt::format("config.json: a mixture of {} experts, whose layers no rule looks at", *f.sizes.experts),
                   "try it");
  } else if (known_model(f) == nullptr) {
    answer.unknown(fmt::format("config.json: model_type is {}; the rules know llama, mistral, qwen2, qwen3, gemma2, "
                               "gemma3_text and phi3",
                               shown(f.sizes.model_type)),
                   "try it");
  }
}

std::vector<std::string> layer_modules(const KnownModel& model) {
  if (model.fused) return {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"};
  return {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
}

std::vector<std::string> layer_norms(const KnownModel& model) {
  std::vector<std::string> out = {"input_layernorm", "post_attention_layernorm"};
  if (model.four_norms) out.insert(out.end(), {"pre_feedforward_layernorm", "post_feedforward_layernorm"});
  if (model.head_norms) out.insert(out.end(), {"self_attn.q_norm", "self_attn.k_norm"});
  return out;
}

void tensors_missing(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const KnownModel* model = known_model(f);
  if (model == nullptr || !f.sizes.layers || f.weight_files.empty()) return;
  if (*f.sizes.layers < 1 || *f.sizes.layers > kMostLayers) {
    answer.refused(fmt::format("config.json: num_hidden_layers is {}", *f.sizes.layers), "repair config.json");
    return;
  }
  Names missing;
  const auto module = [&](const std::string& name) {
    if (f.module(name) == nullptr) missing.add(name);
  };
  module("model.embed_tokens");
  if (f.tensors.count("model.norm.weight") == 0) missing.add("model.norm.weight");
  for (int64_t i = 0; i < *f.sizes.layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    for (const std::string& name : layer_modules(*model)) module(layer + name);
    for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
      const std::string bias = fmt::format("{}self_attn.{}.bias", layer, name);
      if (model->biases && f.tensors.count(bias) == 0) missing.add(bias);
    }
    for (const std::string& name : layer_norms(*model)) {
      if (f.tensors.count(layer + name + ".weight") == 0) missing.add(layer + name + ".weight");
    }
  }
  if (missing.empty()) return;
  const std::string message =
      fmt::format("expected the tensors of {}, found none of {}", counted(*f.sizes.layers, "layer"), missing.text());
  if (q.is(Engine::kTransformers)) {
    answer.wrong(message + ": their weights are made at random", "fetch the missing shards");
  } else {
    answer.refused(message, "fetch the missing shards");
  }
}

// The shapes that the sizes in config.json give.
void shapes(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const ModelSizes& s = f.sizes;
  const KnownModel* model = known_model(f);
  if (model == nullptr || !s.hidden_size || !s.heads || !s.kv_heads || *s.heads < 1) return;
  constexpr int64_t kMost = int64_t{1} << 30;
  for (const auto& size : {s.hidden_size, s.intermediate_size, s.heads, s.kv_heads, s.head_dim, s.vocab_size}) {
    if (size && (*size < 1 || *size > kMost)) {
      answer.refused(fmt::format("config.json: a size is {}", *size), "repair config.json");
      return;
    }
  }
  const bool own_head_dim = s.model_type == "gemma2" || s.model_type == "gemma3_text" || s.model_type == "qwen3";
  if (!s.head_dim && own_head_dim) return;
  const int64_t head = s.head_dim.value_or(*s.hidden_size / *s.heads);
  const int64_t query = *s.heads * head;
  const int64_t key = *s.kv_heads * head;
  Names names;
  std::string found;
  // -1: not known.
  const auto look = [&](const std::string& name, const ModuleFact& m, int64_t rows, int64_t columns) {
    const bool rows_fit = rows < 0 || m.rows.value_or(rows) == rows;
    const bool columns_fit = columns < 0 || m.columns.value_or(columns) == columns;
    if (rows_fit && columns_fit) return;
    if (names.empty()) {
      found =
          fmt::format("expected [{}, {}], found [{}, {}]", rows, columns, m.rows.value_or(-1), m.columns.value_or(-1));
    }
    names.add(name);
  };
  const int64_t hidden = *s.hidden_size;
  const int64_t inner = s.intermediate_size.value_or(-1);
  for (const auto& [name, m] : f.modules) {
    const std::string last = m.last();
    if (name == "model.embed_tokens" || name == "lm_head") look(name, m, s.vocab_size.value_or(-1), hidden);
    if (name.rfind("model.layers.", 0) != 0) continue;
    if (last == "q_proj") look(name, m, query, hidden);
    if (last == "k_proj" || last == "v_proj") look(name, m, key, hidden);
    if (last == "qkv_proj") look(name, m, query + 2 * key, hidden);
    if (last == "o_proj") look(name, m, hidden, query);
    if (last == "gate_proj" || last == "up_proj") look(name, m, inner, hidden);
    if (last == "gate_up_proj") look(name, m, inner < 0 ? -1 : 2 * inner, hidden);
    if (last == "down_proj") look(name, m, hidden, inner);
  }
  if (names.empty()) return;
  answer.refused(fmt::format("{}: the sizes in config.json and the tensor differ: {}", names.text(), found),
                 "take the config that belongs to the weights");
}

// What config.json says of the head, and what engines take where it says nothing.
std::optional<bool> is_tied(const CheckpointFacts& f) {
  if (f.sizes.tied) return f.sizes.tied;
  const std::string& type = f.sizes.model_type;
  if (type == "gemma2" || type == "gemma3_text") return true;
  if (known_model(f) != nullptr) return false;  // as transformers' classes have it
  return std::nullopt;
}

void head(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.gguf || !f.has_config || f.weight_files.empty()) return;
  const auto tied = is_tied(f);
  const ModuleFact* stored = f.module("lm_head");
  const ModuleFact* embedding = f.module("model.embed_tokens");
  if (!tied) return;
  if (!*tied) {
    if (stored == nullptr) {
      const std::string message = "config.json: tie_word_embeddings is not true, but there is no lm_head.weight";
      const std::string advice = "set tie_word_embeddings to true where the head is the embedding";
      if (q.is(Engine::kTransformers)) {
        answer.wrong(message + ": the head is made at random", advice);
      } else {
        answer.refused(message, advice);
      }
    }
    return;
  }
  if (stored != nullptr && stored->quantized()) {
    const std::string message =
        "lm_head is quantized, but config.json: tie_word_embeddings is true, so the head is the embedding";
    const std::string advice = "set tie_word_embeddings to false, or leave lm_head out";
    if (q.is(Engine::kMlx)) {
      answer.refused(message + ", and its scales have no place", advice);
    } else {
      answer.wrong(message + " and the stored head is not used", advice);
    }
  }
  if (embedding != nullptr && embedding->quantized() && !q.is(Engine::kMlx)) {
    answer.unknown("model.embed_tokens is quantized, and the head is tied to it", "keep the embedding in 16 bits");
  }
}

void embedding(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const ModuleFact* m = f.module("model.embed_tokens");
  if (m == nullptr || !m->quantized()) return;
  const std::string advice = "keep the embedding in 16 bits";
  if (q.is(Engine::kMlx)) return;
  if (q.is(Engine::kVllm) && m->stored == WeightForm::kPacked) {
    if (m->bits && *m->bits != 4 && *m->bits != 8) {
      answer.refused(fmt::format("model.embed_tokens: expected 4 or 8 bits, found {}", *m->bits), advice);
    }
    return;
  }
  answer.refused(fmt::format("model.embed_tokens is quantized; {} reads it in 16 bits alone", q.name()), advice);
}

}  // namespace

std::span<const Rule> model_rules() {
  static constexpr Rule kRules[] = {
      {"architecture", kFolderReaders, "model_type, experts",
       "model files of vLLM 0.33, SGLang 0.5.23, transformers 5.24, mlx-lm 0.32.2", architecture},
      {"tensors-missing", kFolderReaders, "the tensors of each layer, embedding and last norm",
       "vLLM 0.33 model_loader/default_loader.py (\"Following weights were not initialized\"); mlx-lm 0.32.2 "
       "utils.py:load_model (strict); transformers 5.24 modeling_utils.py",
       tensors_missing},
      {"shapes", kFolderReaders, "shapes of the tensors against the sizes in config.json",
       "the same loaders, which copy into parameters of these shapes", shapes},
      {"head", kFolderReaders, "lm_head beside tie_word_embeddings",
       "vLLM 0.33 models/llama.py; mlx-lm 0.32.2 models/llama.py:sanitize; transformers 5.24 "
       "modeling_utils.py:tie_weights",
       head},
      {"embedding-quantized", kFolderReaders, "a quantized embedding",
       "vLLM 0.33 compressed_tensors/compressed_tensors_embedding.py; run with transformers 5.24 and "
       "compressed-tensors "
       "0.20.1",
       embedding},
  };
  return kRules;
}

std::string Names::text() const {
  return count_ <= 1 ? shown(first_) : fmt::format("{} and {} more", shown(first_), count_ - 1);
}

const char* engine_name(Engine engine) noexcept {
  switch (engine) {
    case Engine::kVllm:
      return "vllm";
    case Engine::kSglang:
      return "sglang";
    case Engine::kTransformers:
      return "transformers";
    case Engine::kMlx:
      return "mlx";
    case Engine::kLlamaCpp:
      return "llama.cpp";
  }
  return "";
}

}  // namespace metal_marlin
