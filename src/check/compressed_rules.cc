// compressed-tensors: the schema of its config, and what each engine has of its schemes.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "check/engine_layers.h"
#include "check/pattern.h"
#include "check/rule.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

constexpr size_t kMostGroups = 1000;
constexpr size_t kMostMatches = 20'000'000;  // targets and ignored names times modules

struct Group {
  std::string name;
  const json* object;
  const json* weights;  // null: not there
  std::vector<std::string> targets;
};

std::vector<Group> groups_of(const CheckpointFacts& f) {
  std::vector<Group> out;
  if (f.method != "compressed-tensors") return out;
  for (const auto& [name, object] : part(f.quantization, "config_groups").items()) {
    if (!object.is_object() || out.size() == kMostGroups) continue;
    const json& weights = part(object, "weights");
    out.push_back({name, &object, weights.is_object() ? &weights : nullptr, texts(object, "targets")});
  }
  return out;
}

bool asymmetric(const Group& g) {
  return g.weights != nullptr && !truth(*g.weights, "symmetric").value_or(true);
}

std::string place(const Question& q, const Group& g) {
  return fmt::format("{}: config_groups: {}", q.facts.quantization_place, shown(g.name));
}

void unknown_keys(const Question& q, Answer& answer) {
  static const std::set<std::string_view> kGroup = {"targets", "weights", "input_activations", "output_activations",
                                                    "format"};
  static const std::set<std::string_view> kArgs = {
      "num_bits", "type",     "symmetric",   "group_size", "strategy", "block_structure",
      "dynamic",  "actorder", "scale_dtype", "zp_dtype",   "observer", "observer_kwargs"};
  for (const Group& g : groups_of(q.facts)) {
    Names names;
    for (const auto& [key, value] : g.object->items()) {
      static_cast<void>(value);
      if (kGroup.count(key) == 0) names.add(key);
    }
    if (g.weights != nullptr) {
      for (const auto& [key, value] : g.weights->items()) {
        static_cast<void>(value);
        if (kArgs.count(key) == 0) names.add(key);
      }
    }
    if (!names.empty()) {
      answer.refused(fmt::format("{}: expected known keys alone, found {}", place(q, g), names.text()), "remove it");
    }
  }
}

void arguments(const Question& q, Answer& answer) {
  for (const Group& g : groups_of(q.facts)) {
    if (g.weights == nullptr) {
      answer.unknown(place(q, g) + ": no weights, so nothing is known of the scheme", "try it");
      continue;
    }
    const std::string strategy = text(*g.weights, "strategy");
    const auto group = whole(*g.weights, "group_size");
    if (strategy == "group" && (!group || *group <= 0)) {
      answer.refused(place(q, g) + ": strategy is group, which needs a group_size above 0", "add group_size");
    } else if (!strategy.empty() && strategy != "group" && strategy != "tensor_group" && group && *group > 0) {
      answer.refused(
          fmt::format("{}: strategy is {}, which takes no group_size, found {}", place(q, g), shown(strategy), *group),
          "remove group_size, or make the strategy group");
    }
    const auto order = g.weights->find("actorder");
    const bool scattered = order != g.weights->end() && (*order == true || *order == "group" || *order == "dynamic");
    if (scattered) {
      if (q.is(Engine::kSglang)) {
        answer.unknown(place(q, g) + ": actorder group, of which no rule is known in SGLang", "try it");
      } else {
        answer.refused(place(q, g) + ": actorder group is read no more", "quantize without act order");
      }
    }
  }
}

