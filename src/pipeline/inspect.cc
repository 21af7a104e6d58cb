// inspect: what is in a checkpoint.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/inspect.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/border.h"
#include "core/counted.h"
#include "core/threads.h"
#include "formats/text.h"
#include "pipeline/left_out.h"
#include "pipeline/mixed_report.h"
#include "pipeline/printable.h"
#include "pipeline/size.h"
#include "report/json_records.h"
#include "source/model_source.h"
#include "source/tokenizer.h"

namespace metal_marlin {

using nlohmann::ordered_json;

std::string inspect_model(const std::string& model, bool with_tensors) try {
  const ThreadCount thread_count;
  const auto source = ModelSource::open(model);
  source->check();
  const ModelConfig& c = source->config();
  ordered_json j;
  j["path"] = source->path();
  j["format"] = source->format();
  j["family"] = source->family().name;
  j["config"] = {{"model_type", c.model_type},
                 {"vocab_size", c.vocab_size},
                 {"hidden_size", c.hidden_size},
                 {"intermediate_size", c.intermediate_size},
                 {"num_hidden_layers", c.num_hidden_layers},
                 {"num_attention_heads", c.num_attention_heads},
                 {"num_key_value_heads", c.num_key_value_heads},
                 {"head_dim", c.head_dim},
                 {"max_position_embeddings", c.max_position_embeddings},
                 {"tie_word_embeddings", c.tie_word_embeddings},
                 {"rope_theta", c.rope.theta}};
  const ModelSize size = model_size(*source);
  j["parameters"] = size.parameters;
  j["bytes"] = size.bytes;
  j["bits_per_weight"] = size.bits_per_weight();
  const auto& config = source->config_json();
  if (config.contains("quantization_config")) j["quantization"] = config["quantization_config"];
  std::set<std::string> linears;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : source->linears(layer)) linears.insert(slot.weight);
  }
  j["linears"] = linears.size();
  std::map<std::string, std::pair<uint64_t, uint64_t>> types;              // stored_as -> tensors, bytes
  std::map<std::pair<int, int64_t>, std::pair<uint64_t, uint64_t>> grids;  // bits, group size -> linears, weights
  ordered_json tensors = ordered_json::array();
  ordered_json skipped = ordered_json::array();
  for (const CheckpointTensor& t : source->tensors()) {
    auto& [count, bytes] = types[t.stored_as];
    ++count;
    bytes += t.bytes;
    if (with_tensors) {
      tensors.push_back(
          {{"name", t.name}, {"shape", t.shape}, {"stored_as", t.stored_as}, {"bytes", t.bytes}, {"file", t.file}});
      if (t.bits > 0) tensors.back().update({{"bits", t.bits}, {"group_size", t.group_size}});
    }
    if (source->quantized() && linears.count(t.name) > 0) {
      auto& [linears_of_it, weights] = grids[{t.bits > 0 ? t.bits : 16, t.group_size}];
      ++linears_of_it;
      weights += static_cast<uint64_t>(t.shape[0]) * static_cast<uint64_t>(t.shape[1]);
    }
    if (linears.count(t.name) > 0) continue;
    const bool embedding = t.name == source->family().embedding;
    const bool head = t.name == source->family().head;
    skipped.push_back({{"name", t.name},
                       {"reason", embedding            ? "embedding"
                                  : head               ? "head"
                                  : t.shape.size() < 2 ? "norm or bias"
                                                       : "not a linear of a block"}});
  }
  for (const Skipped& t : left_out_tensors(*source)) skipped.push_back({{"name", t.name}, {"reason", t.reason}});
  ordered_json type_table = ordered_json::object();
  for (const auto& [name, entry] : types) type_table[name] = {{"tensors", entry.first}, {"bytes", entry.second}};
  j["stored_as"] = type_table;
  if (source->quantized()) {
    j["grids"] = ordered_json::array();
    for (const auto& [grid, entry] : grids) {
      j["grids"].push_back(
          {{"bits", grid.first}, {"group_size", grid.second}, {"linears", entry.first}, {"weights", entry.second}});
    }
  }
  if (with_tensors) j["tensors"] = tensors;
  j["skipped"] = skipped;
  std::vector<std::string> warnings = source->warnings();
  try {
    const auto& more = source->tokenizer().warnings();
    warnings.insert(warnings.end(), more.begin(), more.end());
  } catch (const SystemError&) {
    // A model without a tokenizer can be looked at.
  } catch (const Error& e) {
    warnings.push_back(e.what());
  }
  j["warnings"] = warnings;
  return j.dump(2, ' ', false, ordered_json::error_handler_t::replace);
} catch (...) {
  rethrow_as_error("inspect_model");
}

