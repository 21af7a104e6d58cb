// metal-marlin man: the manual page, made from the command tree.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <memory>

#include "arguments/values.h"
#include "console/console.h"
#include "help.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

// Text for roff: backslashes and hyphens (else they turn into typographic ones) escaped, no line begins with a request.
std::string roff(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else {
      result += c;
    }
  }
  if (!result.empty() && (result[0] == '.' || result[0] == '\'')) result.insert(0, "\\&");
  return result;
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

std::string option_entry(const OptionInfo& option) {
  std::vector<std::string> names;
  for (const auto& name : option.names) names.push_back("\\fB" + roff(name) + "\\fR");
  std::string text = ".TP\n" + join(names, ", ");
  if (!option.value.empty() && !option.positional) text += " \\fI" + roff(option.value) + "\\fR";
  text += "\n" + roff(option.help) + ".";
  if (option.required && !option.positional) text += " Required.";
  if (option.repeatable) text += " May be repeated.";
  if (!option.default_text.empty()) text += " Default: " + roff(option.default_text) + ".";
  return text + "\n";
}

}  // namespace

std::string man_page(const Application& application) {
  std::string text = fmt::format(".TH {} 1 \"\" \"{} {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n",
                                 roff(upper(application.name())), roff(application.name()), application.version(),
                                 roff(application.name()), roff(application.summary()));
  bool first = true;
  for (const auto& command : application.commands()) {
    text += fmt::format("{}\\fB{} {}\\fR {}\n", first ? "" : ".br\n", roff(application.name()), roff(command->name()),
                        roff(usage_line(*command)));
    first = false;
  }
  text +=
      ".SH DESCRIPTION\n"
      "A model goes in; a 4\\-bit checkpoint that other engines load comes out, with a report of how close it is to "
      "the original.\n"
      ".PP\n"
      "\\fIMODEL\\fR is a folder in Hugging Face layout, a .safetensors or .gguf file, or \\fIorg/name\\fR in the "
      "Hugging Face cache.\n";
  for (const auto& command : application.commands()) {
    text += fmt::format(".SH {}\n{}.\n.PP\n\\fB{} {}\\fR {}\n", roff(upper(command->name())), roff(command->summary()),
                        roff(application.name()), roff(command->name()), roff(usage_line(*command)));
    std::string group;
    for (const auto& option : command->options()) {
      if (option.group != group) text += ".SS " + roff(option.group) + "\n";
      group = option.group;
      text += option_entry(option);
    }
    if (!command->examples().empty()) text += ".SS Examples\n";
    for (const auto& example : command->examples())
      text += fmt::format("{}:\n.PP\n.RS\n.nf\n{}\n.fi\n.RE\n.PP\n", roff(example.what), roff(example.command));
  }
  text += ".SH EXIT STATUS\n";
  for (const auto& [code, meaning] : exit_codes()) text += fmt::format(".TP\n\\fB{}\\fR\n{}.\n", code, roff(meaning));
  return text;
}

void add_man(Application& application) {
  auto& command = application.add_command("man", "Print the manual page");
  auto options = std::make_shared<OutputOptions>();
  add_output_options(command, *options);
  command.example("Read it", "metal-marlin man | man -l -");
  command.example("Every command and option for a script", "metal-marlin man --json");
  command.action([options, &application] {
    Console console(*options);
    console.result(console.json() ? commands_json(application) : man_page(application));
    return 0;
  });
}

}  // namespace metal_marlin::cli
