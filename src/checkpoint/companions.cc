#include "checkpoint/companions.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "checkpoint/model_source.h"
#include "core/counted.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr const char* kDetermining[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "generation_config.json",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "tokenizer.model"};
constexpr uint64_t kLargest = uint64_t{16} << 20;
constexpr size_t kMostOthers = 1000;
constexpr uint64_t kMostBytesOfOthers = uint64_t{256} << 20;
// Weights, also of other programs, and archives.
constexpr std::string_view kForeignEnds[] = {".safetensors",
                                             ".safetensors.index.json",
                                             ".bin",
                                             ".bin.index.json",
                                             ".pt",
                                             ".pth",
                                             ".ckpt",
                                             ".h5",
                                             ".onnx",
                                             ".msgpack",
                                             ".gguf",
                                             ".npz",
                                             ".npy",
                                             ".pkl",
                                             ".zip",
                                             ".gz",
                                             ".tar",
                                             ".tmp",
                                             ".incomplete",
                                             ".lock",
                                             "~"};
// Written anew, or true of the source alone.
constexpr std::string_view kReplaced[] = {
    "config.json",          "readme.md",   "quantize_config.json", "quant_config.json", "quantization_config.json",
    "hf_quant_config.json", "report.json", "report.html",          "quant_log.csv"};
constexpr std::string_view kLicences[] = {"license", "licence", "notice", "copying", "use_policy"};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

bool goes_along(const std::string& name) {
  const std::string small = lower(name);
  if (small.empty() || small[0] == '.' || small[0] == '-' || escaped(name) != name) return false;
  if (small.ends_with("processor_config.json")) return false;  // of images and sounds, which only the source takes
  if (std::find(std::begin(kReplaced), std::end(kReplaced), small) != std::end(kReplaced)) return false;
  return std::none_of(std::begin(kForeignEnds), std::end(kForeignEnds),
                      [&](std::string_view end) { return small.ends_with(end); });
}

bool is_licence(const std::string& name) {
  const std::string small = lower(name);
  return std::any_of(std::begin(kLicences), std::end(kLicences),
                     [&](std::string_view start) { return small.starts_with(start); });
}

}  // namespace

std::vector<std::string> determining_files(const ModelFolder& folder) {
  std::vector<std::string> names;
  for (const char* name : kDetermining) {
    if (folder.folder().status(name).kind != FileKind::kNone) names.emplace_back(name);
  }
  return names;
}

std::vector<std::string> companion_names(const ModelFolder& folder, bool whole) {
  std::vector<std::string> names = determining_files(folder);
  std::vector<std::string> others;
  for (const std::string& name : folder.folder().names()) {
    if (!goes_along(name) || !(whole || is_licence(name)) || std::find(names.begin(), names.end(), name) != names.end())
      continue;
    const FileKind kind = folder.folder().status(name).kind;
    if ((kind != FileKind::kRegular && kind != FileKind::kLink) || folder.leads_out(name)) continue;
    try {
      if (status_of(folder.open(name), name).identity.size <= kLargest) others.push_back(name);
    } catch (const SystemError&) {
      continue;  // not readable, or a link to a folder: nothing that the model needs
    }
  }
  names.insert(names.end(), others.begin(), others.end());
  return names;
}

uint64_t companion_bytes(const ModelSource& source) {
  size_t others = 0;
  uint64_t bytes = 0;
  uint64_t all = 0;
  for (const CompanionFile& file : source.companion_files()) {
    all += file.bytes;
    if (std::find(std::begin(kDetermining), std::end(kDetermining), file.name) != std::end(kDetermining)) continue;
    ++others;
    bytes += file.bytes;
  }
  if (others <= kMostOthers && bytes <= kMostBytesOfOthers) return all;
  throw FormatError(fmt::format(
      "{}: {} of {} MiB stand beside the weights and would go along into the result, expected at most {} of {} MiB; "
      "move what is no part of the model elsewhere",
      source.path(), counted(others, "file"), bytes >> 20, kMostOthers, kMostBytesOfOthers >> 20));
}

}  // namespace metal_marlin
