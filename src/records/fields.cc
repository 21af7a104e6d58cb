#include "records/fields.h"

#include <fmt/format.h>
#include <metal_marlin/check.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/diff.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/plan_records.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report_records.h>

#include <set>
#include <type_traits>
#include <vector>

namespace metal_marlin {
namespace {

template <class T>
struct Inner {
  using type = void;
  static constexpr const char* kKind = "";
};
template <class T>
struct Inner<std::optional<T>> {
  using type = T;
  static constexpr const char* kKind = "optional";
};
template <class T>
struct Inner<std::vector<T>> {
  using type = T;
  static constexpr const char* kKind = "list";
};
template <class T>
struct Inner<std::map<std::string, T>> {
  using type = T;
  static constexpr const char* kKind = "map";
};
template <class T>
concept Container = !std::is_void_v<typename Inner<T>::type>;
template <class T>
concept Scalar = std::is_arithmetic_v<T> || std::is_same_v<T, std::string> || std::is_same_v<T, OptionValue> ||
                 std::is_same_v<T, JsonText>;

template <class T>
std::string json_type() {
  if constexpr (Container<T>) {
    const std::string kind = Inner<T>::kKind;
    const std::string inner = json_type<typename Inner<T>::type>();
    return kind == "optional" ? inner + " or null" : kind == "list" ? "list of " + inner : "object of " + inner;
  } else if constexpr (std::is_same_v<T, bool>) {
    return "true or false";
  } else if constexpr (std::is_integral_v<T>) {
    return "integer";
  } else if constexpr (std::is_arithmetic_v<T>) {
    return "number";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "text";
  } else if constexpr (std::is_same_v<T, OptionValue>) {
    return "value";
  } else if constexpr (std::is_same_v<T, JsonText>) {
    return "JSON";
  } else {
    return "object";
  }
}

// Lists the fields of a record and of the records in it.
class Table {
 public:
  explicit Table(std::string prefix) : prefix_(std::move(prefix)) {}

  template <class T>
  void operator()(const char* key, const T& /*field*/, const char* text = "") {
    add<T>(prefix_ + key, json_type<T>(), text);
  }
  template <class T>
  void since(const char* key, const T& field, const char* text = "") {
    (*this)(key, field, text);
  }
  template <class T>
  void maybe(const char* key, const std::optional<T>& /*field*/, const char* text = "") {
    add<T>(prefix_ + key, json_type<T>() + ", or absent", text);
  }
  std::string rows;

 private:
  template <class T>
  void add(const std::string& path, const std::string& type, const std::string& text) {
    rows += fmt::format("| `{}` | {} | {} |\n", path, type, text);
    add_inside<T>(path);
  }
  template <class T>
  void add_inside(const std::string& path) {
    if constexpr (Container<T>) {
      const std::string kind = Inner<T>::kKind;
      add_inside<typename Inner<T>::type>(path + (kind == "list" ? "[]" : kind == "map" ? ".*" : ""));
    } else if constexpr (!Scalar<T>) {
      Table inside(path + ".");
      const T record{};
      T::describe(inside, record);
      rows += inside.rows;
    }
  }

  std::string prefix_;
};

// The name of a record's class.
template <class T>
std::string class_name() {
  // "... [with T = metal_marlin::LinearRecord; ...]" or "... [T = metal_marlin::LinearRecord]"
  const std::string text = __PRETTY_FUNCTION__;
  const std::string marker = "T = metal_marlin::";
  const size_t start = text.find(marker) + marker.size();
  return text.substr(start, text.find_first_of(";]", start) - start);
}

template <class T>
std::string python_type() {
  if constexpr (Container<T>) {
    const std::string kind = Inner<T>::kKind;
    const std::string inner = python_type<typename Inner<T>::type>();
    if (kind == "optional") return inner + " | None";
    return kind == "list" ? fmt::format("list[{}]", inner) : fmt::format("dict[str, {}]", inner);
  } else if constexpr (std::is_same_v<T, bool>) {
    return "bool";
  } else if constexpr (std::is_integral_v<T>) {
    return "int";
  } else if constexpr (std::is_arithmetic_v<T>) {
    return "float";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "str";
  } else if constexpr (std::is_same_v<T, OptionValue>) {
    return "OptionValue";
  } else if constexpr (std::is_same_v<T, JsonText>) {
    return "Json";
  } else {
    return class_name<T>();
  }
}

// Writes the class of a record behind those of the records in it.
class Classes {
 public:
  template <class Record>
  void add() {
    if (!known_.insert(class_name<Record>()).second) return;
    Fields fields(*this);
    const Record record{};
    Record::describe(fields, record);
    text += fmt::format("\n\n@dataclass(frozen=True, eq=False, repr=False)\nclass {}({}):\n{}", class_name<Record>(),
                        std::is_same_v<Record, Report> ? "ReportBase" : "Record", fields.required + fields.absent);
    if (!fields.absent_names.empty())
      text += fmt::format("    _absent: ClassVar[frozenset[str]] = frozenset(({}))\n", fields.absent_names);
  }
  std::string text;

 private:
  struct Fields {
    explicit Fields(Classes& classes) : classes_(classes) {}
    template <class T>
    void operator()(const char* key, const T& /*field*/, const char* text = "") {
      classes_.add_inside<T>();
      required += line(key, python_type<T>(), text);
    }
    template <class T>
    void since(const char* key, const T& field, const char* text = "") {
      (*this)(key, field, text);
    }
    template <class T>
    void maybe(const char* key, const std::optional<T>& /*field*/, const char* text = "") {
      classes_.add_inside<T>();
      absent += line(key, python_type<std::optional<T>>() + " = None", text);
      absent_names += fmt::format("\"{}\", ", key);
    }
    static std::string line(const std::string& key, const std::string& type, const std::string& text) {
      // A word of the language gets an underscore, as Python's own modules do it.
      const std::string name = key == "from" ? key + "_" : key;
      return fmt::format("    {}: {}{}\n", name, type, text.empty() ? "" : "  #: " + text);
    }
    Classes& classes_;
    std::string required;
    std::string absent;  // in Python behind the others, because they have a default
    std::string absent_names;
  };

  template <class T>
  void add_inside() {
    if constexpr (Container<T>) {
      add_inside<typename Inner<T>::type>();
    } else if constexpr (!Scalar<T>) {
      add<T>();
    }
  }

  std::set<std::string> known_;
};

}  // namespace

template <class Record>
std::string field_table() {
  Table table("");
  const Record record{};
  Record::describe(table, record);
  return "| key | type | content |\n|---|---|---|\n" + table.rows;
}

template std::string field_table<Report>();
template std::string field_table<Plan>();
template std::string field_table<Inspection>();
template std::string field_table<Comparison>();
template std::string field_table<ConvertResult>();
template std::string field_table<CheckResult>();
template std::string field_table<DiffResult>();

std::string python_records() {
  Classes classes;
  classes.add<Report>();
  classes.add<Plan>();
  classes.add<SensitivityReport>();
  classes.add<EvaluationRecord>();
  classes.add<Inspection>();
  classes.add<Comparison>();
  classes.add<ConvertResult>();
  classes.add<CheckResult>();
  classes.add<DiffResult>();
  classes.add<CalibrateResult>();
  return "\"\"\"The records of a run, its plan and its measurements (docs/report.md). Made from "
         "the records of the C++ library.\"\"\"\n\n"
         "from __future__ import annotations\n\n"
         "from dataclasses import dataclass\n"
         "from typing import ClassVar\n\n"
         "from ._record import Json, OptionValue, Record, ReportBase\n" +
         classes.text;
}

}  // namespace metal_marlin
