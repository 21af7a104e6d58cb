// The terminal of a command.
#pragma once

namespace metal_marlin {

// Whether a person types what comes in, or reads the error output.
bool input_is_terminal() noexcept;
bool errors_go_to_terminal() noexcept;
// Characters in a line of the terminal that shows the error output; 80 where it has no width.
int terminal_columns() noexcept;

}  // namespace metal_marlin
