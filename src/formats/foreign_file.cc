#include "formats/foreign_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/counted.h"
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

constexpr size_t kProbe = 60;

std::string text_in_place(std::string_view start) {
  return fmt::format(
      "this is a text, such as a server's error message, not the file itself (it begins with {}): download the file "
      "again",
      shown(start.substr(0, kProbe)));
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
  if (is_plain_text(start.substr(0, kProbe))) return text_in_place(start);
  return {};
}

std::string foreign_json_text(std::string_view text) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos)
    return fmt::format("the file is empty ({})", counted(text.size(), "byte"));
  if (text.starts_with("\xEF\xBB\xBF"))
    return "it begins with a byte order mark, which JSON does not allow and other programs refuse: save it as UTF-8 "
           "without one";
  if (std::string foreign = foreign_file_text(text.substr(0, 512)); !foreign.empty()) return foreign;
  // JSON opens with a bracket here; a sentence opens with a letter or with a status ("404: Not Found").
  const char first = text[text.find_first_not_of(" \t\r\n")];
  const bool word = std::isalnum(static_cast<unsigned char>(first)) != 0;
  if (word && text.find(' ') != std::string_view::npos && is_plain_text(text.substr(0, kProbe)))
    return text_in_place(text);
  return {};
}

std::string error_page_text(const nlohmann::json& value) {
  if (!value.is_object() || value.empty()) return {};
  static constexpr std::array<std::string_view, 9> kKeys = {
      "error", "errors", "message", "detail", "status", "statusCode", "code", "url", "documentation_url"};
  std::string says;
  for (const auto& [key, entry] : value.items()) {
    if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) return {};
    if (says.empty() && (key == "error" || key == "message" || key == "detail")) {
      says = entry.is_string() ? entry.get<std::string>()
                               : entry.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    }
  }
  if (says.empty()) return {};
  return fmt::format("this is a server's error message ({}), not the file itself: download the file again",
                     shown(std::string_view(says).substr(0, kProbe)));
}

std::string byte_order_mark_warning(const std::string& path) {
  return path +
         ": begins with a byte order mark, which is left out; other programs refuse it: save it as UTF-8 without "
         "one";
}

void drop_byte_order_mark(std::string& text, const std::string& path, std::vector<std::string>& warnings) {
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  if (!text.starts_with(kMark)) return;
  text.erase(0, kMark.size());
  warnings.push_back(byte_order_mark_warning(path));
}

}  // namespace metal_marlin
