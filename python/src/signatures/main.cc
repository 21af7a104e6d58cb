// Fills in the options of a Python module: models.py.in on stdin, models.py on stdout.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "options/spelling.h"
#include "options/tables.h"

namespace metal_marlin {
namespace {

constexpr size_t kWidth = 116;

struct Parameter {
  const Option* option;
  OptionValue value;  // the default
};

template <class Options>
void append(std::vector<Parameter>& parameters, const OptionTable<Options>& table) {
  const Options defaults;
  for (const auto& row : table.rows()) parameters.push_back({&row, row.get(defaults)});
}

// "quantize", or several tables: "calibration machine".
std::vector<Parameter> parameters_of(const std::string& name) {
  std::vector<Parameter> parameters;
  if (name == "quantize") {
    append(parameters, quantize_options());
  } else if (name == "sensitivity") {
    append(parameters, quantize_options());
    std::erase_if(parameters,
                  [](const Parameter& p) { return p.option->key == "bits" || is_idle_in_sensitivity(p.option->key); });
  } else if (name == "calibrate") {
    append(parameters, calibration_options());
    append(parameters, calibrate_options());
    append(parameters, machine_options());
  } else if (name == "evaluate") {
    append(parameters, evaluation_options());
    append(parameters, machine_options());
    append(parameters, compute_options());
    std::erase_if(parameters, [](const Parameter& p) { return p.option->required || p.option->key == "kv"; });
  } else if (name == "convert") {
    append(parameters, convert_options());
    std::erase_if(parameters, [](const Parameter& p) { return p.option->key == "to"; });
  } else if (name == "generate") {
    append(parameters, generate_options());
  } else if (name == "load") {
    append(parameters, machine_options());
    append(parameters, compute_options());
    std::erase_if(parameters, [](const Parameter& p) { return p.option->key == "memory_bytes"; });
  } else {
    throw std::runtime_error("no options of " + name);
  }
  return parameters;
}

std::string literal(const std::vector<std::string>& choices, bool numbers) {
  std::string text;
  for (const std::string& choice : choices) {
    const bool number = numbers && choice.find_first_not_of("-0123456789") == std::string::npos;
    text += (text.empty() ? "" : ", ") + (number ? choice : '"' + choice + '"');
  }
  return "Literal[" + text + "]";
}

// None stands for the "auto" of an option that is empty then.
std::vector<std::string> named_choices(const Option& option) {
  std::vector<std::string> choices = option.choices;
  if (option.automatic) std::erase(choices, "auto");
  return choices;
}

// None stands for the default of an option that follows from method, model or machine.
bool none_by_default(const Parameter& p) {
  const Option& o = *p.option;
  if (o.automatic) return true;
  if (o.kind == OptionKind::kChoice) return false;
  return !o.default_text.empty() || o.of_method || o.kind == OptionKind::kBytes || o.kind == OptionKind::kTexts ||
         o.kind == OptionKind::kText;
}

std::string type_of(const Parameter& p) {
  const Option& o = *p.option;
  std::string type = o.python;
  if (type.empty()) {
    switch (o.kind) {
      case OptionKind::kFlag:
      case OptionKind::kToggle:
        type = "bool";
        break;
      case OptionKind::kSwitch:
        type = "bool";
        break;
      case OptionKind::kInteger:
      case OptionKind::kUnsigned:
      case OptionKind::kBytes:
        type = "int";
        break;
      case OptionKind::kReal:
        type = "float";
        break;
      case OptionKind::kText:
        type = "str";
        break;
      case OptionKind::kChoice:
        type = literal(named_choices(o), true);
        break;
      case OptionKind::kChoices:
        type = "Format | Sequence[Format]";
        break;
      case OptionKind::kTexts:
        type = "str | Sequence[str]";
        break;
      case OptionKind::kReals:
        type = "Sequence[float]";
        break;
      case OptionKind::kIntegers:
        type = "Sequence[int]";
        break;
    }
  }
  return none_by_default(p) && type.find("None") == std::string::npos ? type + " | None" : type;
}

std::string default_of(const Parameter& p) {
  if (none_by_default(p)) return "None";
  const Option& o = *p.option;
  if (const auto* on = std::get_if<bool>(&p.value)) return *on ? "True" : "False";
  if (const auto* number = std::get_if<int64_t>(&p.value)) return std::to_string(*number);
  if (const auto* real = std::get_if<double>(&p.value)) {
    const std::string text = fmt::format("{}", *real);
    return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
  }
  if (const auto* text = std::get_if<std::string>(&p.value)) return '"' + *text + '"';
  if (const auto* texts = std::get_if<std::vector<std::string>>(&p.value); texts != nullptr && texts->size() == 1)
    return '"' + texts->front() + '"';
  throw std::runtime_error(o.key + ": no default");
}

std::string parameters_text(const std::string& name, const std::string& indent) {
  std::string text;
  for (const Parameter& p : parameters_of(name))
    text += fmt::format("{}{}: {} = {},\n", indent, p.option->key, type_of(p), default_of(p));
  return text;
}

std::string arguments_text(const std::string& name, const std::string& indent) {
  std::string text;
  for (const Parameter& p : parameters_of(name))
    text += fmt::format("{}\"{}\": {},\n", indent, p.option->key, p.option->key);
  return text;
}

// "samples: Number of ... (128)", wrapped.
std::string help_text(const std::string& name, const std::string& indent) {
  std::string text;
  for (const Parameter& p : parameters_of(name)) {
    const Option& o = *p.option;
    std::string sentence = o.key + ": " + python_spelling(o.help);
    if (const size_t at = sentence.find("auto: "); o.automatic && at != std::string::npos)
      sentence.replace(at, 4, "None");
    std::string otherwise = python_spelling(o.default_text);
    if (otherwise.empty() && o.of_method) {
      if (const auto* number = std::get_if<int64_t>(&p.value)) otherwise = std::to_string(*number);
      if (const auto* real = std::get_if<double>(&p.value)) otherwise = fmt::format("{}", *real);
      if (const auto* on = std::get_if<bool>(&p.value)) otherwise = *on ? "True" : "False";
    }
    if (!otherwise.empty()) sentence += "; None: " + otherwise;
    sentence += ".";
    std::string line = indent;
    size_t start = 0;
    while (start < sentence.size()) {
      const size_t end = std::min(sentence.find(' ', start), sentence.size());
      const std::string word = sentence.substr(start, end - start);
      if (line.size() + 1 + word.size() > kWidth) {
        text += line + "\n";
        line = indent + "   ";
      }
      line += (line.find_first_not_of(' ') == std::string::npos && line.size() == indent.size() ? "" : " ") + word;
      start = end + 1;
    }
    text += line + "\n";
  }
  return text;
}

// A line "@parameters quantize@" becomes the parameters, and so on; others stay.
void fill_in(std::istream& in) {
  std::string line;
  while (std::getline(in, line)) {
    const size_t start = line.find_first_not_of(' ');
    if (start == std::string::npos || line[start] != '@' || !line.ends_with('@')) {
      std::cout << line << "\n";
      continue;
    }
    const std::string indent = line.substr(0, start);
    const std::string words = line.substr(start + 1, line.size() - start - 2);
    const size_t space = words.find(' ');
    const std::string what = words.substr(0, space);
    const std::string name = space == std::string::npos ? "" : words.substr(space + 1);
    if (what == "parameters") {
      std::cout << parameters_text(name, indent);
    } else if (what == "arguments") {
      std::cout << arguments_text(name, indent);
    } else if (what == "formats") {
      std::cout << "Format = " << literal(quantize_options().find("formats")->choices, false) << "\n";
    } else if (what == "pass") {
      for (const Parameter& p : parameters_of(name))
        std::cout << indent << p.option->key << "=" << p.option->key << ",\n";
    } else if (what == "options") {
      std::cout << help_text(name, indent);
    } else {
      throw std::runtime_error("unknown line: " + line);
    }
  }
}

}  // namespace
}  // namespace metal_marlin

int main() {
  try {
    metal_marlin::fill_in(std::cin);
    return std::cout.flush().good() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
