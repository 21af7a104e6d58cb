#include "checkpoint/weight_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "checkpoint/convert.h"
#include "core/counted.h"
#include "formats/safetensors.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

struct ShardName {
  std::string stem;  // "model"
  int count = 0;
};

// "model-00001-of-00004.safetensors"; a folder may hold very many names.
std::optional<ShardName> parse_shard_name(const std::string& name) {
  constexpr std::string_view kForm = "-#####-of-#####.safetensors";
  if (name.size() <= kForm.size()) return std::nullopt;
  const std::string_view end = std::string_view(name).substr(name.size() - kForm.size());
  for (size_t i = 0; i < kForm.size(); ++i) {
    const bool digit = end[i] >= '0' && end[i] <= '9';
    if (kForm[i] == '#' ? !digit : end[i] != kForm[i]) return std::nullopt;
  }
  int count = 0;
  for (const char c : end.substr(kForm.rfind('-') + 1, 5)) count = 10 * count + (c - '0');
  return ShardName{name.substr(0, name.size() - kForm.size()), count};
}

constexpr const char* kAdvice =
    "download what is missing or the index (*.safetensors.index.json), move what is no part of the model out of the "
    "folder, or name the "
    "one file that is the model";

constexpr std::string_view kIndexEnd = ".safetensors.index.json";

bool is_adapter(const std::string& name) {
  return name.starts_with("adapter_") || name.starts_with("adapter-");
}

// Why there is nothing to read, in a folder without *.safetensors files.
std::string why_none(const std::vector<std::string>& all) {
  std::vector<std::string> others;
  bool gguf = false;
  for (const std::string& name : all) {
    const auto ends = [&](std::string_view end) { return name.ends_with(end); };
    if (ends(".bin") || ends(".pt") || ends(".pth") || ends(".ckpt")) others.push_back(name);
    gguf = gguf || ends(".gguf");
  }
  if (gguf) return "found .gguf files; name one of them";
  if (others.empty()) return "found none; download the model again";
  return fmt::format(
      "found only {} ({}); such a file can hold any Python code and runs it when it is loaded, so it is not read; "
      "download the model's "
      ".safetensors files, or save it anew with transformers: "
      "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
      others.size() == 1 ? "a file of PyTorch" : "files of PyTorch", escaped(others.front()));
}

// The index of a folder if it counts; nothing: the files must tell.
std::optional<SafetensorsIndex> whole_index(const std::string& folder, const std::string& name, bool single,
                                            std::vector<std::string>& warnings, std::string& note) {
  const std::string path = (std::filesystem::path(folder) / name).string();
  try {
    SafetensorsIndex index = read_index(path, &warnings);
    require_shards(index, path);
    const auto files = index.files();
    if (single && std::find(files.begin(), files.end(), "model.safetensors") == files.end()) {
      warnings.push_back(fmt::format(
          "{}: holds model.safetensors and the whole set of shards of {}; the shards are read, and engines differ in "
          "which of the two they take: remove the one that is not the model",
          folder, name));
    }
    return index;
  } catch (const Error& e) {
    if (!single) throw;
    note = fmt::format("{} is read, since the index beside it is not whole ({})",
                       (std::filesystem::path(folder) / "model.safetensors").string(), e.what());
    warnings.push_back(note);
    return std::nullopt;
  }
}

// Beside the files that are read without an index: others that may be the model as well. Weights under a publisher's
// own names, such as consolidated.safetensors, are commonly there too and mean nothing.
void tell_left_aside(const std::string& folder, const std::vector<std::string>& weights, WeightFiles& out) {
  const bool shards = shards_by_name(out.names.front()) > 0;
  std::vector<std::string> aside;
  const std::unordered_set<std::string_view> read_ones(out.names.begin(), out.names.end());
  for (const std::string& name : weights) {
    if (read_ones.count(name) > 0) continue;
    if (shards || shards_by_name(name) > 0 || name.starts_with("model")) aside.push_back(name);
  }
  if (aside.empty()) return;
  constexpr size_t kNamed = 3;
  const size_t named = std::min(kNamed, aside.size());
  std::string list = fmt::format("{}", fmt::join(aside.begin(), aside.begin() + static_cast<int64_t>(named), ", "));
  if (aside.size() > named) list += fmt::format(" and {} more", aside.size() - named);
  const std::string read = out.names.size() == 1 ? fmt::format("{} is", out.names.front())
                                                 : fmt::format("{} to {} are", out.names.front(), out.names.back());
  std::string text = fmt::format(
      "{}: {} read and {} left aside ({}), since no index (*.safetensors.index.json) says "
      "which files are the model; move those that are not out of the folder",
      folder, read, counted(aside.size(), "file"), escaped(list));
  if (out.note.empty()) out.note = text;
  out.warnings.push_back(std::move(text));
}

}  // namespace

int shards_by_name(const std::string& name) {
  const auto shard = parse_shard_name(name);
  return shard ? shard->count : 0;
}

