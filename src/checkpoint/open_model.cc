// ModelSource::open: which reader a path belongs to.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "checkpoint/convert.h"
#include "checkpoint/gguf/gguf_source.h"
#include "checkpoint/model_source.h"
#include "checkpoint/safetensors_source.h"
#include "core/border.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "core/files/model_file.h"
#include "formats/gguf/gguf_split.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

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

// The snapshot that refs/main names, where there is one. A repository may come from a stranger: no link is followed
// inside it.
std::string snapshot_of(const fs::path& repository) {
  const auto folder = Folder::open_if_there(repository.string());
  if (!folder || folder->status("refs").kind == FileKind::kNone) return "";
  const Folder refs = folder->open_folder("refs");
  if (refs.status("main").kind == FileKind::kNone) return "";
  std::string revision = read_text_file(refs.open_file("main"), refs.path_of("main"), 4096);
  while (!revision.empty() && std::isspace(static_cast<unsigned char>(revision.back())) != 0) revision.pop_back();
  std::error_code code;
  if (is_plain_name(revision) && revision[0] != '.' && fs::is_directory(repository / "snapshots" / revision, code))
    return (repository / "snapshots" / revision).string();
  return "";
}

}  // namespace

std::string resolve_model(const std::string& model) {
  if (model.empty())
    throw ArgumentError("MODEL: expected a folder, a .safetensors or .gguf file, or org/name, got nothing");
  if (path_exists(model)) return model;
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

namespace {

// Whether the files, in the order of their names, are all parts of one split model: the reader finds what is missing.
bool parts_of_one(const std::vector<fs::path>& ggufs) {
  std::optional<GgufSplitName> first;
  for (const fs::path& file : ggufs) {
    const auto name = parse_gguf_split_name(file.string());
    if (!first) first = name;
    if (!name || name->stem != first->stem || name->parts != first->parts) return false;
  }
  return first.has_value();
}

// Whether a folder within the one that was named could be meant.
bool holds_model(const fs::path& folder) {
  std::error_code code;
  if (!fs::is_directory(folder, code)) return false;
  const auto names = names_in_folder(folder.string());
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name == "config.json" || name.ends_with(".gguf"); });
}

std::unique_ptr<ModelSource> open_path(const std::string& path) {
  const fs::path p(path);
  std::error_code code;
  if (fs::is_directory(p, code)) {
    const ModelFolder checked(path);  // refuses what leads out of a repository, before anything of it is read
    std::vector<fs::path> ggufs;
    bool weights = false;
    bool pickles = false;
    bool adapter = false;
    for (const std::string& name : names_in_folder(path)) {
      if (name == "config.json") return open_safetensors_source(path);
      if (name.ends_with(".gguf")) ggufs.push_back(p / name);
      weights = weights || name.ends_with(".safetensors");
      pickles = pickles || name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".pt");
      adapter = adapter || name == "adapter_config.json";
    }
    if (adapter) {
      throw FormatError(fmt::format(
          "{}: expected a model, found a LoRA adapter (adapter_config.json); merge it into its model first (peft: "
          "merge_and_unload) and save the result",
          path));
    }
    if (ggufs.size() == 1 || parts_of_one(ggufs)) return open_gguf_source(ggufs.front().string(), true);
    // A run with several formats leaves one subfolder each.
    std::string inside;
    for (const std::string& name : names_in_folder(path)) {
      if (holds_model(p / name)) inside += (inside.empty() ? "" : " or ") + (p / name).string();
    }
    if (!inside.empty()) throw ArgumentError(fmt::format("{}: holds several checkpoints; name {}", path, inside));
    throw FormatError(
        fmt::format("{}: expected a model folder with config.json (or with one .gguf file), found {}", path,
                    !ggufs.empty() ? fmt::format("{} .gguf files; name one of them", ggufs.size())
                    : weights      ? std::string("weights without a config.json; copy it from the model's repository")
                    : pickles      ? std::string("files of PyTorch (pickles), which are not read; save the model anew "
                                                      "with transformers' save_pretrained, which writes safetensors")
                                   : std::string("neither")));
  }
  if (p.extension() == ".gguf") return open_gguf_source(path, false);
  if (p.extension() == ".safetensors") return open_safetensors_source(path);
  throw UnsupportedError(fmt::format("{}: expected a folder, or a file named .safetensors or .gguf", path));
}

}  // namespace

std::unique_ptr<ModelSource> ModelSource::open(const std::string& model) {
  const std::string path = resolve_model(model);
  try {
    return open_path(path);
  } catch (...) {
    rethrow_as_error(path.c_str());  // so that memory that does not suffice names the model
  }
}

}  // namespace metal_marlin
