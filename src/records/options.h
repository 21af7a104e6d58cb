// Values of options, as a report has them.
#pragma once

#include <metal_marlin/record.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {

// Empty where the option is not there, or has another type.
template <class T>
std::optional<T> option(const OptionValues& options, const std::string& name) {
  const auto it = options.find(name);
  if (it == options.end()) return std::nullopt;
  const T* value = std::get_if<T>(&it->second);
  return value != nullptr ? std::optional<T>(*value) : std::nullopt;
}

// An empty list is one of texts, as it is when it is read from JSON.
inline OptionValue list_option(std::vector<double> numbers) {
  if (numbers.empty()) return std::vector<std::string>();
  return numbers;
}
inline OptionValue number_option(uint64_t number) {
  if (std::in_range<int64_t>(number)) return static_cast<int64_t>(number);
  return number;
}

}  // namespace metal_marlin
