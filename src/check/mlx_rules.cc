// mlx-lm.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "check/rule.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

void mode(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "mlx") return;
  const std::string name = text(f.quantization, "mode");
  if (!name.empty() && name != "affine") {
    answer.unknown(fmt::format("{}: mode is {}, which no rule looks at", f.quantization_place, shown(name)), "try it");
  }
}

void bits_and_groups(const Question& q, Answer& answer) {
  constexpr std::array<int64_t, 6> kBits = {2, 3, 4, 5, 6, 8};
  const CheckpointFacts& f = q.facts;
  if (f.method == "awq") {
    const auto bits = whole(f.quantization, "bits");
    if (bits && *bits != 4) {
      answer.refused(fmt::format("{}: expected 4 bits, found {}", f.quantization_place, *bits),
                     "metal-marlin convert --to mlx");
    }
  }
  if (f.method != "awq" && (f.method != "mlx" || !text(f.quantization, "mode").empty())) {
    if (f.method != "mlx" || text(f.quantization, "mode") != "affine") return;
  }
  Names widths;
  Names groups;
  int64_t width_found = 0;
  int64_t group_found = 0;
  for (const auto& [name, m] : f.modules) {
    if (!m.quantized()) continue;
    const auto group = m.group_size();
    if (m.stored == WeightForm::kMlx && m.bits && std::find(kBits.begin(), kBits.end(), *m.bits) == kBits.end()) {
      if (widths.empty()) width_found = *m.bits;
      widths.add(name);
    }
    if (group && *group != 32 && *group != 64 && *group != 128) {
      if (groups.empty()) group_found = *group;
      groups.add(name);
    }
  }
  if (!widths.empty()) {
    answer.refused(fmt::format("{}: expected 2, 3, 4, 5, 6 or 8 bits, found {}", widths.text(), width_found),
                   "quantize to one of these widths");
  }
  if (!groups.empty()) {
    answer.refused(fmt::format("{}: expected groups of 32, 64 or 128, found {}", groups.text(), group_found),
                   "quantize with --group-size 64");
  }
}

void group_index(const Question& q, Answer& answer) {
  if (q.facts.method != "awq" && q.facts.method != "gptq") return;
  Names names;
  for (const auto& [name, m] : q.facts.modules) {
    if (m.group_index) names.add(name);
  }
  if (!names.empty()) {
    answer.refused(names.text() + ": has a tensor g_idx, which mlx-lm refuses", "metal-marlin convert --to mlx");
  }
}

// Its classes have no rope_parameters, but for qwen3: what stands there alone is not seen, and defaults count.
void rope_keys(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const std::string& type = f.sizes.model_type;
  const json& nested = part(f.config, "rope_parameters");
  if (!nested.is_object() || type == "qwen3") return;
  double theta_default = 0;
  if (type == "llama" || type == "mistral" || type == "gemma2" || type == "phi3") theta_default = 10000;
  if (type == "qwen2" || type == "gemma3_text") theta_default = 1000000;
  if (theta_default == 0) {
    answer.unknown(fmt::format("config.json: rope_parameters, of which it is not known whether mlx-lm's {} reads them",
                               shown(type)),
                   "write rope_theta and rope_scaling beside it");
    return;
  }
  const auto number = [](const json& object, const char* key) -> std::optional<double> {
    const auto it = object.find(key);
    return it != object.end() && it->is_number() ? std::optional(it->get<double>()) : std::nullopt;
  };
  // gemma3_text has parameters for each kind of layer.
  const json& full = part(nested, "full_attention");
  const json& parameters = full.is_object() ? full : nested;
  const auto theta = number(parameters, "rope_theta");
  if (theta && !number(f.config, "rope_theta") && *theta != theta_default) {
    answer.wrong(
        fmt::format("config.json: rope_theta {} stands in rope_parameters alone, where mlx-lm does not look: it "
                    "takes {}",
                    *theta, theta_default),
        "write rope_theta beside rope_parameters");
  }
  const std::string scaling = text(parameters, "rope_type");
  if (!scaling.empty() && scaling != "default" && !part(f.config, "rope_scaling").is_object()) {
    answer.wrong(fmt::format("config.json: rope_type {} stands in rope_parameters alone, where mlx-lm does not look",
                             shown(scaling)),
                 "write rope_scaling beside rope_parameters");
  }
}

// Without the key its llama and qwen2 are tied, unlike transformers'.
void tied_default(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.sizes.tied || !f.has_config) return;
  const std::string& type = f.sizes.model_type;
  const std::string advice = "write tie_word_embeddings into config.json";
  if (type == "qwen3") {
    answer.refused("config.json: expected tie_word_embeddings, found none; mlx-lm's qwen3 has no default", advice);
  } else if ((type == "llama" || type == "mistral" || type == "qwen2") && f.module("lm_head") != nullptr) {
    const std::string message =
        "config.json: no tie_word_embeddings, which mlx-lm takes for true, but there is an lm_head";
    if (f.module("lm_head")->quantized()) {
      answer.refused(message + " with scales that have no place then", advice);
    } else {
      answer.wrong(message + ", which is left aside", advice);
    }
  }
}

// Loading is strict: a tensor without a place is an error.
void extra_tensors(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  Names names;
  for (const auto& [name, tensor] : f.tensors) {
    static_cast<void>(tensor);
    if (name.find("rotary_emb.inv_freq") != std::string::npos) {
      const std::string& type = f.sizes.model_type;
      if (type != "llama" && type != "mistral" && type != "qwen2") names.add(name);
    } else if (name.size() > 8 && name.compare(name.size() - 8, 8, ".q_scale") == 0) {
      names.add(name);
    }
  }
  if (!names.empty()) {
    answer.refused(names.text() + ": a tensor for which mlx-lm has no place", "remove it from the weights");
  }
}

}  // namespace

std::span<const Rule> mlx_rules() {
  static constexpr Rule kRules[] = {
      {"mlx-mode", only(Engine::kMlx), "mode of the quantization", "mlx-lm 0.32.2 utils.py:infer_quant_config", mode},
      {"mlx-bits-and-groups", only(Engine::kMlx), "bits and group size of each linear",
       "mlx 0.32.4 ops (quantize: \"The supported bits are\"); mlx-lm 0.32.2 utils.py:_transform_awq_weights",
       bits_and_groups},
      {"mlx-group-index", only(Engine::kMlx), "g_idx", "mlx-lm 0.32.2 utils.py:_transform_awq_weights (run)",
       group_index},
      {"mlx-rope-keys", only(Engine::kMlx), "rope_theta and rope_scaling beside rope_parameters",
       "mlx-lm 0.32.2 models/llama.py, qwen2.py, gemma2.py, gemma3_text.py, phi3.py (run)", rope_keys},
      {"mlx-tied-default", only(Engine::kMlx), "tie_word_embeddings",
       "mlx-lm 0.32.2 models/llama.py, qwen2.py, qwen3.py (ModelArgs, sanitize)", tied_default},
      {"mlx-extra-tensors", only(Engine::kMlx), "tensors without a place",
       "mlx-lm 0.32.2 utils.py:load_model (strict), models/*.py:sanitize", extra_tensors},
  };
  return kRules;
}

}  // namespace metal_marlin
