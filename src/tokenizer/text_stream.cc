#include "tokenizer/text_stream.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>

#include "core/files/text_file.h"
#include "core/files/text_reader.h"

namespace metal_marlin {
namespace {

constexpr size_t kPart = size_t{1} << 20;
constexpr uint64_t kLargestCounted = uint64_t{64} << 20;  // bytes of a text whose tokens are all counted
// Ids at the beginning of a text count as settled when the text with and without this much more gives the same.
constexpr size_t kMore = size_t{64} << 10;
constexpr int64_t kMargin = 256;  // and when as many settled ones follow

bool letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// The largest prefix of at most `size` bytes that ends with a whole character.
size_t whole_characters(std::string_view text, size_t size) {
  while (size > 0 && size < text.size() && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  return size;
}

}  // namespace

size_t largest_whole(uint64_t memory) {
  return memory == 0 ? kLargestWhole : static_cast<size_t>(std::clamp<uint64_t>(memory / 400, kPart, kLargestWhole));
}

TokenStream::TokenStream(const std::string& path, const Tokenizer& tokenizer, size_t largest_whole)
    : name_(path), tokenizer_(tokenizer), cut_(tokenizer.line_cut()), largest_whole_(largest_whole) {
  read_ = [reader = std::make_shared<TextReader>(path)](std::string& text) { return reader->read(text); };
}

TokenStream::TokenStream(std::string_view text, std::string name, const Tokenizer& tokenizer, size_t largest_whole)
    : name_(std::move(name)), tokenizer_(tokenizer), cut_(tokenizer.line_cut()), largest_whole_(largest_whole) {
  read_ = [rest = text](std::string& part) mutable {
    const std::string_view taken = rest.substr(0, whole_characters(rest, kPart));
    part += taken;
    rest.remove_prefix(taken.size());
    return !taken.empty();
  };
}

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
  const Step step = advance(ids, wanted);
  if (step == Step::kStuck) refuse();
  return step == Step::kMore;
}

void TokenStream::refuse() const {
  throw UnsupportedError(fmt::format(
      "{}: {} MiB of it hold no place where the text may be cut without other tokens ({}), and no text of more than {} "
      "MiB is tokenized in one piece{}; give a part of it, or one with shorter lines",
      name_, std::max<size_t>(1, text_.size() >> 20),
      cut_ == Tokenizer::LineCut::kNowhere
          ? "for this tokenizer none is known"
          : "a line that ends in a visible character and one that begins with a letter",
      largest_whole_ >> 20, largest_whole_ < kLargestWhole ? " within this --memory" : ""));
}

TokenStream::Step TokenStream::advance(std::vector<int32_t>& ids, int64_t wanted) {
  if (done_) return Step::kEnd;
  size_t tried = 0;  // size of text_ when its beginning alone was last looked at
  while (true) {
    if (!ended_) ended_ = !read_(text_);
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
            return Step::kMore;
          }
        }
        if (text_.size() > largest_whole_) return Step::kStuck;
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
    if (!got.empty()) return Step::kMore;
    if (done_) return Step::kEnd;
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

namespace {

// The last `bytes` of a file, from the beginning of a character on, line ends as TextReader gives them.
std::string end_of_file(const std::string& path, uint64_t size, uint64_t bytes) {
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(bytes), '\0');
  file.seekg(static_cast<std::streamoff>(size - bytes));
  file.read(text.data(), static_cast<std::streamsize>(bytes));
  if (!file) throw SystemError(fmt::format("{}: reading failed", path));
  size_t begin = 0;
  while (begin < 3 && begin < text.size() && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) ++begin;
  text.erase(0, begin);
  expect_utf8(path, text, size - bytes + begin);
  return with_plain_newlines(std::move(text));
}

// The first place in `text` where it may be cut, for what stands behind; npos: none.
size_t first_cut(const std::string& text, Tokenizer::LineCut cut) {
  for (size_t feed = 1; feed + 1 < text.size(); ++feed) {
    if (text[feed] == '\n' && text[feed - 1] > ' ' && text[feed - 1] < 127 && letter(text[feed + 1]))
      return cut == Tokenizer::LineCut::kBefore ? feed : feed + 1;
  }
  return std::string::npos;
}

// The last `count` ids of a text of `size` bytes, from its last `most` bytes; false where these do not tell them.
bool last_tokens(const std::string& path, const Tokenizer& tokenizer, uint64_t size, int64_t count, uint64_t most,
                 std::vector<int32_t>& ids) {
  const auto cut = tokenizer.line_cut();
  if (cut == Tokenizer::LineCut::kNowhere) return false;
  for (uint64_t bytes = std::min<uint64_t>(2 * kMore, most);; bytes = std::min(4 * bytes, most)) {
    const std::string text = end_of_file(path, size, bytes);
    const size_t at = first_cut(text, cut);
    std::vector<int32_t> got;
    int64_t sure = 0;  // of these, from the end
    if (at != std::string::npos) {
      got = tokenizer.encode_rest(std::string_view(text).substr(at));
      sure = static_cast<int64_t>(got.size());
    } else {
      got = tokenizer.encode(text, false);
      const size_t less = whole_characters(text, std::min(kMore, text.size()));
      const auto shorter = tokenizer.encode(std::string_view(text).substr(less), false);
      sure =
          std::mismatch(shorter.rbegin(), shorter.rend(), got.rbegin(), got.rend()).first - shorter.rbegin() - kMargin;
    }
    if (sure >= count) {
      ids.insert(ids.end(), got.end() - count, got.end());
      return true;
    }
    if (bytes == most) return false;
  }
}

}  // namespace

TextEnds text_ends(const std::string& path, const Tokenizer& tokenizer, int64_t first, int64_t last, uint64_t memory) {
  const size_t whole = largest_whole(memory);
  std::error_code code;
  const uint64_t size = std::filesystem::file_size(path, code);  // -1 where there is none, which the stream says
  TextEnds ends;
  // The ends alone, where they cannot meet: no tokenizer has tokens of more than some ten bytes on average.
  const auto far = [&] {
    if (code || static_cast<uint64_t>(first + last) >= size / 64) return false;
    ends = {};
    ends.counted = false;
    TokenStream stream(path, tokenizer, whole);
    const auto have = [&] { return static_cast<int64_t>(ends.ids.size()); };
    while (have() < first && stream.next(ends.ids, first - have())) {
    }
    if (have() < first) return false;
    ends.ids.resize(static_cast<size_t>(first));
    if (last > 0 && !last_tokens(path, tokenizer, size, last, std::min<uint64_t>(whole, size), ends.ids)) return false;
    ends.total = have();
    return true;
  };
  if (!code && size > kLargestCounted && far()) return ends;
  ends = {};
  TokenStream stream(path, tokenizer, whole);
  std::vector<int32_t> part;
  const auto most = static_cast<size_t>(first + last);
  while (true) {
    part.clear();
    // All is wanted: the beginning alone is never enough.
    const auto step = stream.advance(part, std::numeric_limits<int32_t>::max());
    if (step == TokenStream::Step::kEnd) return ends;
    if (step == TokenStream::Step::kStuck) {
      if (!far()) stream.refuse();
      return ends;
    }
    ends.total += static_cast<int64_t>(part.size());
    ends.ids.insert(ends.ids.end(), part.begin(), part.end());
    if (ends.ids.size() > most)
      ends.ids.erase(ends.ids.begin() + static_cast<std::ptrdiff_t>(first),
                     ends.ids.end() - static_cast<std::ptrdiff_t>(last));
  }
}

}  // namespace metal_marlin
