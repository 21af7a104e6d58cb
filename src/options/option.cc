#include "options/option.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace metal_marlin {
namespace {

std::string range_text(const Option& option, const char* what) {
  if (option.most >= (option.kind == OptionKind::kReal ? std::numeric_limits<double>::max() : 9.2e18)) {
    return fmt::format("{} of at least {}", what, option.least);
  }
  if (option.above_least) return fmt::format("{} above {}, up to {}", what, option.least, option.most);
  return fmt::format("{} from {} to {}", what, option.least, option.most);
}

bool in_range(const Option& option, double number) {
  const bool large = option.above_least ? number > option.least : number >= option.least;
  return large && number <= option.most;  // false for NaN
}

}  // namespace

std::string key_of_option(const std::string& name) {
  std::string key = name;
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

std::string default_of_option(const Option& option, const OptionValue& value) {
  if (!option.default_text.empty()) return option.default_text;
  if (const auto* on = std::get_if<bool>(&value)) return *on ? "on" : "off";
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* texts = std::get_if<std::vector<std::string>>(&value))
    return fmt::format("{}", fmt::join(*texts, ","));
  if (const auto* number = std::get_if<int64_t>(&value)) return std::to_string(*number);
  if (const auto* number = std::get_if<uint64_t>(&value)) return std::to_string(*number);
  if (const auto* real = std::get_if<double>(&value)) return fmt::format("{}", *real);
  if (const auto* numbers = std::get_if<std::vector<double>>(&value))
    return fmt::format("{}", fmt::join(*numbers, ","));
  return option.automatic ? "auto" : "";
}

std::string expected_of_option(const Option& option) {
  if (!option.expected.empty()) return option.expected;
  switch (option.kind) {
    case OptionKind::kFlag:
    case OptionKind::kToggle:
      return "true or false";
    case OptionKind::kSwitch:
    case OptionKind::kChoice:
    case OptionKind::kChoices:
      return fmt::format("one of {}", fmt::join(option.choices, ", "));
    case OptionKind::kInteger:
      return range_text(option, "a whole number");
    case OptionKind::kUnsigned:
    case OptionKind::kBytes:
      return "a whole number from 0 to 18446744073709551615";
    case OptionKind::kReal:
      return range_text(option, "a number");
    case OptionKind::kReals:
      return range_text(option, "numbers");
    case OptionKind::kIntegers:
      return range_text(option, "whole numbers");
    case OptionKind::kText:
      return "a text";
    case OptionKind::kTexts:
      return "texts";
  }
  return "";
}

void check_option_range(const Option& option, const OptionValue& value) {
  const auto refuse = [&](auto found) {
    const std::string& name = option.name.empty() ? option.key : option.name;
    throw ArgumentError(name, fmt::format("--{}: expected {}, found {}", name, expected_of_option(option), found));
  };
  if (const auto* number = std::get_if<int64_t>(&value)) {
    if (option.kind == OptionKind::kInteger &&
        !(option.accepts ? option.accepts(*number) : in_range(option, static_cast<double>(*number))))
      refuse(*number);
  } else if (const auto* real = std::get_if<double>(&value)) {
    if (option.kind == OptionKind::kReal && !in_range(option, *real)) refuse(*real);
  } else if (const auto* list = std::get_if<std::vector<double>>(&value)) {
    for (const double entry : *list)
      if (!in_range(option, entry)) refuse(entry);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    // A value that is none of the enumerators.
    if (option.kind == OptionKind::kChoice && text->empty()) refuse("another value");
  }
}

}  // namespace metal_marlin
