// A record as JSON. nlohmann::json sorts keys by their names, nlohmann::ordered_json keeps the order of the fields.
#pragma once

#include <metal_marlin/record.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "formats/json/bounded_json.h"

namespace metal_marlin {

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsMap : std::false_type {};
template <class T>
struct IsMap<std::map<std::string, T>> : std::true_type {};

template <class Json, class T>
Json value_of(const T& field);

template <class Json>
class JsonWriter {
 public:
  template <class T>
  void operator()(const char* key, const T& field, const char* /*text*/ = "") {
    object[key] = value_of<Json>(field);
  }
  template <class T>
  void since(const char* key, const T& field, const char* /*text*/ = "") {
    object[key] = value_of<Json>(field);
  }
  template <class T>
  void maybe(const char* key, const std::optional<T>& field, const char* /*text*/ = "") {
    if (field) object[key] = value_of<Json>(*field);
  }
  Json object = Json::object();
};

template <class Json, class T>
Json value_of(const T& field) {
  if constexpr (std::is_same_v<T, std::monostate>) {
    return nullptr;
  } else if constexpr (std::is_same_v<T, JsonText>) {
    // By way of sorted keys: an object that keeps the order of its keys looks through all of them for each that comes.
    return Json(parse_json(field.text, "JSON in a record"));
  } else if constexpr (std::is_same_v<T, OptionValue>) {
    return std::visit([](const auto& value) { return value_of<Json>(value); }, field);
  } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
    return field;
  } else if constexpr (IsOptional<T>::value) {
    return field ? value_of<Json>(*field) : Json(nullptr);
  } else if constexpr (IsVector<T>::value) {
    Json list = Json::array();
    for (const auto& entry : field) list.push_back(value_of<Json>(entry));
    return list;
  } else if constexpr (IsMap<T>::value) {
    typename Json::object_t object;
    for (const auto& [key, entry] : field) {
      if constexpr (requires { object.push_back({key, value_of<Json>(entry)}); }) {
        object.push_back({key, value_of<Json>(entry)});  // the key is new
      } else {
        object.emplace(key, value_of<Json>(entry));
      }
    }
    return Json(std::move(object));
  } else {
    JsonWriter<Json> writer;
    T::describe(writer, field);
    return std::move(writer.object);
  }
}

}  // namespace metal_marlin
