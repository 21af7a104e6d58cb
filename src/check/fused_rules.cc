// Lists of modules that are left in floats, as each engine matches them, and layers that engines fuse.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "check/engine_layers.h"
#include "check/pattern.h"
#include "check/rule.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr size_t kLongestList = 4096;
constexpr size_t kMostMatches = 20'000'000;  // entries times modules

// Parts of a fused layer that differ in what is stored, in bits or in groups.
void fused_scheme(const Question& q, Answer& answer) {
  if (q.facts.method.empty() || q.facts.method == "mlx") return;
  Names names;
  std::string found;
  const auto words = [](const ModuleFact& m) {
    if (!m.quantized()) return std::string("floats");
    return fmt::format("{} bits in groups of {}", m.bits ? fmt::to_string(*m.bits) : "?",
                       m.group_size() ? fmt::to_string(*m.group_size()) : "?");
  };
  for (const EngineLayer& layer : engine_layers(q.facts)) {
    for (const ModuleFact* part : layer.parts) {
      const ModuleFact& first = *layer.parts[0];
      if (part->quantized() == first.quantized() && part->bits == first.bits &&
          part->group_size() == first.group_size() && part->zeros == first.zeros)
        continue;
      if (names.empty()) {
        found = fmt::format("{} has {}, {} has {}", first.last(), words(first), part->last(), words(*part));
        if (words(first) == words(*part))
          found += fmt::format(", zero points in {} alone", first.zeros ? first.last() : part->last());
      }
      names.add(layer.name);
      break;
    }
  }
  if (names.empty()) return;
  answer.refused(fmt::format("{}: expected one scheme for all parts, since {} fuses them; found {}", names.text(),
                             q.name(), found),
                 "quantize the parts alike: q, k and v have one --linear-bits, and so have gate and up");
}

// Whether a list names a module; nothing where a pattern cannot be judged.
using Match = std::function<std::optional<bool>(const std::string& name)>;

Match by_substring(const std::vector<std::string>& list) {
  return [list](const std::string& name) -> std::optional<bool> {
    return std::any_of(list.begin(), list.end(),
                       [&](const std::string& entry) { return name.find(entry) != std::string::npos; });
  };
}

// Entries that begin with "re:" are expressions, the others names. SGLang takes a name for the end of one too, and
// transformers every entry for both.
enum class Reading : uint8_t { kNames, kEnds, kTransformers };

