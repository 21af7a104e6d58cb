#include "checkpoint/model_source.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_set>

#include "checkpoint/convert.h"
#include "checkpoint/reading_note.h"
#include "core/checked.h"
#include "core/counted.h"
#include "families/config/surplus_tensors.h"
#include "families/tensor_names.h"
#include "formats/text.h"
#include "kernels/weight_matrix.h"

namespace metal_marlin {
namespace {

// Whether the family and the config have a tensor of this name, or a bias beside one.
bool has_a_place(const std::string& name, const Family& family, int64_t layers) {
  const auto is = [&](const std::string& weight) { return name == weight || name == bias_name(weight); };
  if (is(family.embedding) || is(family.final_norm) || is(family.head)) return true;
  const int64_t layer = layer_behind(name, family.layer_prefix);
  if (layer < 0 || layer >= layers) return false;
  const std::string start = fmt::format("{}{}.", family.layer_prefix, layer);
  const auto is_part = [&](const std::string& module) { return !module.empty() && is(start + module + ".weight"); };
  return std::any_of(family.linears.begin(), family.linears.end(), is_part) ||
         std::any_of(family.norms.begin(), family.norms.end(), is_part);
}

}  // namespace

std::vector<LinearSlot> ModelSource::linears(int64_t layer) const {
  const ModelConfig& c = config_;
  const int64_t q = c.num_attention_heads * c.head_dim;
  const int64_t kv = c.num_key_value_heads * c.head_dim;
  const std::array<std::pair<int64_t, int64_t>, kLinears> shapes = {{{q, c.hidden_size},
                                                                     {kv, c.hidden_size},
                                                                     {kv, c.hidden_size},
                                                                     {c.hidden_size, q},
                                                                     {c.intermediate_size, c.hidden_size},
                                                                     {c.intermediate_size, c.hidden_size},
                                                                     {c.hidden_size, c.intermediate_size}}};
  std::vector<LinearSlot> out;
  for (int k = 0; k < kLinears; ++k) {
    const auto kind = static_cast<LinearKind>(k);
    LinearSlot slot;
    slot.kind = kind;
    slot.weight = fmt::format("{}{}.{}.weight", family_->layer_prefix, layer, family_->linears[static_cast<size_t>(k)]);
    std::tie(slot.rows, slot.columns) = shapes[static_cast<size_t>(k)];
    for (const LinearSlot& before : out) {
      if (before.weight == slot.weight) slot.first_row = before.first_row + before.rows;
    }
    const bool mlp = kind == LinearKind::kGate || kind == LinearKind::kUp || kind == LinearKind::kDown;
    slot.has_bias = mlp ? c.mlp_bias : kind == LinearKind::kO ? c.attention_output_bias : c.attention_bias;
    out.push_back(std::move(slot));
  }
  return out;
}

std::string ModelSource::norm_name(int64_t layer, NormKind kind) const {
  const std::string& module = family_->norms[static_cast<size_t>(kind)];
  return module.empty() ? std::string() : fmt::format("{}{}.{}.weight", family_->layer_prefix, layer, module);
}

// Names of biases that this family and config do not have, whether stored or not.
std::vector<std::string> ModelSource::biases_without_place() const {
  std::vector<std::string> names = {bias_name(family_->embedding), bias_name(family_->head),
                                    bias_name(family_->final_norm)};
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : linears(layer)) {
      if (!slot.has_bias) names.push_back(bias_name(slot.weight));
    }
    for (int k = 0; k < kNorms; ++k) {
      const std::string norm = norm_name(layer, static_cast<NormKind>(k));
      if (!norm.empty()) names.push_back(bias_name(norm));
    }
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());  // fused linears share one
  return names;
}

void ModelSource::settle_biases() {
  std::unordered_set<std::string> long_ones;  // no biases of a model: refuse_surplus() names them
  for (const CheckpointTensor& t : tensors()) {
    if (t.name.ends_with(".bias") && checked_bytes(t.shape, 1) > static_cast<uint64_t>(kLongestBias))
      long_ones.insert(t.name);
  }
  std::vector<std::string> zeros;
  for (const std::string& name : biases_without_place()) {
    if (!has(name) || long_ones.count(name) > 0) continue;
    const Matrix bias = load(name);
    const auto values = bias.values();
    if (std::all_of(values.begin(), values.end(), [](float v) { return v == 0; })) zeros.push_back(name);
  }
  const std::string first = zeros.empty() ? std::string() : escaped(stored_name(zeros.front()));
  for (const std::string& name : zeros) leave_out(name, "a bias of zeros, which the config does not have");
  if (zeros.empty()) return;
  warnings_.push_back(fmt::format("{}: {} that the config does not have {} only zeros and {} left out, the first: {}",
                                  path_, counted(zeros.size(), "bias", "biases"),
                                  form_for(zeros.size(), "holds", "hold"), form_for(zeros.size(), "is", "are"), first));
}

