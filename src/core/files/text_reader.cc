#include "core/files/text_reader.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/files/text_file.h"

namespace metal_marlin {
namespace {

constexpr size_t kPart = size_t{1} << 20;

// Why the last call of the system failed.
std::string reason() {
  return std::generic_category().message(errno != 0 ? errno : EIO);
}

// Bytes at the end of `text` that begin a character and do not end it.
size_t unfinished(const std::string& text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto c = static_cast<unsigned char>(text[text.size() - back]);
    if ((c & 0xC0) == 0x80) continue;
    const size_t length = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

}  // namespace

TextReader::TextReader(const std::string& path) : path_(path) {
  std::error_code code;
  // A text is read more than once, so a pipe is no text; opening one would wait for its writer.
  if (const auto type = std::filesystem::status(path, code).type();
      std::filesystem::exists(std::filesystem::file_status(type)) && type != std::filesystem::file_type::regular) {
    throw SystemError(fmt::format("{}: expected a text file, found {}", path,
                                  type == std::filesystem::file_type::directory ? "a folder" : "a pipe or a device"));
  }
  errno = 0;
  file_.open(path, std::ios::binary);
  if (!file_) throw SystemError(fmt::format("{}: cannot be opened: {}", path, reason()));
  if (file_.peek() == std::ifstream::traits_type::eof() && !file_.bad())
    throw FormatError(fmt::format("{}: expected a text, found an empty file", path));
}

bool TextReader::read(std::string& text) {
  while (true) {
    std::string bytes = std::move(held_);
    held_.clear();
    const size_t before = bytes.size();
    bytes.resize(before + kPart);
    file_.read(bytes.data() + before, static_cast<std::streamsize>(kPart));
    if (file_.bad()) throw SystemError(fmt::format("{}: reading failed: {}", path_, reason()));
    bytes.resize(before + static_cast<size_t>(file_.gcount()));
    if (bytes.empty()) return false;
    const size_t rest = file_.gcount() == 0 ? 0 : unfinished(bytes);
    held_ = bytes.substr(bytes.size() - rest);
    bytes.resize(bytes.size() - rest);
    expect_utf8(path_, bytes, offset_);
    const bool first = offset_ == 0;
    offset_ += bytes.size();
    if (first && bytes.starts_with(kByteOrderMark)) {
      bytes.erase(0, kByteOrderMark.size());
      if (bytes.empty() && file_.peek() == std::ifstream::traits_type::eof())
        throw FormatError(fmt::format("{}: expected a text, found an empty file", path_));
    }
    const size_t size = text.size();
    for (const char c : bytes) {
      const bool paired = after_return_ && c == '\n';
      after_return_ = c == '\r';
      if (!paired) text += c == '\r' ? '\n' : c;
    }
    if (text.size() > size) return true;
  }
}

}  // namespace metal_marlin
