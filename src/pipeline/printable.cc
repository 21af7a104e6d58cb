#include "pipeline/printable.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "formats/text.h"
#include "report/strings.h"

namespace metal_marlin {
namespace {

constexpr size_t kLongest = 4096;

template <typename Json>
void clean(Json& value) {
  if (value.is_string()) {
    value = escaped(value.template get_ref<const std::string&>(), kLongest);
  } else if (value.is_array()) {
    for (Json& entry : value) clean(entry);
  } else if (value.is_object()) {
    Json cleaned = Json::object();
    for (auto& [key, entry] : value.items()) {
      clean(entry);
      cleaned[escaped(key, kLongest)] = std::move(entry);
    }
    value = std::move(cleaned);
  }
}

template <class Record>
void clean_record(Record& record) {
  StringVisitor([](std::string& text) { text = escaped(text, kLongest); }, true).visit(record);
}

}  // namespace

void make_printable(nlohmann::json& value) {
  clean(value);
}

void make_printable(Report& report) {
  clean_record(report);
}

void make_printable(Plan& plan) {
  clean_record(plan);
}

void make_printable(nlohmann::ordered_json& value) {
  clean(value);
}

}  // namespace metal_marlin