// Integers in groups or rows without activations; else nothing is known.
void schemes(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  for (const Group& g : groups_of(f)) {
    if (g.weights == nullptr) continue;
    const std::string type = text(*g.weights, "type");
    const bool activations = part(*g.object, "input_activations").is_object();
    if ((!type.empty() && type != "int") || activations) {
      answer.unknown(place(q, g) + ": floats or quantized activations, which no rule looks at", "try it");
      continue;
    }
    const int64_t bits = whole(*g.weights, "num_bits").value_or(8);
    const auto group = whole(*g.weights, "group_size");
    if (q.is(Engine::kSglang) && bits != 4 && bits != 8) {
      answer.refused(fmt::format("{}: expected num_bits 4 or 8, found {}", place(q, g), bits),
                     "quantize to 4 or 8 bits");
    } else if (bits < 1 || bits > 8 || (q.is(Engine::kVllm) && bits < 2)) {
      answer.refused(fmt::format("{}: expected num_bits 2 to 8, found {}", place(q, g), bits), "quantize to 4 bits");
    } else if (q.is(Engine::kVllm) && bits != 4 && bits != 8) {
      answer.unknown(
          fmt::format("{}: num_bits is {}: vLLM has a kernel for it in the package humming alone", place(q, g), bits),
          "install humming, or quantize to 4 or 8 bits");
    } else if (!q.is(Engine::kTransformers) && bits == 8 && asymmetric(g)) {
      answer.unknown(place(q, g) + ": 8 bits with zero points, for which there is no Marlin kernel",
                     "quantize with --scheme sym");
    }
    const bool whole_row = !group || *group <= 0;
    const bool marlin = whole_row || *group == 32 || *group == 64 || *group == 128;
    if (q.is(Engine::kTransformers) || marlin) continue;
    const bool half = f.sizes.dtype == "float16";
    if (q.is(Engine::kVllm) && (bits == 4 || bits == 8) && !asymmetric(g) && half) {
      answer.slow(
          fmt::format("{}: group_size is {}; Marlin has 32, 64, 128 and whole rows, and a slower kernel is taken",
                      place(q, g), *group),
          "quantize with --group-size 128");
    } else {
      answer.unknown(fmt::format("{}: group_size is {}; Marlin has 32, 64, 128 and whole rows", place(q, g), *group),
                     "quantize with --group-size 128");
    }
  }
}

// A name, or an expression behind "re:", compiled once.
struct Target {
  std::string text;
  std::optional<Pattern> pattern;
  const Group* group = nullptr;

  Target(std::string name, const Group* of) : text(std::move(name)), group(of) {
    if (text.rfind("re:", 0) == 0) pattern.emplace(text.substr(3));
  }
  // `known` becomes false where the expression cannot be judged.
  bool matches(const std::string& module, bool& known) const {
    if (text == module) return true;
    if (!pattern) return false;
    if (pattern->known()) return pattern->matches(module);
    known = false;
    return false;
  }
};

// The group of a module: by its name, then by an expression, then by the class of a linear. null: none.
const Group* group_of(const std::vector<Target>& targets, const std::string& module, bool& known) {
  const Group* by_class = nullptr;
  const Group* by_pattern = nullptr;
  for (const Target& t : targets) {
    if (t.text == module) return t.group;
    if (t.text == "Linear") {
      if (by_class == nullptr) by_class = t.group;
    } else if (by_pattern == nullptr && t.matches(module, known)) {
      by_pattern = t.group;
    }
  }
  return by_pattern != nullptr ? by_pattern : by_class;
}

// What the config says of each linear against its tensors.
void targets(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const auto groups = groups_of(f);
  if (groups.empty()) return;
  std::vector<Target> named;
  std::vector<Target> left;
  for (const Group& g : groups) {
    for (const std::string& target : g.targets) named.emplace_back(target, &g);
  }
  for (const std::string& entry : texts(f.quantization, "ignore")) left.emplace_back(entry, nullptr);
  if ((named.size() + left.size()) * f.modules.size() > kMostMatches) {
    answer.unknown(fmt::format("{} targets and {} ignored names, more than this program matches with {} modules",
                               named.size(), left.size(), f.modules.size()),
                   "write fewer of them, as expressions");
    return;
  }
  Names untold;     // quantized, without a group
  Names in_floats;  // of a group, stored in floats
  Names widths;
  Names zeros;
  Names not_known;
  std::string width_found;
  for (const auto& [name, m] : f.modules) {
    if (name.find("layers.") == std::string::npos || m.stored == WeightForm::kFloat8) continue;
    bool known = true;
    const Group* g = group_of(named, name, known);
    const bool ignored = std::any_of(left.begin(), left.end(), [&](const Target& t) { return t.matches(name, known); });
    if (!known) {
      not_known.add(name);
      continue;
    }
    if (g == nullptr && m.quantized()) untold.add(name);
    if (g != nullptr && !ignored && !m.quantized()) in_floats.add(name);
    if (g == nullptr || ignored || !m.quantized() || g->weights == nullptr) continue;
    const auto bits = whole(*g->weights, "num_bits");
    const auto group = whole(*g->weights, "group_size");
    const auto expected = group && *group > 0 ? group : m.columns;
    const auto found = m.group_size();
    if ((bits && m.bits && *bits != *m.bits) || (expected && found && *expected != *found)) {
      if (widths.empty()) width_found = fmt::format("{} bits in groups of {}", m.bits.value_or(0), found.value_or(0));
      widths.add(name);
    }
    if (asymmetric(*g) != m.zeros) zeros.add(name);
  }
  const auto say = [&](const Names& names, const std::string& message) {
    if (names.empty()) return;
    const std::string whole_message = fmt::format("{}: {}", names.text(), message);
    answer.refused(whole_message, "take the config that belongs to the weights");
  };
  say(untold, "quantized, but no target of config_groups names it");
  say(in_floats, "stored in floats, but a target of config_groups names it and ignore does not");
  say(widths, "the tensors have " + width_found + ", config_groups says otherwise");
  say(zeros, "zero points are stored where config_groups says symmetric, or the other way round");
  if (!not_known.empty()) {
    answer.unknown(not_known.text() + ": an expression among targets or ignore is one that this program does not read",
                   "try it");
  }
}

