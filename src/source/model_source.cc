#include "source/model_source.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "core/atomic_file.h"
#include "source/convert.h"
#include "source/gguf_source.h"
#include "source/safetensors_source.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

std::string bias_name(const std::string& weight) {
  return weight.substr(0, weight.rfind(".weight")) + ".bias";
}

// Folders of the Hugging Face cache, most specific variable first.
std::vector<fs::path> cache_folders() {
  std::vector<fs::path> folders;
  const auto add = [&](const char* variable, const char* below) {
    if (const char* value = std::getenv(variable); value != nullptr && *value != '\0')
      folders.push_back(fs::path(value) / below);
  };
  add("HF_HUB_CACHE", "");
  add("HUGGINGFACE_HUB_CACHE", "");
  add("HF_HOME", "hub");
  add("XDG_CACHE_HOME", "huggingface/hub");
  add("HOME", ".cache/huggingface/hub");
  return folders;
}

bool is_repository_name(const std::string& model) {
  const size_t slash = model.find('/');
  return slash != std::string::npos && slash > 0 && slash + 1 < model.size() &&
         model.find('/', slash + 1) == std::string::npos && model[0] != '.' && model[0] != '~' &&
         model.find('\0') == std::string::npos;
}

std::string snapshot_of(const fs::path& repository) {
  std::error_code code;
  if (fs::exists(repository / "refs" / "main", code)) {
    std::string revision = read_text_file((repository / "refs" / "main").string(), 4096);
    while (!revision.empty() && std::isspace(static_cast<unsigned char>(revision.back())) != 0) revision.pop_back();
    if (revision.find('/') == std::string::npos && !revision.empty() && revision[0] != '.' &&
        fs::is_directory(repository / "snapshots" / revision, code)) {
      return (repository / "snapshots" / revision).string();
    }
  }
  return "";
}

}  // namespace

std::string resolve_model(const std::string& model) {
  std::error_code code;
  if (model.empty())
    throw ArgumentError("MODEL: expected a folder, a .safetensors or .gguf file, or org/name, got nothing");
  if (fs::exists(model, code)) return model;
  if (!is_repository_name(model)) {
    throw SystemError(fmt::format(
        "{}: no such file or folder (a model is a folder, a .safetensors or .gguf file, or org/name)", model));
  }
  const size_t slash = model.find('/');
  const std::string name = "models--" + model.substr(0, slash) + "--" + model.substr(slash + 1);
  for (const fs::path& folder : cache_folders()) {
    const std::string snapshot = snapshot_of(folder / name);
    if (!snapshot.empty()) return snapshot;
  }
  throw SystemError(fmt::format(
      "{}: neither a file or folder nor in the Hugging Face cache; fetch it with: hf download {}", model, model));
}

std::unique_ptr<ModelSource> ModelSource::open(const std::string& model) {
  const std::string path = resolve_model(model);
  const fs::path p(path);
  std::error_code code;
  if (fs::is_directory(p, code)) {
    std::vector<fs::path> ggufs;
    bool weights = false;
    for (const std::string& name : names_in_folder(path)) {
      if (name == "config.json") return open_safetensors_source(path);
      if (name.ends_with(".gguf")) ggufs.push_back(p / name);
      weights = weights || name.ends_with(".safetensors");
    }
    if (ggufs.size() == 1) return open_gguf_source(ggufs.front().string(), true);
    // A run with several formats leaves one subfolder each.
    std::string inside;
    for (const std::string& name : names_in_folder(path)) {
      if (fs::exists(p / name / "config.json", code)) inside += (inside.empty() ? "" : " or ") + (p / name).string();
    }
    if (!inside.empty()) throw ArgumentError(fmt::format("{}: holds several checkpoints; name {}", path, inside));
    throw FormatError(
        fmt::format("{}: expected a model folder with config.json (or with one .gguf file), found {}", path,
                    !ggufs.empty() ? fmt::format("{} .gguf files; name one of them", ggufs.size())
                    : weights      ? std::string("weights without a config.json; copy it from the model's repository")
                                   : std::string("neither")));
  }
  if (p.extension() == ".gguf") return open_gguf_source(path, false);
  if (p.extension() == ".safetensors") return open_safetensors_source(path);
  throw UnsupportedError(fmt::format("{}: expected a folder, or a file named .safetensors or .gguf", path));
}

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

void ModelSource::check() const {
  std::map<std::string, CheckpointTensor> all;
  for (CheckpointTensor& t : tensors()) all.emplace(t.name, std::move(t));
  const auto demand = [&](const std::string& name, const std::vector<int64_t>& shape) {
    const auto it = all.find(name);
    if (it == all.end())
      throw FormatError(
          fmt::format("{}: tensor {} is missing; expected the shape {}", path_, name, shape_string(shape)));
    const std::vector<int64_t>& found = it->second.shape;
    const std::string& stored_as = it->second.stored_as;
    if (found != shape) {
      throw FormatError(fmt::format("{}: tensor {}: expected the shape {} (from the config), found {}", path_, name,
                                    shape_string(shape), shape_string(found)));
    }
    if (format_ != "gguf" && stored_as != "F32" && stored_as != "F16" && stored_as != "BF16" && stored_as != format_) {
      throw UnsupportedError(fmt::format("{}: tensor {}: expected F32, F16 or BF16, found {}", path_, name, stored_as));
    }
  };
  const ModelConfig& c = config_;
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
      if (entry.second) {
        demand(bias, {entry.first[0]});
      } else if (all.count(bias) > 0) {
        // Computing without it would go wrong in silence.
        throw FormatError(fmt::format("{}: tensor {}: expected no bias (from the config), found one", path_, bias));
      }
    }
    for (int k = 0; k < kNorms; ++k) {
      const auto kind = static_cast<NormKind>(k);
      const bool per_head = kind == NormKind::kQ || kind == NormKind::kK;
      if (const std::string name = norm_name(layer, kind); !name.empty())
        demand(name, {per_head ? c.head_dim : c.hidden_size});
    }
  }
}

const std::string& ModelSource::head_tensor() const {
  return config().tie_word_embeddings || !has(family().head) ? family().embedding : family().head;
}

}  // namespace metal_marlin
