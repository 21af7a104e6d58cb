#include "source/text_stream.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

#include "source/text.h"

namespace metal_marlin {
namespace {

constexpr size_t kPart = size_t{1} << 20;
constexpr size_t kLargestWhole = size_t{32} << 20;
// Ids at the beginning of a text count as settled when the text with and without this much more gives the same.
constexpr size_t kMore = size_t{64} << 10;
constexpr int64_t kMargin = 256;  // and when as many settled ones follow

// Why the last call of the system failed.
std::string reason() {
  return std::generic_category().message(errno != 0 ? errno : EIO);
}

bool letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
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

// The largest prefix of at most `size` bytes that ends with a whole character.
size_t whole_characters(const std::string& text, size_t size) {
  while (size > 0 && size < text.size() && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  return size;
}

}  // namespace

TextReader::TextReader(const std::string& path) : path_(path) {
  std::error_code code;
  if (std::filesystem::is_directory(path, code))
    throw SystemError(fmt::format("{}: expected a text file, found a folder", path));
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

TokenStream::TokenStream(const std::string& path, const Tokenizer& tokenizer)
    : reader_(path), tokenizer_(tokenizer), cut_(tokenizer.line_cut()) {}

// Behind the last line feed in text_ where it may be cut; 0: none behind what was searched.
size_t TokenStream::last_cut() const {
  for (size_t at = text_.size(); at > std::max<size_t>(searched_, 2); --at) {
    const size_t feed = at - 2;
    if (feed == 0) break;
    if (text_[feed] != '\n' || !letter(text_[feed + 1])) continue;
    const char before = text_[feed - 1];
    if (before > ' ' && before < 127) return feed + 1;
  }
  return 0;
}

// The ids that the beginning of a text gives whatever follows, if these are enough.
bool TokenStream::from_beginning(std::vector<int32_t>& ids, int64_t wanted) const {
  const std::string_view all(text_);
  const auto longer = tokenizer_.encode(all, false);
  const auto shorter = tokenizer_.encode(all.substr(0, whole_characters(text_, text_.size() - kMore)), false);
  const auto same = std::mismatch(shorter.begin(), shorter.end(), longer.begin(), longer.end()).first - shorter.begin();
  if (same < wanted + kMargin) return false;
  ids.insert(ids.end(), shorter.begin(), shorter.begin() + wanted);
  return true;
}

bool TokenStream::next(std::vector<int32_t>& ids, int64_t wanted) {
  if (done_) return false;
  size_t tried = 0;  // size of text_ when its beginning alone was last looked at
  while (true) {
    if (!ended_) ended_ = !reader_.read(text_);
    size_t end = text_.size();
    if (!ended_) {
      end = cut_ == Tokenizer::LineCut::kNowhere ? 0 : last_cut();
      if (end == 0) {
        searched_ = text_.size() < 2 ? 0 : text_.size() - 2;
        // A byte gives one token at most.
        const bool enough = wanted + kMargin < static_cast<int64_t>(text_.size());
        if (enough && cut_ != Tokenizer::LineCut::kNowhere && first_ &&
            text_.size() >= std::max(2 * kMore, 4 * tried)) {
          tried = text_.size();
          if (from_beginning(ids, wanted)) {
            done_ = true;
            return true;
          }
        }
        if (text_.size() > kLargestWhole)
          throw UnsupportedError(fmt::format(
              "{}: the first {} MiB hold no place where the text may be cut without other tokens ({}), and no text of "
              "more than {} MiB is tokenized in one piece; give a part of it, or one with shorter lines",
              reader_.path(), text_.size() >> 20,
              cut_ == Tokenizer::LineCut::kNowhere ? "for this tokenizer none is known"
                                                   : "a line that ends in a visible character and one that begins with "
                                                     "a letter",
              kLargestWhole >> 20));
        continue;
      }
      if (cut_ == Tokenizer::LineCut::kBefore) --end;
    }
    const std::string_view part = std::string_view(text_).substr(0, end);
    const auto got = first_ ? tokenizer_.encode(part, false) : tokenizer_.encode_rest(part);
    ids.insert(ids.end(), got.begin(), got.end());
    text_.erase(0, end);
    searched_ = 0;
    first_ = false;
    done_ = ended_;
    if (!got.empty()) return true;
    if (done_) return false;
  }
}

std::vector<int32_t> first_tokens(const std::string& path, const Tokenizer& tokenizer, int64_t count) {
  TokenStream stream(path, tokenizer);
  std::vector<int32_t> ids;
  const auto have = [&] { return static_cast<int64_t>(ids.size()); };
  while (have() < count && stream.next(ids, count - have())) {
  }
  if (have() > count) ids.resize(static_cast<size_t>(count));
  return ids;
}

TextEnds text_ends(const std::string& path, const Tokenizer& tokenizer, int64_t first, int64_t last) {
  TokenStream stream(path, tokenizer);
  TextEnds ends;
  std::vector<int32_t> part;
  const auto most = static_cast<size_t>(first + last);
  // All is wanted: the beginning alone is never enough.
  while (part.clear(), stream.next(part, std::numeric_limits<int32_t>::max())) {
    ends.total += static_cast<int64_t>(part.size());
    ends.ids.insert(ends.ids.end(), part.begin(), part.end());
    if (ends.ids.size() > most)
      ends.ids.erase(ends.ids.begin() + static_cast<std::ptrdiff_t>(first),
                     ends.ids.end() - static_cast<std::ptrdiff_t>(last));
  }
  return ends;
}

}  // namespace metal_marlin
