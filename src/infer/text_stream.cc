#include "infer/text_stream.h"

#include <algorithm>
#include <string_view>

namespace metal_marlin {
namespace {

constexpr size_t kContext = 6;
// A character has at most four bytes, so at most four tokens of one byte; more waiting tokens are broken UTF-8.
constexpr size_t kLongestWait = 8;
constexpr std::string_view kReplacement = "\xef\xbf\xbd";

}  // namespace

TextStream::TextStream(std::function<std::string(std::span<const int32_t>)> decode, std::span<const int32_t> context)
    : decode_(std::move(decode)) {
  const auto tail = context.last(std::min(context.size(), kContext));
  ids_.assign(tail.begin(), tail.end());
  done_ = ids_.size();
}

std::string TextStream::push(int32_t token) {
  ids_.push_back(token);
  return advance(false);
}

std::string TextStream::finish() { return advance(true); }

std::string TextStream::advance(bool final) {
  if (ids_.size() == done_) return {};
  const std::string before = decode_(std::span(ids_).first(done_));
  const std::string after = decode_(ids_);
  const bool incomplete = after.ends_with(kReplacement) && ids_.size() - done_ < kLongestWait;
  if (!final && (incomplete || after.size() <= before.size())) return {};
  // Where the new tokens changed how the context decodes, the common part was returned already.
  const auto differ = std::mismatch(before.begin(), before.end(), after.begin(), after.end()).second;
  auto begin = static_cast<size_t>(differ - after.begin());
  while (begin > 0 && begin < after.size() && (static_cast<unsigned char>(after[begin]) & 0xc0u) == 0x80u) --begin;
  if (ids_.size() > kContext) ids_.erase(ids_.begin(), ids_.end() - static_cast<std::ptrdiff_t>(kContext));
  done_ = ids_.size();
  return after.substr(begin);
}

}  // namespace metal_marlin
