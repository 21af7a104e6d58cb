// Texts rendered from the command tree.
#pragma once

#include <string>
#include <vector>

#include "command.h"

namespace metal_marlin::cli {

std::string application_help(const Application& application);
// `all`: the options for few users as well.
std::string command_help(const Application& application, const Command& command, bool all);

// "MODEL -o OUT [options]".
std::string usage_line(const Command& command);
// "-o, --output OUT".
std::string option_label(const OptionInfo& option);

// Lines of at most `width` columns, broken at spaces.
std::vector<std::string> wrap(const std::string& text, size_t width);

// The exit codes of every command, as (code, meaning).
const std::vector<std::pair<int, std::string>>& exit_codes();

std::string bash_completion(const Application& application);
std::string zsh_completion(const Application& application);
std::string fish_completion(const Application& application);
std::string man_page(const Application& application);
// The whole tree: {name, version, summary, commands: [{name, summary, usage, options: [...], examples: [...]}],
// exit_codes}.
std::string commands_json(const Application& application);

}  // namespace metal_marlin::cli
