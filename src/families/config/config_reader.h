// Checked access to the keys of a config.json. A key that is null counts as absent.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// FormatError naming file, key, expected and found for a missing key (get_*), a wrong type or a value out of range.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& object, std::string file, std::string prefix = "");

  bool has(const char* key) const;
  bool names(const char* key) const;  // also when it is null
  int64_t get_int(const char* key, int64_t low, int64_t high) const;
  std::optional<int64_t> find_int(const char* key, int64_t low, int64_t high) const;
  std::optional<double> find_number(const char* key, double low, double high) const;  // finite
  std::optional<bool> find_bool(const char* key) const;
  std::optional<std::string> find_string(const char* key) const;
  std::optional<std::vector<std::string>> find_strings(const char* key) const;
  std::vector<int64_t> find_ints(const char* key, int64_t low,
                                 int64_t high) const;  // a number or an array; empty: absent
  std::optional<std::vector<double>> find_numbers(const char* key, double low,
                                                  double high) const;  // an array of finite
  std::optional<ConfigReader> find_object(const char* key) const;
  const nlohmann::json& object() const noexcept { return *object_; }
  const std::string& file() const noexcept { return file_; }
  [[noreturn]] void fail(const std::string& key, const std::string& expected) const;

 private:
  const nlohmann::json* find(const char* key) const;
  const nlohmann::json* object_;
  std::string file_;
  std::string prefix_;
};

// The first of these keys that is a string.
std::string first_string(const ConfigReader& config, std::initializer_list<const char*> keys, const char* otherwise);

// The object in a JSON file. FormatError naming the file: no JSON, no object, nested too deeply; SystemError: no file.
// A byte order mark before it is left out, and `warnings` says so.
nlohmann::json read_json_object(const std::string& path, std::vector<std::string>& warnings);

// Sizes of a model stay below this: products of two fit int64.
inline constexpr int64_t kLargestSize = (int64_t{1} << 31) - 1;

}  // namespace metal_marlin
