// inspect: what is in a checkpoint.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>
#include <metal_marlin/inspect.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/threads.h"
#include "formats/json/bounded_json.h"
#include "plan/left_out.h"
#include "recipe/tensor_plan.h"
#include "report/render/mixed_report.h"
#include "report/render/printable.h"
#include "report/size.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

InspectedConfig config_of(const ModelConfig& c) {
  return {.model_type = c.model_type,
          .vocab_size = c.vocab_size,
          .hidden_size = c.hidden_size,
          .intermediate_size = c.intermediate_size,
          .num_hidden_layers = c.num_hidden_layers,
          .num_attention_heads = c.num_attention_heads,
          .num_key_value_heads = c.num_key_value_heads,
          .head_dim = c.head_dim,
          .max_position_embeddings = c.max_position_embeddings,
          .tie_word_embeddings = c.tie_word_embeddings,
          .rope_theta = c.rope.theta};
}

// Why quantize leaves a tensor of the model alone that is no linear.
std::string skip_reason(const Family& family, const CheckpointTensor& t) {
  if (t.name == family.embedding) return "embedding";
  if (t.name == family.head) return "head";
  return t.shape.size() < 2 ? "norm or bias" : "not a linear of a block";
}

// A quantization_config in a line. Settings of single modules are left out here: the table of grids shows them.
std::string quantization_text(const JsonText& config) {
  json q = parse_json(config.text, "quantization");
  make_printable(q);
  for (const char* key : {"dynamic", "modules_in_block_to_quantize", "modules_to_not_convert"}) {
    if (!q.contains(key)) continue;
    const bool nested = q[key].is_array() && q[key].size() == 1 && q[key][0].is_array();
    const size_t count = nested ? q[key][0].size() : q[key].size();
    if (count > 3) q[key] = fmt::format("({})", count);
  }
  std::string words;
  for (const auto& [key, value] : q.items()) {
    const std::string shown_value =
        value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, json::error_handler_t::replace);
    words += fmt::format("{}{} {}", words.empty() ? "" : ", ", key, shown_value);
  }
  return words;
}

}  // namespace

Inspection inspect_model(const std::string& model, bool with_tensors) try {
  const ThreadCount thread_count;
  const auto source = ModelSource::open(model);
  source->check();
  Inspection result;
  result.path = source->path();
  result.format = source->format();
  result.family = source->family().name;
  result.config = config_of(source->config());
  const ModelSize size = model_size(*source);
  result.parameters = size.parameters;
  result.bytes = size.bytes;
  result.bits_per_weight = size.bits_per_weight();
  const auto& config = source->config_json();
  if (config.contains("quantization_config")) {
    const std::string text = config["quantization_config"].dump(-1, ' ', false, json::error_handler_t::replace);
    result.quantization = JsonText{text};
  }
  std::set<std::string> linears;
  for (int64_t layer = 0; layer < source->config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : source->linears(layer)) linears.insert(slot.weight);
  }
  result.linears = linears.size();
  std::map<std::pair<int64_t, int64_t>, InspectedGrid> grids;  // by bits and group size
  if (with_tensors) result.tensors.emplace();
  for (const CheckpointTensor& t : source->tensors()) {
    StoredType& type = result.stored_as[t.stored_as];
    ++type.tensors;
    type.bytes += t.bytes;
    if (with_tensors) {
      InspectedTensor& tensor = result.tensors->emplace_back();
      tensor = {t.name, t.shape, t.stored_as, t.bytes, t.file, {}, {}};
      if (t.bits > 0) {
        tensor.bits = t.bits;
        tensor.group_size = t.group_size;
      }
    }
    if (linears.count(t.name) == 0) {
      result.skipped.push_back({t.name, skip_reason(source->family(), t)});
    } else if (source->quantized()) {
      InspectedGrid& grid = grids[{t.bits > 0 ? t.bits : 16, t.group_size}];
      ++grid.linears;
      grid.weights += static_cast<uint64_t>(t.shape[0]) * static_cast<uint64_t>(t.shape[1]);
    }
  }
  for (const Skipped& t : left_out_tensors(*source)) result.skipped.push_back({t.name, t.reason});
  if (source->quantized()) {
    result.grids.emplace();
    for (const auto& [key, grid] : grids) {
      result.grids->push_back(grid);
      std::tie(result.grids->back().bits, result.grids->back().group_size) = key;
    }
  }
  result.warnings = source->warnings();
  try {
    const auto& more = source->tokenizer().warnings();
    result.warnings.insert(result.warnings.end(), more.begin(), more.end());
  } catch (const SystemError&) {
    // A model without a tokenizer can be looked at.
  } catch (const Error& e) {
    result.warnings.emplace_back(e.what());
  }
  return result;
} catch (...) {
  rethrow_as_error("inspect_model");
}

