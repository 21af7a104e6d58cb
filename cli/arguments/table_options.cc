#include "arguments/table_options.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <memory>

#include "arguments/values.h"
#include "records/options.h"

namespace metal_marlin::cli {
namespace {

int64_t as_integer(double bound) {
  if (bound >= 9.2e18) return std::numeric_limits<int64_t>::max();
  return bound <= -9.2e18 ? std::numeric_limits<int64_t>::min() : static_cast<int64_t>(bound);
}

[[noreturn]] void refuse(const Option& option, const std::string& text) {
  throw UsageError{fmt::format("expected {}, found '{}'", expected_of_option(option), text)};
}

std::optional<int64_t> whole_number(const std::string& text) {
  int64_t number = 0;
  return set_option(number, text) ? std::optional(number) : std::nullopt;
}

OptionValue parse(const Option& option, const std::string& text) {
  switch (option.kind) {
    case OptionKind::kInteger:
      if (!option.automatic || !option.accepts)
        return parse_integer(text, as_integer(option.least), as_integer(option.most));
      if (text == "auto") return OptionValue();
      if (const auto number = whole_number(text); number && option.accepts(*number)) return *number;
      refuse(option, text);
    case OptionKind::kUnsigned:
      return number_option(parse_unsigned(text));
    case OptionKind::kReal: {
      const double number = parse_real(text, option.least, option.most);
      if (option.above_least && number <= option.least) refuse(option, text);
      return number;
    }
    case OptionKind::kBytes:
      return number_option(parse_budget(text));
    case OptionKind::kChoices:
      return parse_choices(text, option.choices);
    case OptionKind::kReals:
    case OptionKind::kIntegers: {
      std::vector<double> numbers;
      for (const auto& part : split(text, ',')) numbers.push_back(parse_real(part, option.least, option.most));
      return numbers;
    }
    case OptionKind::kChoice:
    case OptionKind::kSwitch:
      if (std::find(option.choices.begin(), option.choices.end(), text) == option.choices.end()) refuse(option, text);
      return text;
    default:
      return text;
  }
}

}  // namespace

void add_option(Command& command, const Option& option, const Rows& rows, const OptionValue& default_value,
                const std::function<bool(const OptionValue&)>& set) {
  OptionInfo info;
  info.help = option.help;
  info.group = rows.heading.empty() ? option.group : rows.heading;
  info.advanced = rows.heading.empty() ? option.advanced : rows.advanced;
  info.required = option.required;
  info.completes = option.completes;
  info.choices = option.choices;
  info.list = option.kind == OptionKind::kChoices;
  info.repeatable = option.kind == OptionKind::kTexts;
  info.value = option.value;
  if (info.value.empty() && (option.kind == OptionKind::kChoice || option.kind == OptionKind::kSwitch)) {
    info.value = join(option.choices, "|");
  } else if (info.list) {
    info.value = join(option.choices, "|") + "[,...]";
  }
  if (option.kind != OptionKind::kFlag) info.default_text = default_of_option(option, default_value);
  if (option.kind == OptionKind::kFlag) {
    command.flag(option.names, info, [set] { set(true); });
    return;
  }
  if (option.kind == OptionKind::kToggle) {
    info.default_text = (std::get<bool>(default_value) ? "--" : "--no-") + option.name;
    command.toggle(option.name, info, [set](bool on) { set(on); });
    return;
  }
  const auto texts = std::make_shared<std::vector<std::string>>();
  command.value(option.names, info, [&option, set, texts](const std::string& text) {
    OptionValue value;
    if (option.kind == OptionKind::kTexts) {
      texts->push_back(text);  // they add up, and take the place of the default
      value = *texts;
    } else {
      value = parse(option, text);
    }
    if (!set(value)) refuse(option, text);
  });
}

}  // namespace metal_marlin::cli
