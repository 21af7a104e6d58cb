// Members of option structs as values of options, and back.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/enum_names.h"
#include "options/option.h"
#include "records/options.h"

namespace metal_marlin {

template <class T>
struct OptionalOf : std::false_type {};
template <class T>
struct OptionalOf<std::optional<T>> : std::true_type {
  using Type = T;
};
template <>
struct OptionalOf<Switch> : std::true_type {
  using Type = bool;
};

template <class T>
OptionValue option_value(const T& field) {
  if constexpr (OptionalOf<T>::value) {
    return field ? option_value(*field) : OptionValue();
  } else if constexpr (std::is_enum_v<T>) {
    return std::string(name_of(field));
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    return number_option(field);
  } else if constexpr (std::is_same_v<T, int>) {
    return static_cast<int64_t>(field);
  } else if constexpr (std::is_same_v<T, std::vector<double>> || std::is_same_v<T, std::vector<int64_t>>) {
    return list_option({field.begin(), field.end()});
  } else {
    return field;
  }
}

// False where the value has a type, or is a name, that the member cannot hold; the member is then as it was.
template <class T>
bool set_option(T& field, const OptionValue& value) {
  const auto* text = std::get_if<std::string>(&value);
  const auto* integer = std::get_if<int64_t>(&value);
  if constexpr (OptionalOf<T>::value) {
    using Inner = typename OptionalOf<T>::Type;
    if (std::holds_alternative<std::monostate>(value) || (text != nullptr && *text == "auto")) {
      field.reset();
      return true;
    }
    Inner inner{};
    if constexpr (std::is_same_v<Inner, bool>) {
      if (text != nullptr && (*text == "on" || *text == "off")) {
        field = *text == "on";
        return true;
      }
    }
    if (!set_option(inner, value)) return false;
    field = std::move(inner);
    return true;
  } else if constexpr (std::is_enum_v<T>) {
    const std::optional<T> named = text != nullptr ? enum_named<T>(*text) : std::nullopt;
    if (named) field = *named;
    return named.has_value();
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    if (const auto* number = std::get_if<uint64_t>(&value)) {
      field = *number;
      return true;
    }
    if (integer == nullptr || *integer < 0) return false;
    field = static_cast<uint64_t>(*integer);
    return true;
  } else if constexpr (std::is_same_v<T, int> || std::is_same_v<T, int64_t>) {
    T number{};
    if (text != nullptr) {
      const auto [end, fault] = std::from_chars(text->data(), text->data() + text->size(), number);
      if (fault != std::errc() || end != text->data() + text->size()) return false;
    } else if (integer != nullptr && std::in_range<T>(*integer)) {
      number = static_cast<T>(*integer);
    } else {
      return false;
    }
    field = number;
    return true;
  } else if constexpr (std::is_same_v<T, double>) {
    const auto* number = std::get_if<double>(&value);
    if (number == nullptr && integer == nullptr) return false;
    field = number != nullptr ? *number : static_cast<double>(*integer);
    return true;
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    const auto* texts = std::get_if<std::vector<std::string>>(&value);
    if (texts == nullptr && text == nullptr) return false;
    field = texts != nullptr ? *texts : std::vector<std::string>{*text};
    return true;
  } else if constexpr (std::is_same_v<T, std::vector<int64_t>>) {
    std::vector<double> numbers;
    const auto whole = [](double x) { return std::trunc(x) == x && std::fabs(x) < 9e15; };
    if (!set_option(numbers, value) || !std::all_of(numbers.begin(), numbers.end(), whole)) return false;
    field.clear();
    for (const double number : numbers) field.push_back(static_cast<int64_t>(number));
    return true;
  } else if constexpr (std::is_same_v<T, std::vector<double>>) {
    const auto* texts = std::get_if<std::vector<std::string>>(&value);  // an empty list is one of texts
    const auto* numbers = std::get_if<std::vector<double>>(&value);
    if (numbers == nullptr && (texts == nullptr || !texts->empty())) return false;
    field = numbers != nullptr ? *numbers : std::vector<double>();
    return true;
  } else {
    const auto* same = std::get_if<T>(&value);
    if (same != nullptr) field = *same;
    return same != nullptr;
  }
}

// Kind, range, choices and names of values, as far as the member's type tells them.
template <class T>
void describe_field(Option& option) {
  if constexpr (OptionalOf<T>::value) {
    using Inner = typename OptionalOf<T>::Type;
    describe_field<Inner>(option);
    option.automatic = true;
    if constexpr (std::is_same_v<Inner, bool>) {
      option.kind = OptionKind::kSwitch;
      option.choices = {"auto", "on", "off"};
    } else if constexpr (std::is_enum_v<Inner>) {
      option.choices.insert(option.choices.begin(), "auto");
    }
  } else if constexpr (std::is_same_v<T, bool>) {
    option.kind = OptionKind::kFlag;
  } else if constexpr (std::is_enum_v<T>) {
    option.kind = OptionKind::kChoice;
    option.choices = enum_names<T>();
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    option.kind = OptionKind::kUnsigned;
    option.value = "N";
  } else if constexpr (std::is_integral_v<T>) {
    option.kind = OptionKind::kInteger;
    option.value = "N";
    option.least = static_cast<double>(std::numeric_limits<T>::min());
    option.most = static_cast<double>(std::numeric_limits<T>::max());
  } else if constexpr (std::is_same_v<T, double>) {
    option.kind = OptionKind::kReal;
    option.value = "X";
    option.least = std::numeric_limits<double>::lowest();
    option.most = std::numeric_limits<double>::max();
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    option.kind = OptionKind::kTexts;
  } else if constexpr (std::is_same_v<T, std::vector<double>> || std::is_same_v<T, std::vector<int64_t>>) {
    const bool whole = std::is_same_v<T, std::vector<int64_t>>;
    option.kind = whole ? OptionKind::kIntegers : OptionKind::kReals;
    option.value = whole ? "N[,...]" : "X[,...]";
  } else {
    option.kind = OptionKind::kText;
  }
}

}  // namespace metal_marlin