bool ends_so(const std::string& name, const std::string& end) {
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

Match by_pattern(const std::vector<std::string>& list, Reading reading) {
  struct Entry {
    std::string text;
    std::optional<Pattern> pattern;
  };
  std::vector<Entry> entries;
  for (const std::string& entry : list) {
    const bool expression = entry.rfind("re:", 0) == 0;
    if (reading == Reading::kTransformers) {
      entries.push_back({entry, Pattern("(?:" + entry + ")(?:\\.|$)")});
    } else {
      entries.push_back({entry, expression ? std::optional(Pattern(entry.substr(3))) : std::nullopt});
    }
  }
  return [entries, reading](const std::string& name) -> std::optional<bool> {
    bool all_known = true;
    for (const Entry& e : entries) {
      if (e.text == name) return true;
      if (reading == Reading::kEnds && !e.pattern && ends_so(name, "." + e.text)) return true;
      if (reading == Reading::kTransformers && ends_so(name, e.text)) return true;
      if (!e.pattern) continue;
      if (!e.pattern->known()) {
        all_known = false;
      } else if (e.pattern->matches(name)) {
        return true;
      }
    }
    return all_known ? std::optional(false) : std::nullopt;
  };
}

// What the list makes of the layers, against what is stored.
struct Skips {
  Names quantized;  // that it leaves in floats
  Names floats;     // that it does not name
  Names halves;     // fused layers of which it names a part
  Names unknown;
};

void judge(const std::string& name, std::optional<bool> skipped, const std::vector<const ModuleFact*>& parts,
           Skips& out) {
  if (!skipped) {
    out.unknown.add(name);
    return;
  }
  for (const ModuleFact* part : parts) {
    if (*skipped && part->quantized()) out.quantized.add(part->name);
    if (!*skipped && !part->quantized()) out.floats.add(part->name);
  }
}

// `by_parts`: the list is asked for each part of a fused layer; else for the fused layer's own name.
Skips skips_of(const CheckpointFacts& facts, const Match& match, bool by_parts) {
  Skips out;
  for (const EngineLayer& layer : engine_layers(facts)) {
    if (!layer.fused() || !by_parts) {
      judge(layer.name, match(layer.fused() ? layer.name : layer.parts[0]->name), layer.parts, out);
      continue;
    }
    size_t skipped = 0;
    bool known = true;
    for (const std::string& part : layer.part_names) {
      const auto found = match(part);
      known = known && found.has_value();
      if (found.value_or(false)) ++skipped;
    }
    if (known && skipped > 0 && skipped < layer.part_names.size()) {
      out.halves.add(layer.name);
    } else {
      judge(layer.name, known ? std::optional(skipped > 0) : std::nullopt, layer.parts, out);
    }
  }
  return out;
}

// `key`: of the list.
void report(const Question& q, Answer& answer, const Skips& skips, const std::string& key, const char* how) {
  const std::string place = q.facts.quantization_place + ": " + key;
  const bool random = q.is(Engine::kTransformers);
  const auto say = [&](const std::string& message, const std::string& advice) {
    if (random) {
      answer.wrong(message + "; weights are made at random there", advice);
    } else {
      answer.refused(message, advice);
    }
  };
  if (!skips.quantized.empty()) {
    say(fmt::format("{}: an entry matches {}, which is quantized ({} matches {})", place, skips.quantized.text(),
                    q.name(), how),
        "write full module names");
  }
  if (!skips.floats.empty()) {
    say(fmt::format("{}: no entry matches {}, which is stored in floats ({} matches {})", place, skips.floats.text(),
                    q.name(), how),
        how == std::string_view("by substring in the name of the fused layer")
            ? "add the name of the fused layer, as model.layers.0.self_attn.qkv_proj"
            : "write full module names");
  }
  if (!skips.halves.empty()) {
    answer.refused(
        fmt::format("{}: names some of the parts of {}, which {} fuses", place, skips.halves.text(), q.name()),
        "name all of its parts or none");
  }
  if (!skips.unknown.empty()) {
    answer.unknown(
        fmt::format("{}: an entry is an expression that this program does not read, so whether it matches {} is "
                    "not known",
                    place, skips.unknown.text()),
        "write full module names");
  }
}

bool too_long(const Question& q, const std::vector<std::string>& list, const std::string& key, Answer& answer) {
  if (list.size() <= kLongestList && list.size() * q.facts.modules.size() <= kMostMatches) return false;
  answer.unknown(fmt::format("{}: {} entries, more than this program matches with {} modules", key, list.size(),
                             q.facts.modules.size()),
                 "write fewer entries, as expressions");
  return true;
}

void awq_skips(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "awq") return;
  const char* key = "modules_to_not_convert";
  const auto list = texts(f.quantization, key);
  if (too_long(q, list, key, answer)) return;
  if (q.is(Engine::kVllm)) {
    if (!list.empty()) report(q, answer, skips_of(f, by_substring(list), true), key, "by substring");
    // Without a list the types of the tensors decide, and only parts that differ are in the way (fused-scheme).
  } else if (q.is(Engine::kSglang)) {
    report(q, answer, skips_of(f, by_substring(list), false), key, "by substring in the name of the fused layer");
  } else {
    Skips out;
    const Match match = by_pattern(list, Reading::kTransformers);
    for (const auto& [name, m] : f.modules) {
      if (name.find("layers.") != std::string::npos) judge(name, match(name), {&m}, out);
    }
    report(q, answer, out, key, "by expression up to the end of a part, or by the end");
  }
}

