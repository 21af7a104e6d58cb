#include "check/facts.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/files/file_status.h"
#include "core/files/model_file.h"
#include "formats/gguf.h"
#include "formats/gguf/gguf_set.h"
#include "formats/gguf/gguf_split.h"
#include "formats/json/bounded_json.h"
#include "formats/safetensors.h"

namespace metal_marlin {

using nlohmann::json;

std::optional<int64_t> whole(const json& object, const char* key) {
  if (!object.is_object()) return std::nullopt;
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer()) return std::nullopt;
  if (it->is_number_unsigned() && it->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})
    return std::nullopt;
  return it->get<int64_t>();
}

std::optional<bool> truth(const json& object, const char* key) {
  if (!object.is_object()) return std::nullopt;
  const auto it = object.find(key);
  return it != object.end() && it->is_boolean() ? std::optional(it->get<bool>()) : std::nullopt;
}

std::string text(const json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::vector<std::string> texts(const json& object, const char* key) {
  std::vector<std::string> out;
  if (!object.is_object() || !object.contains(key) || !object.at(key).is_array()) return out;
  for (const json& entry : object.at(key)) {
    if (entry.is_string()) out.push_back(entry.get<std::string>());
  }
  return out;
}

const json& part(const json& object, const char* key) {
  static const json kNothing;
  if (!object.is_object()) return kNothing;
  const auto it = object.find(key);
  return it != object.end() && it->is_object() ? *it : kNothing;
}

bool CheckpointFacts::any_quantized() const {
  return std::any_of(modules.begin(), modules.end(), [](const auto& m) { return m.second.quantized(); });
}

namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLargestConfig = uint64_t{16} << 20;
constexpr int64_t kLargestIndexTensor = int64_t{1} << 22;  // elements of a g_idx that is read

// A JSON object of the folder; null where there is none. A file that is no JSON object is a fault.
json read_object(CheckpointFacts& facts, const std::string& folder, const std::string& name) {
  if (!facts.has_file(name)) return nullptr;
  const std::string path = (fs::path(folder) / name).string();
  try {
    json out = parse_json(read_model_text(path, kLargestConfig), path);
    if (out.is_object()) return out;
    facts.faults.push_back({name, fmt::format("{}: expected a JSON object", path), false});
  } catch (const Error& e) {
    facts.faults.push_back({name, e.what(), false});
  }
  return nullptr;
}

void read_sizes(CheckpointFacts& facts) {
  ModelSizes& s = facts.sizes;
  const json& nested = part(facts.config, "text_config");
  s.nested = nested.is_object() && !whole(facts.config, "hidden_size");
  const json& c = s.nested ? nested : facts.config;
  s.model_type = text(facts.config, "model_type");
  s.hidden_size = whole(c, "hidden_size");
  s.intermediate_size = whole(c, "intermediate_size");
  s.layers = whole(c, "num_hidden_layers");
  s.heads = whole(c, "num_attention_heads");
  s.kv_heads = whole(c, "num_key_value_heads");
  if (!s.kv_heads) s.kv_heads = s.heads;
  s.head_dim = whole(c, "head_dim");
  s.vocab_size = whole(c, "vocab_size");
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    if (!s.experts) s.experts = whole(c, key);
  }
  s.tied = truth(facts.config, "tie_word_embeddings");
  if (!s.tied) s.tied = truth(c, "tie_word_embeddings");
  for (const json* object : {static_cast<const json*>(&facts.config), &c}) {
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (s.dtype.empty()) s.dtype = text(*object, key);
    }
  }
}

void find_quantization(CheckpointFacts& facts, const std::string& folder) {
  const auto take = [&](const json& found, const std::string& place) {
    if (!facts.quantization.is_null() || !found.is_object()) return;
    facts.quantization = found;
    facts.quantization_place = place;
  };
  const json& mlx = part(facts.config, "quantization");
  if (mlx.is_object() && mlx.contains("group_size")) {
    take(mlx, "config.json: quantization");
    facts.method = "mlx";
  }
  take(part(facts.config, "quantization_config"), "config.json: quantization_config");
  take(part(part(facts.config, "text_config"), "quantization_config"), "config.json: text_config: quantization_config");
  take(part(facts.config, "compression_config"), "config.json: compression_config");
  for (const char* name : {"quantize_config.json", "quant_config.json"}) take(read_object(facts, folder, name), name);
  if (facts.method.empty()) facts.method = text(facts.quantization, "quant_method");
}

// Whether g_idx is not k / group_size for the group size that its last value tells.
bool is_scattered(const TensorView& view) {
  if (view.dtype != DType::kI32 || view.shape.size() != 1 || view.elements() > kLargestIndexTensor) return false;
  std::vector<int32_t> groups(static_cast<size_t>(view.elements()));
  if (groups.empty()) return false;
  std::memcpy(groups.data(), view.bytes.data(), view.bytes.size());
  return !std::is_sorted(groups.begin(), groups.end());
}

// weight_shape of compressed-tensors, [out, in], as the shape of a tensor.
std::optional<std::vector<int64_t>> stored_shape(const TensorView& view) {
  if (view.elements() != 2 || (view.dtype != DType::kI64 && view.dtype != DType::kI32)) return std::nullopt;
  std::vector<int64_t> out(2);
  for (size_t i = 0; i < 2; ++i) {
    if (view.dtype == DType::kI64) {
      std::memcpy(&out[i], view.bytes.data() + i * 8, 8);
    } else {
      int32_t value = 0;
      std::memcpy(&value, view.bytes.data() + i * 4, 4);
      out[i] = value;
    }
    if (out[i] <= 0 || out[i] > (int64_t{1} << 40)) return std::nullopt;
  }
  return out;
}

