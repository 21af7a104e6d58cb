#include "source/companions.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <string_view>

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

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
  if (small.empty() || small[0] == '.') return false;
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

// Of folder/snapshots/COMMIT the cache's files lie in folder/blobs.
bool stays_inside(const fs::path& file, const fs::path& folder) {
  std::error_code code;
  if (!fs::is_symlink(file, code)) return true;
  const fs::path target = fs::canonical(file, code);
  if (code) return false;
  const fs::path home = fs::canonical(folder, code);
  if (code) return false;
  return target.parent_path() == home || target.parent_path() == home.parent_path().parent_path() / "blobs";
}

}  // namespace

std::vector<std::string> determining_files(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code code;
  for (const char* name : kDetermining) {
    if (fs::is_regular_file(fs::path(folder) / name, code)) names.emplace_back(name);
  }
  return names;
}

std::vector<std::string> companion_names(const std::string& folder, bool whole) {
  std::vector<std::string> names = determining_files(folder);
  std::vector<std::string> others;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    if (!goes_along(name) || !(whole || is_licence(name)) || std::find(names.begin(), names.end(), name) != names.end())
      continue;
    std::error_code unread;
    if (!entry.is_regular_file(unread) || entry.file_size(unread) > kLargest || unread) continue;
    if (stays_inside(entry.path(), folder)) others.push_back(name);
  }
  std::sort(others.begin(), others.end());
  names.insert(names.end(), others.begin(), others.end());
  return names;
}

}  // namespace metal_marlin