void compressed_ignores(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "compressed-tensors") return;
  const auto list = texts(f.quantization, "ignore");
  if (too_long(q, list, "ignore", answer)) return;
  // Whether a linear that is not in the list is quantized follows from the targets: compressed_rules.cc.
  const Match match = by_pattern(list, q.is(Engine::kSglang) ? Reading::kEnds : Reading::kNames);
  Skips skips;
  if (q.is(Engine::kTransformers)) {
    for (const auto& [name, m] : f.modules) {
      if (name.find("layers.") != std::string::npos) judge(name, match(name), {&m}, skips);
    }
  } else {
    skips = skips_of(f, match, true);
  }
  skips.floats = {};
  report(q, answer, skips, "ignore", "names and expressions");
}

// SGLang asks `dynamic` alone; vLLM looks at the types of the tensors.
void gptq_skips(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "gptq") return;
  std::vector<std::string> negative;
  for (const auto& [key, value] : part(f.quantization, "dynamic").items()) {
    static_cast<void>(value);
    if (key.rfind("-:", 0) == 0) negative.push_back("re:" + key.substr(2));
  }
  if (too_long(q, negative, "dynamic", answer)) return;
  const Match match = by_pattern(negative, Reading::kNames);
  Skips skips = skips_of(f, match, false);
  if (q.is(Engine::kVllm)) skips.floats = {};
  report(q, answer, skips, "dynamic", "expressions behind -: with the name of the fused layer");
}

void head_skipped(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const ModuleFact* head = f.module("lm_head");
  if (head != nullptr && head->quantized() && f.method == "compressed-tensors" && q.is(Engine::kSglang)) {
    answer.unknown("lm_head is quantized, and no rule is known for that in SGLang", "keep lm_head in 16 bits");
  }
  if (head == nullptr || (f.method != "awq" && f.method != "gptq")) return;
  const bool named = truth(f.quantization, "lm_head").value_or(false);
  if (head->quantized() && !named) {
    answer.refused(f.quantization_place + ": expected lm_head true, since the tensors of lm_head are quantized",
                   "add \"lm_head\": true");
  } else if (!head->quantized() && named) {
    answer.refused(f.quantization_place + ": lm_head is true, but lm_head.weight is stored in floats",
                   "set lm_head to false");
  }
}

}  // namespace

std::span<const Rule> fused_rules() {
  static constexpr Rule kRules[] = {
      {"fused-scheme", kServers, "q, k and v of a layer against each other; gate and up likewise",
       "vLLM 0.33 compressed_tensors/utils.py:should_ignore_layer, utils/quant_utils.py:is_layer_skipped, "
       "utils/gptq_utils.py:is_layer_gptq_quantized; SGLang 0.5.23 compressed_tensors/utils.py",
       fused_scheme},
      {"awq-skip-list", kServers | Engine::kTransformers, "modules_to_not_convert of AWQ",
       "vLLM 0.33 utils/quant_utils.py:is_layer_skipped (skip_with_substr); SGLang 0.5.23 "
       "awq/awq.py:is_layer_skipped_awq; transformers 5.24 quantizers/quantizers_utils.py:should_convert_module",
       awq_skips},
      {"ignore-list", kServers | Engine::kTransformers, "ignore of compressed-tensors",
       "vLLM 0.33 compressed_tensors/utils.py:should_ignore_layer; SGLang 0.5.23 "
       "compressed_tensors/utils.py:check_equal_or_regex_match; compressed-tensors 0.20.1 utils/match.py",
       compressed_ignores},
      {"gptq-skip-list", kServers, "dynamic of GPTQ",
       "vLLM 0.33 utils/gptq_utils.py:get_dynamic_override; SGLang 0.5.23 "
       "quantization/utils.py:get_linear_quant_method",
       gptq_skips},
      {"head-quantized", kServers, "lm_head of quantization_config against the tensors",
       "vLLM 0.33 auto_awq.py, utils/gptq_utils.py (ParallelLMHead); SGLang 0.5.23 awq/awq.py, quantization/utils.py",
       head_skipped},
  };
  return kRules;
}

}  // namespace metal_marlin
