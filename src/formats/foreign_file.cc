#include "formats/foreign_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "formats/text.h"

namespace metal_marlin {
namespace {

using namespace std::string_view_literals;

std::string lower_start(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  std::string out(first == std::string_view::npos ? std::string_view() : text.substr(first, 16));
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

bool is_plain_text(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= ' ' && c <= '~') || c == '\n' || c == '\r' || c == '\t';
  });
}

}  // namespace

std::string foreign_file_text(std::string_view start) {
  if (start.starts_with("version https://git-lfs.github.com/spec/")) {
    return "this is a Git LFS pointer, not the file itself: run 'git lfs pull' in the folder";
  }
  const std::string words = lower_start(start);
  if (words.starts_with("<!doctype html") || words.starts_with("<html") || words.starts_with("<head")) {
    return "this is an HTML page, such as a server's login or error page, not the file itself: download the file again";
  }
  if (words.starts_with("<?xml")) {
    return "this is an XML text, such as a server's error message, not the file itself: download the file again";
  }
  if (start.starts_with("PK\3\4") || start.starts_with("PK\5\6")) {
    return "this is a zip archive, as PyTorch's .bin and .pt files are: unpack it, or save the model as safetensors";
  }
  for (const auto& [magic, name] : {std::pair{"\x1f\x8b"sv, "gzip"},
                                    {"\xfd"
                                     "7zXZ\0"sv,
                                     "xz"},
                                    {"\x28\xb5\x2f\xfd"sv, "zstd"},
                                    {"BZh"sv, "bzip2"}}) {
    if (start.starts_with(magic)) return fmt::format("this is a {} archive: unpack it", name);
  }
  if (start.size() > 2 && start[0] == '\x80' && start[1] >= 2 && start[1] <= 5 &&
      (start[2] == '}' || start[2] == ']' || start[2] == '(' || start[2] == 'c' || start[2] == '\x8a' ||
       start[2] == '\x95')) {
    return "this is a Python pickle, as PyTorch's .bin and .pt files hold: save the model as safetensors";
  }
  return {};
}

std::string foreign_weights_text(std::string_view start) {
  if (start.empty()) return "the file is empty (0 bytes): download it again";
  if (std::string text = foreign_file_text(start); !text.empty()) return text;
  if (start.starts_with("GGUF")) return "this is a GGUF file: give it a name that ends in .gguf";
  if (start.size() > 9 && start[8] == '{' && std::memcmp(start.data() + 4, "\0\0\0\0", 4) == 0) {
    return "this is a safetensors file: give it a name that ends in .safetensors";
  }
  constexpr size_t kProbe = 60;
  if (start.size() >= 16 && is_plain_text(start.substr(0, kProbe))) {
    return fmt::format(
        "this is a text, such as a server's error message, not the file itself (it begins with {}): "
        "download the file again",
        shown(start.substr(0, kProbe)));
  }
  return {};
}

}  // namespace metal_marlin
