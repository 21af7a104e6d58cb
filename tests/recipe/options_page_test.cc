// docs/options.md is made from the tables. METAL_MARLIN_WRITE_DOCS=1 writes it anew.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "options/tables.h"
#include "recipe/presets.h"

namespace metal_marlin {
namespace {

std::string cell(std::string text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string values_of(const Option& option) {
  const bool choice =
      option.kind == OptionKind::kChoice || option.kind == OptionKind::kSwitch || option.kind == OptionKind::kChoices;
  if (choice)
    return fmt::format("{}{}", fmt::join(option.choices, ", "),
                       option.kind == OptionKind::kChoices ? " (several, with commas)" : "");
  if (option.kind == OptionKind::kBytes) return "a size such as 4GiB or 700MB";
  if (option.kind == OptionKind::kUnsigned) return "a whole number from 0";
  if (option.kind == OptionKind::kTexts) return (option.value.empty() ? "TEXT" : option.value) + ", repeatedly";
  if (option.kind == OptionKind::kText) return option.value;
  if (option.kind == OptionKind::kFlag || option.kind == OptionKind::kToggle) return "";
  return expected_of_option(option);
}

// The methods on which the option acts where nothing else is said.
template <class Options>
std::string methods_of(const OptionRow<Options>& row) {
  if constexpr (std::is_same_v<Options, QuantizeOptions>) {
    if (!row.without_effect) return "";
    std::vector<std::string> methods;
    size_t all = 0;
    for (const auto& [method, name] : EnumNames<Method>::kAll) {
      QuantizeOptions o;
      o.method = method;
      o.calibration.calibration = {"FILE"};
      o.evaluation.text = "FILE";
      ++all;
      if (row.without_effect(o, options_in_force(o)).empty()) methods.emplace_back(name);
    }
    return methods.size() == all || methods.empty() ? "" : fmt::format(" Acts on {}.", fmt::join(methods, ", "));
  }
  return "";
}

template <class Options>
std::string rows_of(const OptionTable<Options>& table, const std::vector<std::string>& left_out = {}) {
  const Options defaults;
  std::string text;
  for (const auto& row : table.rows()) {
    if (std::find(left_out.begin(), left_out.end(), row.key) != left_out.end()) continue;
    std::string names = row.names;
    std::string shown;
    for (size_t at = 0; at <= names.size() && !names.empty();) {
      const size_t end = std::min(names.find_first_of(",;", at), names.size());
      shown += fmt::format("{}`{}`", shown.empty() ? "" : ", ", names.substr(at, end - at));
      at = end + 1;
    }
    if (row.kind == OptionKind::kToggle) shown += fmt::format(", `--no-{}`", row.name);
    text += fmt::format("| {} | `{}` | {} | {} | {}.{}{} |\n", shown, row.key, cell(values_of(row)),
                        cell(default_of_option(row, row.get(defaults))), cell(row.help), methods_of(row),
                        row.shapes == Shapes::kNothing ? " The result does not depend on it." : "");
  }
  return text;
}

std::string left_out_of_sensitivity() {
  std::string text = "`bits`";
  for (const auto& row : quantize_options().rows()) {
    if (is_idle_in_sensitivity(row.key)) text += ", `" + row.key + "`";
  }
  return text;
}

std::string page() {
  const std::string head = "| command line | Python | value | default | what |\n|---|---|---|---|---|\n";
  std::string text =
      "# Options\n\nMade from the tables in `src/options/`, from which the command line, its help, the completion, the "
      "manual page and the\nfunctions of the Python package are made as well. The members of the C++ structs have the "
      "names of the Python parameters.\n`metal-marlin COMMAND --help-all` shows the same.\n";
  text +=
      "\n## quantize\n\n`quantize_model`, `plan_quantization`; `sensitivity_of_model`, which measures at 4 bits and "
      "writes "
      "no result,\nwithout " +
      left_out_of_sensitivity() + "; [quantize.md](quantize.md).\n\n" + head + rows_of(quantize_options());
  text += "\n## calibrate\n\n`calibrate_model`; [calibrate.md](calibrate.md).\n\n" + head +
          rows_of(calibration_options()) + rows_of(calibrate_options()) + rows_of(machine_options());
  text += "\n## evaluate\n\n`evaluate`; [evaluate.md](evaluate.md).\n\n" + head + rows_of(evaluation_options()) +
          rows_of(evaluate_options()) + rows_of(machine_options()) + rows_of(compute_options(), {"kv"});
  text += "\n## convert\n\n`convert`; [convert.md](convert.md).\n\n" + head + rows_of(convert_options());
  text +=
      "\n## generate, chat\n\n`Model.generate`, `Model.chat`, and the last ones `load`; "
      "[generate.md](generate.md).\n\n" +
      head + rows_of(generate_options()) + rows_of(machine_options(), {"memory_bytes", "precision"}) +
      rows_of(compute_options());
  text += "\n## bench\n\n[generate.md](generate.md).\n\n" + head + rows_of(bench_options()) +
          rows_of(machine_options(), {"memory_bytes", "precision"}) + rows_of(compute_options());
  return text;
}

TEST(OptionsPage, SaysWhatTheTablesSay) {
  const std::string path = SOURCE_FOLDER "/docs/options.md";
  if (std::getenv("METAL_MARLIN_WRITE_DOCS") != nullptr) {
    std::ofstream(path) << page();
    return;
  }
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_TRUE(text.str() == page()) << "run recipe_tests with METAL_MARLIN_WRITE_DOCS=1";
}

}  // namespace
}  // namespace metal_marlin