std::string render_inspection(const Inspection& inspection) try {
  Inspection r = inspection;
  make_printable(r);
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<18} {}\n", name, value);
  };
  const InspectedConfig& c = r.config;
  line("path", r.path);
  line("family", fmt::format("{} ({})", r.family, r.format));
  line("shape", fmt::format("{}, hidden {}, feed-forward {}, {} ({} for keys and values) of {}, vocabulary {}",
                            counted(c.num_hidden_layers, "layer"), c.hidden_size, c.intermediate_size,
                            counted(c.num_attention_heads, "head"), c.num_key_value_heads, c.head_dim, c.vocab_size));
  line("head", c.tie_word_embeddings ? "tied to the embedding" : "of its own");
  line("parameters", r.parameters < 1'000'000 ? fmt::format("{}", r.parameters)
                                              : fmt::format("{:.1f} M", static_cast<double>(r.parameters) / 1e6));
  line("size", fmt::format("{}, {:.3f} bits per weight", size_text(r.bytes), r.bits_per_weight));
  if (r.quantization) line("quantization", quantization_text(*r.quantization));
  line("linears", fmt::format("{} of blocks", counted(r.linears, "weight")));
  for (const InspectedGrid& g : r.grids.value_or(std::vector<InspectedGrid>())) {
    const std::string groups = g.bits == 16       ? ""
                               : g.group_size < 0 ? ", a group for each row"
                                                  : fmt::format(", groups of {}", g.group_size);
    line("  in", fmt::format("{} bits{}: {}, {:.1f} M weights", g.bits, groups, counted(g.linears, "linear"),
                             static_cast<double>(g.weights) / 1e6));
  }
  for (const auto& [name, type] : r.stored_as)
    line("stored as " + name, fmt::format("{}, {}", counted(type.tensors, "tensor"), size_text(type.bytes)));
  // By reason, in the order in which they are met: norms and biases are many.
  std::vector<std::pair<std::string, std::vector<std::string>>> reasons;
  for (const SkippedRecord& s : r.skipped) {
    auto it = std::find_if(reasons.begin(), reasons.end(), [&](const auto& entry) { return entry.first == s.reason; });
    if (it == reasons.end()) it = reasons.insert(it, {s.reason, {}});
    it->second.push_back(s.name);
  }
  for (const auto& [reason, names] : reasons) {
    line("skipped", fmt::format("{} ({}): {}{}", reason, names.size(), names.front(), names.size() > 1 ? ", ..." : ""));
  }
  for (const std::string& warning : r.warnings) line("warning", warning);
  if (r.sensitivity) out += "\n" + sensitivity_text(*r.sensitivity, 0);
  if (r.tensors) {
    out += fmt::format("\n{:<58} {:<16} {:<8} {:>12}\n", "tensor", "shape", "stored", "bytes");
    for (const InspectedTensor& t : *r.tensors) {
      out += fmt::format("{:<58} {:<16} {:<8} {:>12}\n", t.name, fmt::format("[{}]", fmt::join(t.shape, ",")),
                         t.stored_as, t.bytes);
    }
  }
  return out;
} catch (...) {
  rethrow_as_error("render_inspection");
}

}  // namespace metal_marlin