void transformers_zeros(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const auto groups = groups_of(f);
  const bool dequantize = truth(f.quantization, "dequantize").value_or(false);
  const bool any = std::any_of(groups.begin(), groups.end(), asymmetric);
  if (any && groups.size() > 1) {
    answer.refused("config_groups: several groups, one with zero points, which transformers cannot read",
                   "quantize with --scheme sym, or with one width and group size");
  } else if (any && !dequantize) {
    answer.refused(f.quantization_place + ": zero points, which transformers reads with \"dequantize\": true alone",
                   "add \"dequantize\": true to quantization_config");
  } else if (dequantize && groups.size() > 1) {
    answer.refused(
        f.quantization_place + ": dequantize is true with several config_groups, of which one is taken for all",
        "remove dequantize");
  }
}

void groups_divide(const Question& q, Answer& answer) {
  Names names;
  if (q.facts.method != "compressed-tensors") return;
  for (const auto& [name, m] : q.facts.modules) {
    if (m.stored == WeightForm::kPacked && m.columns && m.groups && *m.groups > 1 && *m.columns % *m.groups != 0)
      names.add(name);
  }
  if (names.empty()) return;
  answer.refused(names.text() + ": the groups do not divide in_features", "quantize with a group size that divides it");
}

}  // namespace

std::span<const Rule> compressed_rules() {
  static constexpr Engines kReaders = kServers | Engine::kTransformers;
  static constexpr Rule kRules[] = {
      {"config-group-keys", kReaders, "keys of config_groups",
       "compressed-tensors 0.20.1 quantization/quant_args.py, quant_scheme.py (extra=\"forbid\")", unknown_keys},
      {"config-group-values", kReaders, "strategy, group_size, actorder",
       "compressed-tensors 0.20.1 quantization/quant_args.py; vLLM 0.33 compressed_tensors/compressed_tensors.py",
       arguments},
      {"schemes", kReaders, "num_bits, type, group_size of each group",
       "vLLM 0.33 schemes/compressed_tensors_wNa16.py, kernels/linear/__init__.py; SGLang 0.5.23 "
       "schemes/compressed_tensors_wNa16.py",
       schemes},
      {"targets", kReaders, "targets and ignore against the tensors of each linear",
       "vLLM 0.33 compressed_tensors/utils.py:find_matched_target; compressed-tensors 0.20.1 utils/match.py", targets},
      {"zero-points", only(Engine::kTransformers), "zero points, dequantize, number of groups",
       "run with transformers 5.24 and compressed-tensors 0.20.1 (pack_quantized/base.py:compress)",
       transformers_zeros},
      {"packed-groups-divide", kReaders, "in_features against the number of scales",
       "compressed-tensors 0.20.1 quantization/lifecycle/forward.py; vLLM 0.33 "
       "distributed/utils.py:verify_group_size_divides_partition",
       groups_divide},
  };
  return kRules;
}

}  // namespace metal_marlin
