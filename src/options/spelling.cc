#include "options/spelling.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "options/tables.h"

namespace metal_marlin {
namespace {

const std::map<std::string, const Option*>& options_by_name() {
  static const std::map<std::string, const Option*> options = [] {
    std::map<std::string, const Option*> all;
    const auto add = [&](const auto& table) {
      for (const auto& row : table.rows())
        if (!row.name.empty()) all.emplace(row.name, &row);
    };
    add(quantize_options());
    add(calibrate_options());
    add(evaluation_options());
    add(evaluate_options());
    add(compute_options());
    add(generate_options());
    add(convert_options());
    return all;
  }();
  return options;
}

bool is_flag(const Option& option) {
  return option.kind == OptionKind::kFlag || option.kind == OptionKind::kToggle;
}

bool name_character(char c) {
  return std::islower(static_cast<unsigned char>(c)) != 0 || std::isdigit(static_cast<unsigned char>(c)) != 0 ||
         c == '-';
}

// The word that starts at `at`, without a comma or full stop behind it.
std::string word_at(const std::string& text, size_t at) {
  size_t end = at;
  while (end < text.size() && std::string_view(" ,;:()'\"\n").find(text[end]) == std::string_view::npos) ++end;
  while (end > at && text[end - 1] == '.') --end;
  return text.substr(at, end - at);
}

// The word as a value of the option in Python; empty where it is none but goes on with the sentence.
std::string value_of(const Option& option, const std::string& word) {
  if (word.empty()) return {};
  const bool placeholder = std::all_of(word.begin(), word.end(), [](char c) {
    return std::isupper(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_';
  });
  if (placeholder && word != "A" && word != "I") return word;
  const bool number = std::isdigit(static_cast<unsigned char>(word.back())) != 0 &&
                      word.find_first_not_of("0123456789.-+e") == std::string::npos;
  const bool choice = std::find(option.choices.begin(), option.choices.end(), word) != option.choices.end();
  if (number) return word;
  if (option.automatic && word == "auto") return "None";
  if (option.kind == OptionKind::kSwitch && (word == "on" || word == "off")) return word == "on" ? "True" : "False";
  if (choice || (option.key == "evaluate" && word == "none") || (option.key == "calibration" && word == "self"))
    return '"' + word + '"';
  return {};
}

}  // namespace

std::string python_parameter(const std::string& name) {
  const auto it = options_by_name().find(name);
  return it == options_by_name().end() ? key_of_option(name) : it->second->key;
}

std::string python_spelling(const std::string& text) {
  const auto& options = options_by_name();
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const bool starts =
        text.compare(at, 2, "--") == 0 && (at == 0 || !(name_character(text[at - 1]) || text[at - 1] == '-'));
    size_t end = at + 2;
    while (starts && end < text.size() && name_character(text[end])) ++end;
    std::string name = starts ? text.substr(at + 2, end - at - 2) : std::string();
    bool negated = false;
    auto it = options.find(name);
    if (it == options.end() && name.starts_with("no-")) {
      it = options.find(name.substr(3));
      negated = it != options.end() && it->second->kind == OptionKind::kToggle;
      if (!negated) it = options.end();
    }
    if (!starts || it == options.end()) {
      out += text[at++];
      continue;
    }
    const Option& option = *it->second;
    out += option.key;
    at = end;
    if (is_flag(option)) {
      out += negated ? "=False" : "=True";
      continue;
    }
    if (end + 1 >= text.size() || text[end] != ' ') continue;
    const std::string word = word_at(text, end + 1);
    if (const std::string value = value_of(option, word); !value.empty()) {
      out += "=" + value;
      at = end + 1 + word.size();
    }
  }
  return out;
}

}  // namespace metal_marlin