bool ModelSource::same_values(const std::string& a, const std::string& b, const std::vector<int64_t>& shape) const {
  const int64_t columns = std::max<int64_t>(1, shape[1]);
  const int64_t piece = std::max<int64_t>(1, (int64_t{1} << 20) / columns);
  bool same = true;
  for (int64_t row = 0; same && row < shape[0]; row += piece) {
    const int64_t rows = std::min(piece, shape[0] - row);
    const Matrix x = load(a, row, rows);
    const Matrix y = load(b, row, rows);
    same = std::memcmp(x.data(), y.data(), static_cast<size_t>(x.size()) * sizeof(float)) == 0;
  }
  release(a);
  release(b);
  return same;
}

void ModelSource::settle_head() {
  if (!config_.tie_word_embeddings || !has(family_->head) || !has(family_->embedding)) return;
  std::vector<int64_t> of_embedding;
  std::vector<int64_t> of_head;
  for (const CheckpointTensor& t : tensors()) {
    if (t.name == family_->embedding) of_embedding = t.shape;
    if (t.name == family_->head) of_head = t.shape;
  }
  const bool comparable = of_head == of_embedding && of_head.size() == 2;
  if (comparable && same_values(family_->embedding, family_->head, of_head)) return;
  config_.tie_word_embeddings = false;
  (*config_json_)["tie_word_embeddings"] = false;
  const std::string embedding = stored_name(family_->embedding);
  const std::string head = stored_name(family_->head);
  warnings_.push_back(fmt::format(
      "{}: {} is the head too{}, but another {} is stored; the stored head counts, and what is written says "
      "tie_word_embeddings: false",
      path_,
      format_ == "gguf" ? fmt::format("in the family {} (general.architecture) {}", family_->name, embedding)
                        : fmt::format("the config says that {}", embedding),
      format_ == "gguf" ? "" : " (tie_word_embeddings)", head));
}

void ModelSource::settle_contradictions() {
  warnings_.insert(warnings_.end(), config_.warnings.begin(), config_.warnings.end());
  for (const CheckpointTensor& t : tensors()) {
    for (const char* part :
         {".lora_A", ".lora_B", ".lora_a", ".lora_b", ".lora_embedding_", ".lora_magnitude_vector", ".base_layer."}) {
      if (t.name.find(part) == std::string::npos) continue;
      throw FormatError(
          fmt::format("{}: tensor {}: expected a whole model, found a LoRA adapter that is not merged; merge it first "
                      "(peft: merge_and_unload) and save the result",
                      path_, shown(t.name)));
    }
  }
  settle_head();
  settle_biases();
  settle_surplus();
}

