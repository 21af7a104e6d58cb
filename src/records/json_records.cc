#include "records/json_records.h"

#include <metal_marlin/plan_records.h>
#include <metal_marlin/report_records.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <type_traits>

#include "formats/text.h"
#include "records/journal_records.h"
#include "records/json_writer.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

// "a number", as messages say what they expect.
template <class T>
const char* kind_name() {
  if constexpr (std::is_same_v<T, OptionValue>) {
    return "the value of an option";
  } else if constexpr (std::is_same_v<T, bool>) {
    return "true or false";
  } else if constexpr (std::is_integral_v<T>) {
    return "an integer";
  } else if constexpr (std::is_arithmetic_v<T>) {
    return "a number";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "a text";
  } else if constexpr (IsVector<T>::value) {
    return "a list";
  } else if constexpr (std::is_same_v<T, std::optional<bool>>) {
    return "true, false or null";
  } else if constexpr (std::is_same_v<T, std::optional<double>>) {
    return "a number or null";
  } else if constexpr (IsOptional<T>::value) {
    return kind_name<typename T::value_type>();
  } else {
    return "an object";
  }
}

template <class T>
bool fits(const json& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value.is_boolean();
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    return value.is_number_unsigned();
  } else if constexpr (std::is_integral_v<T>) {
    if (!value.is_number_unsigned()) return value.is_number_integer();
    return value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<T>::max());
  } else if constexpr (std::is_arithmetic_v<T>) {
    return value.is_number();
  } else if constexpr (std::is_same_v<T, std::string>) {
    return value.is_string();
  } else if constexpr (IsVector<T>::value) {
    return value.is_array();
  } else {
    return value.is_object();
  }
}

class Reader {
 public:
  // `place`: of the object, with a slash at its end; empty: the whole.
  Reader(const json& object, const std::string& place, const RecordFault& fault)
      : object_(object), place_(place), fault_(fault) {}

  template <class T>
  void operator()(const char* key, T& field, const char* /*text*/ = "") const {
    const auto it = object_.find(key);
    if (it == object_.end()) fault_(place_ + key, kind_name<T>(), "nothing");
    read(*it, field, place_ + key);
  }
  template <class T>
  void since(const char* key, T& field, const char* /*text*/ = "") const {
    const auto it = object_.find(key);
    if (it != object_.end()) read(*it, field, place_ + key);
  }
  template <class T>
  void maybe(const char* key, std::optional<T>& field, const char* /*text*/ = "") const {
    const auto it = object_.find(key);
    if (it != object_.end()) read(*it, field, place_ + key);
  }

  template <class T>
  void read(const json& value, T& field, const std::string& place) const {
    if constexpr (std::is_same_v<T, OptionValue>) {
      read_option(value, field, place);
    } else if constexpr (IsOptional<T>::value) {
      if (value.is_null()) return;
      if (!fits<typename T::value_type>(value)) fail<T>(value, place);
      read(value, field.emplace(), place);
    } else {
      if (!fits<T>(value)) fail<T>(value, place);
      if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
        field = value.get<T>();
      } else if constexpr (IsVector<T>::value) {
        for (size_t i = 0; i < value.size(); ++i) read(value[i], field.emplace_back(), place + "/" + std::to_string(i));
      } else if constexpr (IsMap<T>::value) {
        for (const auto& [key, entry] : value.items()) read(entry, field[key], place + "/" + key);
      } else {
        const std::string inside = place.empty() ? "" : place + "/";
        const Reader reader(value, inside, fault_);
        T::describe(reader, field);
      }
    }
  }

 private:
  template <class T>
  void fail(const json& value, const std::string& place) const {
    fault_(place, kind_name<T>(), escaped(value.dump(-1, ' ', false, json::error_handler_t::replace)));
    throw std::logic_error("a RecordFault returned");
  }

  void read_option(const json& value, OptionValue& field, const std::string& place) const {
    const auto all = [&](auto test) { return value.is_array() && std::all_of(value.begin(), value.end(), test); };
    if (value.is_null()) {
      field = std::monostate();
    } else if (value.is_boolean()) {
      field = value.get<bool>();
    } else if (fits<int64_t>(value)) {
      field = value.get<int64_t>();
    } else if (value.is_number_unsigned()) {
      field = value.get<uint64_t>();
    } else if (value.is_number()) {
      field = value.get<double>();
    } else if (value.is_string()) {
      field = value.get<std::string>();
    } else if (all([](const json& entry) { return entry.is_string(); })) {  // an empty list too
      field = value.get<std::vector<std::string>>();
    } else if (all([](const json& entry) { return entry.is_number(); })) {
      field = value.get<std::vector<double>>();
    } else {
      fail<OptionValue>(value, place);
    }
  }

  const json& object_;
  const std::string& place_;
  const RecordFault& fault_;
};

}  // namespace

template <class Record>
json json_of(const Record& record) {
  return value_of<json>(record);
}

template <class Record>
Record record_of(const json& value, const RecordFault& fault) {
  Record record;
  const std::string place;
  Reader(value, place, fault).read(value, record, place);
  return record;
}

template <class Record>
std::optional<Record> record_if_whole(const json& value) {
  struct Damaged {};
  try {
    return record_of<Record>(value,
                             [](const std::string&, const std::string&, const std::string&) { throw Damaged(); });
  } catch (const Damaged&) {
    return std::nullopt;
  }
}

template json json_of(const Report&);
template json json_of(const BlockRecord&);
template json json_of(const RunNote&);
template json json_of(const StoredTextsRecord&);
template json json_of(const StoredLinearsRecord&);
template json json_of(const IdentityRecord&);
template json json_of(const TextRecord&);
template json json_of(const SensitivityRecord&);
template json json_of(const SensitivityReport&);
template json json_of(const ModelRecord&);
template json json_of(const OptionValue&);
template json json_of(const Plan&);
template json json_of(const OptionValues&);
template Plan record_of(const json&, const RecordFault&);
template Report record_of(const json&, const RecordFault&);
template BlockRecord record_of(const json&, const RecordFault&);
template RunNote record_of(const json&, const RecordFault&);
template StoredTextsRecord record_of(const json&, const RecordFault&);
template StoredLinearsRecord record_of(const json&, const RecordFault&);
template IdentityRecord record_of(const json&, const RecordFault&);
template TextRecord record_of(const json&, const RecordFault&);
template SensitivityRecord record_of(const json&, const RecordFault&);
template SensitivityReport record_of(const json&, const RecordFault&);

template std::optional<SensitivityRecord> record_if_whole(const json&);
template std::optional<FileRecord> record_if_whole(const json&);
template std::optional<IdentityRecord> record_if_whole(const json&);

}  // namespace metal_marlin
