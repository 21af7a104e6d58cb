// The options of an operation, in the order of its help.
#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "options/option_field.h"

namespace metal_marlin {

// An option of the struct `Options`.
template <class Options>
struct OptionRow : Option {
  std::function<OptionValue(const Options&)> get;
  // False where the value has a type, or is a name, that the option does not take.
  std::function<bool(Options&, const OptionValue&)> set;
  // Why the option has no effect; empty: it has. `asked`: as the caller gave them, `in_force`: with all that follows
  // from the method filled in.
  std::function<std::string(const Options& asked, const Options& in_force)> without_effect;

  // What the member's type does not tell, as a chain.
  OptionRow& called(std::string text) { return value = std::move(text), *this; }
  OptionRow& in_range(double low, double high) { return least = low, most = high, *this; }
  OptionRow& above(double low, double high) { return above_least = true, in_range(low, high); }
  OptionRow& one_of(std::vector<std::string> texts) {
    choices = std::move(texts);
    completes = Completes::kChoices;
    return *this;
  }
  OptionRow& of_kind(OptionKind what) {
    kind = what;
    if (kind == OptionKind::kChoice) value.clear();  // its choices name it
    return *this;
  }
  OptionRow& by_default(std::string text) { return default_text = std::move(text), *this; }
  OptionRow& completed_by(Completes what) { return completes = what, *this; }
  OptionRow& is_required() { return required = true, *this; }
  OptionRow& keyed(std::string text) { return key = std::move(text), *this; }
  OptionRow& follows_method() { return of_method = true, *this; }
  OptionRow& only_judges() { return shapes = Shapes::kJudgment, *this; }
  OptionRow& shapes_nothing() { return shapes = Shapes::kNothing, *this; }
  OptionRow& in_python(std::string type) { return python = std::move(type), *this; }
  OptionRow& must(std::function<bool(int64_t)> predicate, std::string text) {
    accepts = std::move(predicate);
    expected = std::move(text);
    return *this;
  }
  OptionRow& idle(std::function<std::string(const Options& asked, const Options& in_force)> reason) {
    without_effect = std::move(reason);
    return *this;
  }
};

template <class Options>
class OptionTable {
 public:
  // Heading of the rows that follow, which are for all users.
  void group(std::string heading) {
    group_ = std::move(heading);
    advanced_ = false;
  }
  // The rows that follow, up to the next group(), are for few users.
  void advanced() { advanced_ = true; }

  // `at` gives the member of an Options&, as a generic lambda: [](auto& o) -> auto& { return o.samples; }. `names` as
  // in Option; without hyphens: no option of the command line.
  template <class At>
  OptionRow<Options>& add(std::string names, At at, std::string help) {
    using Field = std::remove_cvref_t<decltype(at(std::declval<Options&>()))>;
    OptionRow<Options>& row = rows_.emplace_back();
    describe_field<Field>(row);
    name(row, std::move(names));
    row.help = std::move(help);
    row.get = [at](const Options& o) { return option_value(at(o)); };
    row.set = [at](Options& o, const OptionValue& value) { return set_option(at(o), value); };
    if (!row.choices.empty()) row.completes = Completes::kChoices;
    return row;
  }

  // The rows of a struct that `at` gives as a member of this one; `keys`: only these, in the group and tier of the rows
  // before.
  template <class Part, class At>
  void include(const OptionTable<Part>& part, At at, const std::vector<std::string>& keys = {}) {
    for (const OptionRow<Part>& inner : part.rows()) {
      if (!keys.empty() && std::find(keys.begin(), keys.end(), inner.key) == keys.end()) continue;
      OptionRow<Options>& row = rows_.emplace_back();
      static_cast<Option&>(row) = inner;
      if (keys.empty()) {
        group_ = inner.group;
        advanced_ = inner.advanced;
      } else {
        row.group = group_;
        row.advanced = advanced_;
      }
      row.get = [at, get = inner.get](const Options& o) { return get(at(o)); };
      row.set = [at, set = inner.set](Options& o, const OptionValue& value) { return set(at(o), value); };
      if (inner.without_effect) {
        row.without_effect = [at, reason = inner.without_effect](const Options& asked, const Options& in_force) {
          return reason(at(asked), at(in_force));
        };
      }
    }
  }
  // The row of a key, which there is.
  OptionRow<Options>& at(const std::string& key) {
    return *std::find_if(rows_.begin(), rows_.end(), [&](const auto& row) { return row.key == key; });
  }

  const std::vector<OptionRow<Options>>& rows() const { return rows_; }
  const OptionRow<Options>* find(const std::string& key) const {
    const auto it = std::find_if(rows_.begin(), rows_.end(), [&](const auto& row) { return row.key == key; });
    return it == rows_.end() ? nullptr : &*it;
  }
  // ArgumentError naming the option that is out of its range.
  void check_ranges(const Options& options) const {
    for (const auto& row : rows_) check_option_range(row, row.get(options));
  }

 private:
  void name(Option& option, std::string names) {
    const std::string first = names.substr(0, names.find(';'));
    const std::string label = first.substr(first.rfind(',') + 1);
    option.name = label.starts_with("--") ? label.substr(2) : "";
    option.key = key_of_option(option.name.empty() ? names : option.name);
    if (!option.name.empty()) option.names = std::move(names);
    option.group = group_;
    option.advanced = advanced_;
  }

  std::string group_ = "Options";
  bool advanced_ = false;
  std::vector<OptionRow<Options>> rows_;
};

}  // namespace metal_marlin