void ModelSource::settle_surplus() {
  std::vector<std::pair<CheckpointTensor, bool>> surplus;  // and whether it is among tensors()
  for (CheckpointTensor& t : tensors()) {
    if (!has_a_place(t.name, *family_, config_.num_hidden_layers)) surplus.emplace_back(std::move(t), true);
  }
  for (CheckpointTensor& t : left_out()) {
    if (t.reason.empty()) surplus.emplace_back(std::move(t), false);
  }
  const bool gguf = format_ == "gguf";
  const int64_t layers = config_.num_hidden_layers;
  int64_t beyond = 0;
  int64_t first_layer = -1;
  int64_t last_layer = -1;
  std::vector<std::string> scales;
  std::vector<std::string> foreign;
  std::map<std::string, size_t> parts;
  for (const auto& [t, kept] : surplus) {
    const int64_t layer = layer_behind(t.name, gguf ? "blk." : family_->layer_prefix);
    if (layer >= layers) {
      ++beyond;
      first_layer = first_layer < 0 ? layer : std::min(first_layer, layer);
      last_layer = std::max(last_layer, layer);
      leave_out(t.name, fmt::format("layer {}, but the config has {} {}: not part of the model", layer,
                                    stored_key("num_hidden_layers"), layers));
      continue;
    }
    switch (gguf ? gguf_surplus_kind(t.name) : surplus_kind(t.name, t.shape)) {
      case SurplusKind::kBuffer:
        // Tables of floats go along, as in the source; the writer has no other types.
        if (!kept || (t.stored_as != "F32" && t.stored_as != "F16" && t.stored_as != "BF16"))
          leave_out(t.name, "a table that is computed anew");
        break;
      case SurplusKind::kCacheScale:
        leave_out(t.name, "a scale of a quantized key-value cache");
        scales.push_back(t.name);
        break;
      case SurplusKind::kForeign: {
        if (kept) leave_out(t.name, "");
        foreign.push_back(t.name);
        const size_t start = t.name.starts_with("model.") ? 6 : 0;
        ++parts[t.name.substr(0, t.name.find('.', start))];
        break;
      }
      case SurplusKind::kOfTheModel:
        without_place_.push_back(t.name);
        break;
    }
  }
  if (beyond > 0) {
    warnings_.push_back(
        fmt::format("{}: {} of layer{} {} left out: the config has {} {}; correct it if {} to the model (layers "
                    "that predict further tokens, MTP, do not)",
                    path_, counted(beyond, "tensor"),
                    first_layer == last_layer ? fmt::format(" {}", first_layer)
                                              : fmt::format("s {} to {}", first_layer, last_layer),
                    form_for(beyond, "is", "are"), stored_key("num_hidden_layers"), layers,
                    form_for(beyond, "it belongs", "they belong")));
  }
  if (!scales.empty()) {
    warnings_.push_back(fmt::format("{}: {} of a quantized key-value cache {} left out, the first: {}", path_,
                                    counted(scales.size(), "scale"), form_for(scales.size(), "is", "are"),
                                    escaped(scales.front())));
  }
  if (!foreign.empty()) {
    constexpr size_t kNamed = 4;
    std::string list;
    size_t named = 0;
    for (const auto& [part, count] : parts) {
      if (named++ == kNamed) {
        list += fmt::format(" and {} more", parts.size() - kNamed);
        break;
      }
      list += fmt::format("{}{} of {}", list.empty() ? "" : ", ", count, escaped(part, 60));
    }
    warnings_.push_back(fmt::format("{}: {} of parts beside the language model {} left out ({}), the first: {}", path_,
                                    counted(foreign.size(), "tensor"), form_for(foreign.size(), "is", "are"), list,
                                    escaped(foreign.front())));
  }
}

void ModelSource::refuse_surplus() const {
  if (without_place_.empty()) return;
  constexpr size_t kNamed = 4;
  std::string list;
  for (size_t i = 0; i < std::min(kNamed, without_place_.size()); ++i)
    list += (i > 0 ? ", " : "") + escaped(stored_name(without_place_[i]), 100);
  if (without_place_.size() > kNamed) list += fmt::format(" and {} more", without_place_.size() - kNamed);
  const bool gguf = format_ == "gguf";
  throw UnsupportedError(fmt::format(
      "{}: {} ({}) {} no place in the family {}; without {} this would be another model; correct {} if it names the "
      "wrong family, or remove {} from the file if the model does not use {}",
      path_, counted(without_place_.size(), "tensor"), list, form_for(without_place_.size(), "has", "have"),
      family_->name, form_for(without_place_.size(), "it", "them"),
      gguf ? "general.architecture" : "model_type in config.json", form_for(without_place_.size(), "it", "them"),
      form_for(without_place_.size(), "it", "them")));
}

void ModelSource::check_finite(const std::string& name) const {
  with_note(reading_note_, [&] {
    const int64_t at = first_not_finite(name);
    release(name);
    if (at < 0) return;
    std::string found = "NaN or infinity";
    std::string place;
    for (const CheckpointTensor& t : tensors()) {
      if (t.name != name || t.shape.empty() || t.shape.size() > 2) continue;
      const int64_t columns = t.shape.back();
      const Matrix row = load(name, at / columns, 1);
      found = fmt::format("{}", row(0, at % columns));
      if (t.shape.size() == 2) place = fmt::format(" (row {}, column {})", at / columns, at % columns);
    }
    throw NumericError(
        fmt::format("{}: tensor {}: expected finite values, found {} at element {}{}; the checkpoint is damaged or was "
                    "saved after training had diverged: fetch it again or take an earlier one",
                    path_, escaped(stored_name(name)), found, at, place));
  });
}

