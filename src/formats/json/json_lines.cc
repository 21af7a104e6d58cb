#include "formats/json/json_lines.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>

namespace metal_marlin {

bool JsonLines::next(std::string_view& line) {
  size_t feed = text_.find('\n', at_);
  if (feed == std::string::npos) {
    text_.erase(0, at_);
    at_ = 0;
    while (feed == std::string::npos && text_.size() <= kLongestJsonLine && !ended_) {
      const size_t searched = text_.size();
      ended_ = !reader_.read(text_);
      feed = text_.find('\n', searched);
    }
    if (text_.empty()) return false;
  }
  ++number_;
  const size_t size = std::min(feed, text_.size()) - at_;
  if (size > kLongestJsonLine) {
    throw FormatError(fmt::format("{}:{}: expected a line of at most {} MiB, found a longer one", reader_.path(),
                                  number_, kLongestJsonLine >> 20));
  }
  line = std::string_view(text_).substr(at_, size);
  at_ = std::min(at_ + size + 1, text_.size());
  return true;
}

}  // namespace metal_marlin