// As transformers chooses, except that a whole index goes before a stray file: the one file of this name, else the
// index of this name. Folders also hold adapters, the same weights under the publisher's own names, and the like.
// Beyond what transformers takes: one index of another name, one file of another name, and shards without their index
// where nothing else can be meant.
WeightFiles find_weight_files(const std::string& folder) {
  WeightFiles out;
  const std::vector<std::string> all = names_in_folder(folder);
  std::vector<std::string> weights;
  std::vector<std::string> indices;
  std::string adapter;
  for (const std::string& name : all) {
    if (is_adapter(name) && name.ends_with(".safetensors")) {
      adapter = name;
    } else if (name.ends_with(".safetensors")) {
      weights.push_back(name);
    } else if (name.ends_with(kIndexEnd)) {
      indices.push_back(name);
    }
  }
  const auto has = [](const std::vector<std::string>& names, const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (!adapter.empty()) {
    if (weights.empty() && indices.empty()) {
      throw FormatError(
          fmt::format("{}: expected a model, found a LoRA adapter alone ({}); merge it into its model first (peft: "
                      "merge_and_unload) and save the result",
                      folder, adapter));
    }
    out.warnings.push_back(
        fmt::format("{}: the adapter {} beside the model is not applied; merge it first (peft: merge_and_unload) if it "
                    "belongs to the model",
                    folder, adapter));
  }
  const bool single = has(weights, "model.safetensors");
  if (has(indices, "model.safetensors.index.json")) {
    indices = {"model.safetensors.index.json"};
  } else if (single) {
    indices.clear();
  }
  if (indices.size() > 1)
    throw FormatError(fmt::format("{}: expected one *.safetensors.index.json, found {}", folder, indices.size()));
  if (indices.size() == 1) {
    if (auto index = whole_index(folder, indices.front(), single, out.warnings, out.note)) {
      out.index = indices.front();
      out.names = index->files();
      out.placed = std::move(index->weight_map);
      return out;
    }
  }
  if (weights.empty()) {
    throw FormatError(fmt::format("{}: expected *.safetensors files, {}", folder, why_none(all)));
  }
  out.names = single ? std::vector<std::string>{"model.safetensors"} : weights_without_index(folder, weights);
  tell_left_aside(folder, weights, out);
  return out;
}

std::vector<std::string> weights_without_index(const std::string& folder, const std::vector<std::string>& names) {
  if (names.empty() || (names.size() == 1 && shards_by_name(names.front()) < 2)) return names;
  const auto of_stem = [&](const std::string& stem) {
    std::vector<std::string> set;
    for (const std::string& name : names) {
      const auto shard = parse_shard_name(name);
      if (shard && shard->stem == stem) set.push_back(name);
    }
    return set;
  };
  std::vector<std::string> set = of_stem("model");
  if (const auto first = parse_shard_name(names.front()); set.empty() && first) {
    set = of_stem(first->stem);
    if (set.size() != names.size()) set.clear();
  }
  if (set.empty()) {
    throw FormatError(fmt::format(
        "{}: expected model.safetensors, an index (*.safetensors.index.json) or a single *.safetensors file, found {} "
        "files of which nothing says that they belong together: {}; {}",
        folder, names.size(), fmt::join(names, ", "), kAdvice));
  }
  const ShardName shard = *parse_shard_name(set.front());
  const std::unordered_set<std::string_view> there(set.begin(), set.end());
  for (int i = 1; i <= shard.count; ++i) {
    const std::string wanted = shard_name(i, shard.count, shard.stem);
    if (there.count(wanted) == 0) {
      throw FormatError(
          fmt::format("{}: there is no index (*.safetensors.index.json), and {} is missing, one of the {} that "
                      "{} speaks of; {}",
                      folder, wanted, counted(shard.count, "shard"), set.front(), kAdvice));
    }
  }
  if (set.size() != static_cast<size_t>(shard.count)) {
    throw FormatError(
        fmt::format("{}: there is no index (*.safetensors.index.json), and the shards are of several sets: {}; {}",
                    folder, fmt::join(set, ", "), kAdvice));
  }
  return set;
}

void compare_with_index(const std::string& path, const std::map<std::string, std::string>& placed,
                        std::span<const std::unique_ptr<SafetensorsFile>> files, std::vector<std::string>& warnings) {
  std::unordered_map<std::string, const SafetensorsFile*> by_name;
  for (const auto& file : files) by_name.emplace(std::filesystem::path(file->path()).filename().string(), file.get());
  const auto holds = [&](const std::string& file_name, const std::string& tensor) {
    const auto it = by_name.find(file_name);
    return it != by_name.end() && it->second->find(tensor) != nullptr;
  };
  std::unordered_set<std::string_view> stored;
  std::vector<std::string> unlisted;
  std::vector<std::string> elsewhere;
  for (const auto& file : files) {
    const std::string name = std::filesystem::path(file->path()).filename().string();
    for (const TensorView& view : file->tensors()) {
      stored.insert(view.name);
      const auto it = placed.find(view.name);
      if (it == placed.end()) {
        unlisted.push_back(view.name);
      } else if (it->second != name && !holds(it->second, view.name)) {
        elsewhere.push_back(view.name);
      }
    }
  }
  std::vector<std::string> phantoms;
  for (const auto& [name, file] : placed) {
    if (stored.count(name) == 0) phantoms.push_back(name);
  }
  const auto tell = [&](const std::vector<std::string>& names, const char* what) {
    if (names.empty()) return;
    warnings.push_back(fmt::format("{}: {} {} {}, the first: {}", path, names.size(),
                                   names.size() == 1 ? "tensor" : "tensors", what, escaped(names.front())));
  };
  tell(phantoms, "listed there, but in no shard; harmless unless the model needs them");
  tell(unlisted, "of its shards not listed there, but read all the same");
  tell(elsewhere, "in another shard than it says, and read from there");
}

}  // namespace metal_marlin
