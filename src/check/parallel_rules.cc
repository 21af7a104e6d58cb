// What splitting each layer over devices asks of a checkpoint.
#include <fmt/format.h>

#include <algorithm>

#include "check/engine_layers.h"
#include "check/rule.h"

namespace metal_marlin {
namespace {

void heads_divide(const Question& q, Answer& answer) {
  const ModelSizes& s = q.facts.sizes;
  if (q.devices == 1) return;
  if (!s.heads || !s.kv_heads || *s.heads < 1 || *s.kv_heads < 1) {
    answer.unknown("config.json: num_attention_heads is not known", "try it");
    return;
  }
  if (*s.heads % q.devices != 0) {
    answer.refused(fmt::format("config.json: expected num_attention_heads that are a multiple of {} devices, found {}",
                               q.devices, *s.heads),
                   "use a number of devices that divides them");
  }
  const int64_t larger = std::max(*s.kv_heads, q.devices);
  const int64_t smaller = std::min(*s.kv_heads, q.devices);
  if (larger % smaller != 0) {
    answer.refused(
        fmt::format("config.json: expected num_key_value_heads that divide {} devices or are a multiple of them, "
                    "found {}",
                    q.devices, *s.kv_heads),
        "use another number of devices");
  }
}

void shards_divide(const Question& q, Answer& answer) {
  if (q.devices == 1) return;
  Names names;
  Names groups;
  int64_t columns_found = 0;
  int64_t group_found = 0;
  Names unsized;
  for (const EngineLayer& layer : engine_layers(q.facts)) {
    const ModuleFact& first = *layer.parts[0];
    const bool replicated = !layer.splits_columns && layer.name.find("qkv_proj") != std::string::npos;
    if (layer.splits_columns) {
      if (!first.columns) {
        unsized.add(first.name);
        continue;
      }
      if (*first.columns % q.devices != 0) names.add(first.name);
      const auto group = first.group_size();
      if (!first.quantized() || !first.groups || *first.groups <= 1) continue;
      if (!group) {
        unsized.add(first.name);
      } else if (*first.columns / q.devices % *group != 0) {
        if (groups.empty()) {
          columns_found = *first.columns / q.devices;
          group_found = *group;
        }
        groups.add(first.name);
      }
    } else if (!replicated) {
      for (const ModuleFact* m : layer.parts) {
        if (m->rows && *m->rows % q.devices != 0) names.add(m->name);
      }
    }
  }
  if (!names.empty()) {
    answer.refused(fmt::format("{}: cannot be split evenly over {} devices", names.text(), q.devices),
                   "use a number of devices that divides it");
  }
  if (!groups.empty()) {
    answer.refused(fmt::format("{}: expected a multiple of the group size {} on each of {} devices, found {} inputs",
                               groups.text(), group_found, q.devices, columns_found),
                   "use fewer devices, or quantize in smaller groups");
  }
  if (!unsized.empty()) answer.unknown(unsized.text() + ": the group size is not known from its tensors", "try it");
}

void act_order(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "gptq") return;
  Names scattered;
  for (const auto& [name, m] : f.modules) {
    if (m.scattered) scattered.add(name);
  }
  const bool asked = truth(f.quantization, "desc_act").value_or(false);
  const auto group = whole(f.quantization, "group_size");
  if (!asked && !scattered.empty() && group && *group > 0) {
    answer.wrong(fmt::format("{}: desc_act is false, but g_idx of {} is not in order, and is not read then",
                             f.quantization_place, scattered.text()),
                 "set desc_act to true");
  }
  if (!asked || !group || *group <= 0) return;
  if (q.is(Engine::kVllm)) {
    answer.refused(
        fmt::format("{}: desc_act is true with groups of {}, which vLLM reads no more", f.quantization_place, *group),
        "quantize without act order");
  } else if (q.devices > 1) {
    answer.slow(fmt::format("{}: desc_act is true: each of {} devices keeps all scales, and products are slower",
                            f.quantization_place, q.devices),
                "quantize without act order");
  }
}

}  // namespace

std::span<const Rule> parallel_rules() {
  static constexpr Rule kRules[] = {
      {"heads-divide", kServers, "num_attention_heads, num_key_value_heads against the devices",
       "vLLM 0.33 config/model.py (\"must be divisible by tensor parallel size\"), models/llama.py; SGLang 0.5.23 "
       "models/llama.py",
       heads_divide},
      {"shards-divide", kServers, "shapes and groups against the devices",
       "vLLM 0.33 distributed/utils.py:verify_group_size_divides_partition; SGLang 0.5.23 awq/schemes/awq_linear.py, "
       "quantization/marlin_utils.py",
       shards_divide},
      {"act-order", kServers, "desc_act and g_idx of GPTQ",
       "vLLM 0.33 quantization/utils/gptq_utils.py:normalize_and_validate_gptq_desc_act, base_config.py (drops g_idx); "
       "SGLang 0.5.23 gptq/schemes/gptq_marlin.py",
       act_order},
  };
  return kRules;
}

}  // namespace metal_marlin
