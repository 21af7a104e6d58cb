#include "arguments/values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <type_traits>

#include "command.h"
#include "core/counted.h"

namespace metal_marlin::cli {
namespace {

[[noreturn]] void refuse(const std::string& text, const std::string& wanted) {
  throw UsageError{fmt::format("expected {}, found '{}'", wanted, text)};
}

#ifdef __cpp_lib_to_chars
using std::from_chars;
#else
// Older libc++ lacks from_chars for floating point. No locale is ever set here, so strtod reads as in "C".
template <typename Number>
std::from_chars_result from_chars(const char* begin, const char* end, Number& value) {
  if constexpr (std::is_integral_v<Number>) {
    return std::from_chars(begin, end, value);
  } else {
    const std::string text(begin, end);
    // What strtod takes beyond from_chars: blanks, a plus sign, hexadecimal digits.
    const bool other = text.empty() || std::isspace(static_cast<unsigned char>(text[0])) != 0 || text[0] == '+' ||
                       text.find_first_of("xX") != std::string::npos;
    if (other) return {begin, std::errc::invalid_argument};
    char* stop = nullptr;
    value = std::strtod(text.c_str(), &stop);
    if (stop == text.c_str()) return {begin, std::errc::invalid_argument};
    return {begin + (stop - text.c_str()),
            std::isinf(value) && std::isdigit(static_cast<unsigned char>(text.back())) != 0
                ? std::errc::result_out_of_range
                : std::errc()};
  }
}
#endif

// The whole of `text` as a number, or a UsageError that names what was wanted.
template <typename Number>
Number parse_number(const std::string& text, const std::string& wanted) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || text.empty()) refuse(text, wanted);
  return value;
}

template <typename Number>
std::string range_text(Number least, Number most) {
  if (most == std::numeric_limits<Number>::max()) return fmt::format("of at least {}", least);
  return fmt::format("from {} to {}", least, most);
}

}  // namespace

int64_t parse_integer(const std::string& text, int64_t least, int64_t most) {
  const std::string wanted = "a whole number " + range_text(least, most);
  // "1e6" is whole as well. Beyond 2^53 a double no longer is.
  if (text.find_first_of("eE") != std::string::npos) {
    const auto real = parse_number<double>(text, wanted);
    if (!(std::fabs(real) < 9007199254740992.0) || std::trunc(real) != real) refuse(text, wanted);
    const auto value = static_cast<int64_t>(real);
    if (value < least || value > most)
      throw UsageError{fmt::format("expected {}, found '{}', which is {}", wanted, text, value)};
    return value;
  }
  const auto value = parse_number<int64_t>(text, wanted);
  if (value < least || value > most) refuse(text, wanted);
  return value;
}

uint64_t parse_unsigned(const std::string& text) {
  return parse_number<uint64_t>(text, "a whole number from 0 to 18446744073709551615");
}

double parse_real(const std::string& text, double least, double most) {
  const std::string wanted = "a number " + range_text(least, most);
  const auto value = parse_number<double>(text, wanted);
  if (!std::isfinite(value) || value < least || value > most) refuse(text, wanted);
  return value;
}

uint64_t parse_size(const std::string& text) {
  const std::string wanted = "a size such as 4GiB, 700MB, 512M or a number of bytes";
  const auto unit_start = std::min(text.find_first_not_of("0123456789."), text.size());
  double number = 0;
  const auto [stop, error] = from_chars(text.data(), text.data() + unit_start, number);
  if (error != std::errc() || stop != text.data() + unit_start || unit_start == 0) refuse(text, wanted);
  std::string unit = text.substr(unit_start);
  unit.erase(0, unit.find_first_not_of(' ') == std::string::npos ? unit.size() : unit.find_first_not_of(' '));
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  double factor = 1;
  if (!unit.empty() && unit != "B") {
    const auto power = std::string("KMGT").find(unit[0]);
    const std::string rest = unit.substr(1);
    if (power == std::string::npos || (!rest.empty() && rest != "B" && rest != "IB")) refuse(text, wanted);
    factor = std::pow(rest == "B" ? 1000.0 : 1024.0, static_cast<double>(power) + 1);
  }
  const double bytes = number * factor;
  if (bytes < 1 || bytes > 9e18) refuse(text, "a size from 1 byte to 8 EiB, such as 4GiB");
  return static_cast<uint64_t>(bytes);
}

uint64_t parse_budget(const std::string& text) {
  constexpr uint64_t kLeast = 1'000'000;
  const uint64_t bytes = parse_size(text);
  if (bytes >= kLeast) return bytes;
  const bool bare = text.find_first_not_of("0123456789.") == std::string::npos;
  const std::string hint = bare ? fmt::format("; did you mean {}{}?", text, bytes <= 64 ? "GB" : "MB") : std::string();
  throw UsageError{fmt::format("expected a size of at least 1 MB, such as 4GiB or 700MB, found '{}', which is {} {}{}",
                               text, bytes, bytes == 1 ? "byte" : "bytes", hint)};
}

std::vector<std::string> parse_choices(const std::string& text, const std::vector<std::string>& choices) {
  std::vector<std::string> result;
  for (const auto& item : split(text, ',')) {
    if (std::find(choices.begin(), choices.end(), item) == choices.end()) refuse(item, "one of " + join(choices, ", "));
    if (std::find(result.begin(), result.end(), item) != result.end())
      throw UsageError{fmt::format("'{}' is named twice", item)};
    result.push_back(item);
  }
  return result;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t start = 0;
  while (start <= text.size()) {
    const size_t end = std::min(text.find(separator, start), text.size());
    parts.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

std::string join(const std::vector<std::string>& parts, const std::string& separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

std::string format_bytes(uint64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes >= (uint64_t{1} << 30)) return fmt::format("{:.1f} GiB", value / (1 << 30));
  if (bytes >= (uint64_t{1} << 20)) return fmt::format("{:.0f} MiB", value / (1 << 20));
  if (bytes >= (uint64_t{1} << 10)) return fmt::format("{:.1f} KiB", value / (1 << 10));
  return counted(bytes, "byte");
}

std::string format_file_size(uint64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes < 1000) return counted(bytes, "byte");
  if (bytes < 1'000'000) return fmt::format("{:.1f} KB", value / 1e3);
  if (bytes < 1'000'000'000) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.2f} GB", value / 1e9);
}

std::string nearest(const std::string& word, const std::vector<std::string>& names) {
  std::string best;
  size_t least = std::min<size_t>(2, word.size() / 3) + 1;
  for (const auto& name : names) {
    // Edit distance, row by row.
    std::vector<size_t> row(name.size() + 1);
    for (size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j < row.size(); ++j) {
        const size_t replaced = diagonal + (word[i - 1] == name[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
      }
    }
    if (row.back() < least) {
      least = row.back();
      best = name;
    }
  }
  return best;
}

std::string meant_by(const std::string& word, const std::vector<std::string>& names) {
  std::vector<std::string> longer;
  if (word.find_first_not_of('-') != std::string::npos && word.size() > 1) {
    for (const auto& name : names) {
      if (name.starts_with(word)) longer.push_back(name);
    }
  }
  if (longer.empty()) return nearest(word, names);
  constexpr size_t kMost = 3;
  if (longer.size() > kMost) longer.resize(kMost);
  return join(longer, " or ");
}

std::string shell_word(const std::string& text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("-_./+:,@=~").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain) return text;
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string format_seconds(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::clamp(seconds, 0.0, 1e12)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02d} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02d} min", whole / 3600, whole / 60 % 60);
}

std::string format_real(double value) {
  return fmt::format("{:g}", value);
}

}  // namespace metal_marlin::cli
