#include "terminal/message_parts.h"

#include <utility>

namespace metal_marlin {
namespace {

constexpr std::string_view kQuotes = "\"\"\"";

std::string_view without_blanks_at_end(std::string_view text) {
  const size_t last = text.find_last_not_of(" \t");
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

// An even number of them stands for itself.
bool goes_on(std::string_view line) {
  const size_t last = line.find_last_not_of('\\');
  return (line.size() - (last == std::string_view::npos ? 0 : last + 1)) % 2 == 1;
}

}  // namespace

bool MessageParts::add(std::string_view line) {
  const bool first = !std::exchange(begun_, true);
  if (first && line.starts_with(kQuotes)) {
    quoted_ = true;
    line.remove_prefix(kQuotes.size());
  } else if (!first && (!quoted_ || !text_.empty())) {
    text_ += '\n';  // but not behind quotes that stand alone
  }
  if (!quoted_) {
    const bool more = goes_on(line);
    text_ += more ? line.substr(0, line.size() - 1) : line;
    return !more;
  }
  std::string_view end = without_blanks_at_end(line);
  if (!end.ends_with(kQuotes)) {
    text_ += line;
    return false;
  }
  end.remove_suffix(kQuotes.size());
  text_ += end;
  if (end.empty() && text_.ends_with('\n')) text_.pop_back();
  return true;
}

std::string MessageParts::take() {
  begun_ = quoted_ = false;
  return std::exchange(text_, {});
}

}  // namespace metal_marlin
