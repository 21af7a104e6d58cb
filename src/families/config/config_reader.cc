#include "families/config/config_reader.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/files/model_file.h"
#include "formats/foreign_file.h"
#include "formats/json/bounded_json.h"
#include "formats/text.h"

namespace metal_marlin {

using nlohmann::json;

namespace {

// An integer above int64's range must not wrap around into the allowed one.
std::optional<int64_t> in_range(const json& integer, int64_t low, int64_t high) {
  if (integer.is_number_unsigned() && integer.get<uint64_t>() > static_cast<uint64_t>(std::max<int64_t>(high, 0)))
    return std::nullopt;
  const auto n = integer.get<int64_t>();
  if (n < low || n > high) return std::nullopt;
  return n;
}

constexpr uint64_t kConfigLimit = uint64_t{16} << 20;

}  // namespace

std::string first_string(const ConfigReader& config, std::initializer_list<const char*> keys, const char* otherwise) {
  for (const char* key : keys) {
    if (const auto text = config.find_string(key)) return *text;
  }
  return otherwise;
}

json read_json_object(const std::string& path, std::vector<std::string>& warnings) {
  std::string text = read_model_text(path, kConfigLimit);
  drop_byte_order_mark(text, path, warnings);
  if (text.find_first_not_of(" \t\r\n") == std::string::npos)
    throw FormatError(fmt::format("{}: the file is empty ({} bytes): download it again", path, text.size()));
  json j = parse_json(text, path);
  if (const std::string page = error_page_text(j); !page.empty()) throw FormatError(fmt::format("{}: {}", path, page));
  if (!j.is_object()) throw FormatError(fmt::format("{}: expected a JSON object, found {}", path, j.type_name()));
  return j;
}

ConfigReader::ConfigReader(const json& object, std::string file, std::string prefix)
    : object_(&object), file_(std::move(file)), prefix_(std::move(prefix)) {
  if (!object.is_object()) throw FormatError(fmt::format("{}: {}expected a JSON object", file_, prefix_));
}

const json* ConfigReader::find(const char* key) const {
  const auto it = object_->find(key);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool ConfigReader::has(const char* key) const {
  return find(key) != nullptr;
}

bool ConfigReader::names(const char* key) const {
  return object_->contains(key);
}

void ConfigReader::fail(const std::string& key, const std::string& expected) const {
  const auto it = object_->find(key);
  // NaN and infinity come from GGUF metadata; JSON has no words for them.
  std::string found = it == object_->end()    ? "nothing"
                      : it->is_number_float() ? fmt::format("{}", it->get<double>())
                                              : it->dump(-1, ' ', false, json::error_handler_t::replace);
  if (found.size() > 80) found = found.substr(0, 80) + "...";
  found = escaped(found);
  throw FormatError(fmt::format("{}: {}{}: expected {}, found {}", file_, prefix_, key, expected, found));
}

std::optional<int64_t> ConfigReader::find_int(const char* key, int64_t low, int64_t high) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const std::string expected = fmt::format("an integer from {} to {}", low, high);
  const auto n = value->is_number_integer() ? in_range(*value, low, high) : std::nullopt;
  if (!n) fail(key, expected);
  return n;
}

int64_t ConfigReader::get_int(const char* key, int64_t low, int64_t high) const {
  const auto n = find_int(key, low, high);
  if (!n) fail(key, fmt::format("an integer from {} to {}", low, high));
  return *n;
}

std::optional<double> ConfigReader::find_number(const char* key, double low, double high) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const std::string expected = fmt::format("a number from {} to {}", low, high);
  if (!value->is_number()) fail(key, expected);
  const auto x = value->get<double>();
  if (!std::isfinite(x) || x < low || x > high) fail(key, expected);
  return x;
}

std::optional<bool> ConfigReader::find_bool(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) fail(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> ConfigReader::find_string(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(key, "a string");
  return value->get<std::string>();
}

std::optional<std::vector<double>> ConfigReader::find_numbers(const char* key, double low, double high) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const std::string expected = fmt::format("an array of numbers from {} to {}", low, high);
  if (!value->is_array()) fail(key, expected);
  std::vector<double> out;
  for (const json& entry : *value) {
    if (!entry.is_number()) fail(key, expected);
    out.push_back(entry.get<double>());
    if (!std::isfinite(out.back()) || out.back() < low || out.back() > high) fail(key, expected);
  }
  return out;
}

std::optional<std::vector<std::string>> ConfigReader::find_strings(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) fail(key, "an array of strings");
  std::vector<std::string> out;
  for (const json& entry : *value) {
    if (!entry.is_string()) fail(key, "an array of strings");
    out.push_back(entry.get<std::string>());
  }
  return out;
}

std::vector<int64_t> ConfigReader::find_ints(const char* key, int64_t low, int64_t high) const {
  const json* value = find(key);
  if (value == nullptr) return {};
  const std::string expected = fmt::format("an integer from {} to {} or an array of such", low, high);
  const json list = value->is_array() ? *value : json::array({*value});
  std::vector<int64_t> out;
  for (const json& entry : list) {
    const auto n = entry.is_number_integer() ? in_range(entry, low, high) : std::nullopt;
    if (!n) fail(key, expected);
    out.push_back(*n);
  }
  return out;
}

std::optional<ConfigReader> ConfigReader::find_object(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) fail(key, "an object");
  return ConfigReader(*value, file_, prefix_ + key + ".");
}

}  // namespace metal_marlin