bool ends_with(const std::string& name, std::string_view end) {
  return name.size() >= end.size() && std::string_view(name).substr(name.size() - end.size()) == end;
}

void read_weights(CheckpointFacts& facts, const std::string& folder, const std::string& name) {
  try {
    const SafetensorsFile file(map_model_file((fs::path(folder) / name).string()));
    facts.weight_files.push_back(name);
    for (const TensorView& view : file.tensors()) {
      TensorFact fact{std::string(dtype_name(view.dtype)), view.shape, name};
      ModuleFact noted;
      if (ends_with(view.name, ".g_idx")) {
        facts.modules[view.name.substr(0, view.name.size() - 6)].scattered = is_scattered(view);
      } else if (ends_with(view.name, ".weight_shape")) {
        if (const auto shape = stored_shape(view)) {
          ModuleFact& module = facts.modules[view.name.substr(0, view.name.size() - 13)];
          module.rows = shape->at(0);
          module.columns = shape->at(1);
        }
      }
      if (!facts.tensors.emplace(view.name, std::move(fact)).second) facts.twice.push_back(view.name);
    }
    file.check_unchanged();
  } catch (const UnsupportedError& e) {
    facts.faults.push_back({name, e.what(), true});
  } catch (const Error& e) {
    facts.faults.push_back({name, e.what(), false});
  }
}

void read_index_file(CheckpointFacts& facts, const std::string& folder) {
  const std::string name = "model.safetensors.index.json";
  if (!facts.has_file(name)) return;
  try {
    const SafetensorsIndex index = read_index((fs::path(folder) / name).string());
    facts.has_index = true;
    facts.placed = index.weight_map;
    for (const std::string& file : index.files()) {
      if (!facts.has_file(file)) facts.absent_files.insert(file);
    }
  } catch (const Error& e) {
    facts.faults.push_back({name, e.what(), false});
  }
}

void read_gguf(CheckpointFacts& facts) {
  try {
    const GgufSet file(facts.path, [](const std::string& path) { return map_model_file(path); });
    GgufFacts g;
    g.version = file.files().front().version();
    for (const auto& [key, value] : file.metadata().pairs()) {
      g.keys.insert(key);
      if (const auto* found = std::get_if<std::string>(&value.value); found != nullptr && found->size() <= 4096)
        g.texts[key] = *found;
      if (const auto* found = std::get_if<uint64_t>(&value.value);
          found != nullptr && *found <= uint64_t{std::numeric_limits<int64_t>::max()})
        g.numbers[key] = static_cast<int64_t>(*found);
      if (const auto* found = std::get_if<int64_t>(&value.value)) g.numbers[key] = *found;
      if (const auto* found = std::get_if<GgufNumbers>(&value.value)) g.counts[key] = found->count;
      if (const auto* found = std::get_if<GgufStrings>(&value.value)) g.counts[key] = found->count;
    }
    g.architecture = g.texts.count("general.architecture") > 0 ? g.texts["general.architecture"] : "";
    for (const GgufTensor& tensor : file.tensors()) {
      g.types[tensor.name] = std::string(ggml_type_info(tensor.type).name);
      g.shapes[tensor.name] = tensor.shape;
    }
    facts.gguf_facts = std::move(g);
  } catch (const UnsupportedError& e) {
    facts.faults.push_back({fs::path(facts.path).filename().string(), e.what(), true});
  } catch (const FormatError& e) {
    facts.faults.push_back({fs::path(facts.path).filename().string(), e.what(), false});
  }
}

// The GGUF file of a folder that holds no other model: the only one, or the first of the parts of one.
std::string gguf_in(const ModelFolder& folder, const std::string& path) {
  std::vector<std::string> files;
  for (const std::string& name : folder.folder().names()) {
    if (name == "config.json" || name.ends_with(".safetensors")) return {};
    if (name.ends_with(".gguf") && !folder.leads_out(name)) files.push_back(name);
  }
  if (files.empty()) return {};
  const std::string first = *std::min_element(files.begin(), files.end());
  const auto split = parse_gguf_split_name(first);
  const bool parts = split && std::all_of(files.begin(), files.end(), [&](const std::string& name) {
                       const auto other = parse_gguf_split_name(name);
                       return other && other->stem == split->stem && other->parts == split->parts;
                     });
  return files.size() == 1 || parts ? (fs::path(path) / first).string() : std::string();
}

}  // namespace

CheckpointFacts read_facts(const std::string& given) {
  CheckpointFacts facts;
  const bool folder_given = is_folder(given);
  const std::string inside = folder_given ? gguf_in(ModelFolder(given), given) : std::string();
  const std::string& path = inside.empty() ? given : inside;
  facts.path = path;
  if (!inside.empty() || (!folder_given && fs::path(path).extension() == ".gguf")) {
    facts.gguf = true;
    facts.format = "gguf";
    read_gguf(facts);
    return facts;
  }
  const std::string folder = folder_given ? path : fs::path(path).parent_path().string();
  const ModelFolder opened(folder.empty() ? "." : folder);
  for (const std::string& name : opened.folder().names()) {
    if (!opened.leads_out(name)) facts.files.insert(name);
  }
  facts.config = read_object(facts, folder, "config.json");
  facts.has_config = facts.config.is_object();
  read_sizes(facts);
  find_quantization(facts, folder);
  if (folder_given) {
    read_index_file(facts, folder);
    for (const std::string& name : facts.files) {
      if (ends_with(name, ".safetensors")) read_weights(facts, folder, name);
    }
  } else {
    read_weights(facts, folder, fs::path(path).filename().string());
  }
  find_modules(facts);
  return facts;
}

}  // namespace metal_marlin
