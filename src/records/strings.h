// All strings of a record.
#pragma once

#include <metal_marlin/record.h>

#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace metal_marlin {

// Calls change(std::string&) for every string of a record and, if `keys`, for the keys of its maps.
template <class Change>
class StringVisitor {
 public:
  StringVisitor(Change change, bool keys) : change_(std::move(change)), keys_(keys) {}

  template <class T>
  void operator()(const char* /*key*/, T& field, const char* /*text*/ = "") {
    visit(field);
  }
  template <class T>
  void since(const char* /*key*/, T& field, const char* /*text*/ = "") {
    visit(field);
  }
  template <class T>
  void maybe(const char* /*key*/, T& field, const char* /*text*/ = "") {
    visit(field);
  }

  void visit(std::string& text) { change_(text); }
  template <class T>
    requires std::is_arithmetic_v<T>
  void visit(T& /*number*/) {}
  void visit(std::monostate& /*none*/) {}
  void visit(JsonText& /*text*/) {}
  void visit(OptionValue& value) {
    std::visit([&](auto& held) { visit(held); }, value);
  }
  template <class T>
  void visit(std::optional<T>& field) {
    if (field) visit(*field);
  }
  template <class T>
  void visit(std::vector<T>& list) {
    for (T& entry : list) visit(entry);
  }
  template <class T>
  void visit(std::map<std::string, T>& map) {
    std::map<std::string, T> changed;
    for (auto& [name, entry] : map) {
      std::string key = name;
      if (keys_) change_(key);
      visit(entry);
      changed[key] = std::move(entry);
    }
    map = std::move(changed);
  }
  template <class T>
    requires std::is_class_v<T>
  void visit(T& record) {
    T::describe(*this, record);
  }

 private:
  Change change_;
  bool keys_;
};

}  // namespace metal_marlin
