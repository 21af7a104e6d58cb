// report.json as what it is: text from a file, perhaps damaged, of another version or of another program.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace metal_marlin {

// Parses a report and checks that every key which the renderers read is there with its type. `name` opens the messages.
// FormatError: no JSON (with the place), no report, or a key that is missing or of another type; UnsupportedError:
// another schema. Its strings are printable (printable.h).
nlohmann::json parse_report(const std::string& text, const std::string& name);

}  // namespace metal_marlin