std::string render_inspection(const std::string& text) try {
  auto j = ordered_json::parse(text);
  make_printable(j);
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<18} {}\n", name, value);
  };
  const auto& c = j.at("config");
  line("path", j.at("path").get<std::string>());
  line("family", fmt::format("{} ({})", j.at("family").get<std::string>(), j.at("format").get<std::string>()));
  line("shape", fmt::format("{}, hidden {}, feed-forward {}, {} ({} for keys and values) of {}, vocabulary {}",
                            counted(c.at("num_hidden_layers").get<int64_t>(), "layer"),
                            c.at("hidden_size").get<int64_t>(), c.at("intermediate_size").get<int64_t>(),
                            counted(c.at("num_attention_heads").get<int64_t>(), "head"),
                            c.at("num_key_value_heads").get<int64_t>(), c.at("head_dim").get<int64_t>(),
                            c.at("vocab_size").get<int64_t>()));
  line("head", c.at("tie_word_embeddings").get<bool>() ? "tied to the embedding" : "of its own");
  const auto parameters = j.at("parameters").get<uint64_t>();
  line("parameters", parameters < 1'000'000 ? fmt::format("{}", parameters)
                                            : fmt::format("{:.1f} M", static_cast<double>(parameters) / 1e6));
  line("size", fmt::format("{}, {:.3f} bits per weight", size_text(j.at("bytes").get<uint64_t>()),
                           j.at("bits_per_weight").get<double>()));
  if (j.contains("quantization")) {
    // Settings of single modules are left out here: the table of grids below shows them.
    ordered_json q = j.at("quantization");
    for (const char* key : {"dynamic", "modules_in_block_to_quantize", "modules_to_not_convert"}) {
      if (!q.contains(key)) continue;
      const bool nested = q[key].is_array() && q[key].size() == 1 && q[key][0].is_array();
      const size_t count = nested ? q[key][0].size() : q[key].size();
      if (count > 3) q[key] = fmt::format("({})", count);
    }
    std::string words;
    for (const auto& [key, value] : q.items()) {
      const std::string shown_value = value.is_string()
                                          ? value.get<std::string>()
                                          : value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
      words += fmt::format("{}{} {}", words.empty() ? "" : ", ", key, shown_value);
    }
    line("quantization", words);
  }
  line("linears", fmt::format("{} of blocks", counted(j.at("linears").get<int64_t>(), "weight")));
  for (const auto& g : j.value("grids", ordered_json::array())) {
    const auto bits = g.at("bits").get<int>();
    const auto size = g.at("group_size").get<int64_t>();
    const std::string groups = bits == 16 ? ""
                               : size < 0 ? ", a group for each row"
                                          : fmt::format(", groups of {}", size);
    line("  in", fmt::format("{} bits{}: {}, {:.1f} M weights", bits, groups,
                             counted(g.at("linears").get<int64_t>(), "linear"), g.at("weights").get<double>() / 1e6));
  }
  for (const auto& [name, entry] : j.at("stored_as").items()) {
    line("stored as " + name, fmt::format("{}, {}", counted(entry.at("tensors").get<int64_t>(), "tensor"),
                                          size_text(entry.at("bytes").get<uint64_t>())));
  }
  // By reason, in the order in which they are met: norms and biases are many.
  std::vector<std::pair<std::string, std::vector<std::string>>> reasons;
  for (const auto& s : j.at("skipped")) {
    const auto reason = s.at("reason").get<std::string>();
    auto it = std::find_if(reasons.begin(), reasons.end(), [&](const auto& entry) { return entry.first == reason; });
    if (it == reasons.end()) it = reasons.insert(it, {reason, {}});
    it->second.push_back(s.at("name").get<std::string>());
  }
  for (const auto& [reason, names] : reasons) {
    line("skipped", fmt::format("{} ({}): {}{}", reason, names.size(), names.front(), names.size() > 1 ? ", ..." : ""));
  }
  for (const auto& warning : j.value("warnings", ordered_json::array())) line("warning", warning.get<std::string>());
  if (j.contains("sensitivity")) {
    const auto fault = [](const std::string& place, const std::string& expected, const std::string& found) {
      throw FormatError(fmt::format("sensitivity/{}: expected {}, found {}", escaped(place), expected, found));
    };
    out += "\n" + sensitivity_text(record_of<SensitivityRecord>(nlohmann::json(j.at("sensitivity")), fault), 0);
  }
  if (j.contains("tensors")) {
    out += fmt::format("\n{:<58} {:<16} {:<8} {:>12}\n", "tensor", "shape", "stored", "bytes");
    for (const auto& t : j.at("tensors")) {
      out += fmt::format("{:<58} {:<16} {:<8} {:>12}\n", t.at("name").get<std::string>(), t.at("shape").dump(),
                         t.at("stored_as").get<std::string>(), t.at("bytes").get<uint64_t>());
    }
  }
  return out;
} catch (...) {
  rethrow_as_error("render_inspection");
}

}  // namespace metal_marlin