void ModelSource::check() const {
  with_note(reading_note_, [&] { check_tensors(); });
}

void ModelSource::check_tensors() const {
  std::map<std::string, CheckpointTensor> all;
  for (CheckpointTensor& t : tensors()) all.emplace(t.name, std::move(t));
  const auto demand = [&](const std::string& name, const std::vector<int64_t>& shape) {
    const auto it = all.find(name);
    if (it == all.end()) {
      const bool head = name == family_->head && format_ != "gguf";
      throw FormatError(fmt::format(
          "{}: tensor {} is missing from {}; expected the shape {}{}", path_, stored_name(name), files_read(name),
          shape_string(shape),
          head ? "; if the embedding is the head of this model, set tie_word_embeddings to true in its config" : ""));
    }
    const std::vector<int64_t>& found = it->second.shape;
    const std::string& stored_as = it->second.stored_as;
    if (found != shape) {
      throw FormatError(fmt::format("{}: tensor {}: expected the shape {} (from the config), found {}", path_,
                                    stored_name(name), shape_string(shape), shape_string(found)));
    }
    // A weight in floats of 8 bits has its scale, or opening would have refused it.
    const bool scaled = stored_as == "F8_E4M3" && name.ends_with(".weight");
    if (format_ != "gguf" && stored_as != "F32" && stored_as != "F16" && stored_as != "BF16" && stored_as != format_ &&
        !scaled) {
      throw UnsupportedError(fmt::format("{}: tensor {}: expected F32, F16 or BF16, found {}", path_, name, stored_as));
    }
  };
  const ModelConfig& c = config_;
  for (const std::string& bias : biases_without_place()) {
    // Computing without it would go wrong in silence.
    if (all.count(bias) > 0) {
      throw FormatError(fmt::format(
          "{}: tensor {}: expected no bias (from the config), found one whose values are not zero; correct the config",
          path_, stored_name(bias)));
    }
  }
  demand(family_->embedding, {c.vocab_size, c.hidden_size});
  demand(family_->final_norm, {c.hidden_size});
  if (!c.tie_word_embeddings) demand(family_->head, {c.vocab_size, c.hidden_size});
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    std::map<std::string, std::pair<std::vector<int64_t>, bool>> weights;
    for (const LinearSlot& slot : linears(layer)) {
      auto& [shape, bias] = weights[slot.weight];
      shape = {slot.first_row + slot.rows, slot.columns};
      bias = slot.has_bias;
    }
    for (const auto& [name, entry] : weights) {
      demand(name, entry.first);
      const std::string bias = bias_name(name);
      if (entry.second && format_ == "gguf" && all.count(bias) == 0) {
        // Another linear of the layer made the config say so.
        const auto other = std::find_if(weights.begin(), weights.end(), [&](const auto& w) {
          return w.second.second && all.count(bias_name(w.first)) > 0;
        });
        throw FormatError(fmt::format(
            "{}: {} biases that are not zero, but there is no bias {}; the family {} has a bias on all of them or on "
            "none; convert the model anew",
            path_,
            other == weights.end() ? "other linears have"
                                   : "tensor " + stored_name(bias_name(other->first)) + " is one of the",
            stored_name(bias), family_->name));
      }
      if (entry.second) demand(bias, {entry.first[0]});
    }
    for (int k = 0; k < kNorms; ++k) {
      const auto kind = static_cast<NormKind>(k);
      const bool per_head = kind == NormKind::kQ || kind == NormKind::kK;
      if (const std::string name = norm_name(layer, kind); !name.empty())
        demand(name, {per_head ? c.head_dim : c.hidden_size});
    }
  }
  refuse_surplus();
}

std::unique_ptr<WeightMatrix> ModelSource::load_blocks(const std::string&, int64_t, int64_t) const {
  return nullptr;
}

std::optional<CodeForm> ModelSource::code_form(const std::string&) const {
  return std::nullopt;
}

bool ModelSource::has_codes() const {
  if (quantized()) return true;
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : linears(layer))
      if (code_form(slot.weight)) return true;
  }
  return false;
}

const std::string& ModelSource::head_tensor() const {
  return config().tie_word_embeddings || !has(family().head) ? family().embedding : family().head;
}

}  // namespace metal_marlin
