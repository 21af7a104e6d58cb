// The drawing of a report's page: inline SVG that follows the page's colours.
#pragma once

#include <metal_marlin/report_records.h>

#include <string>
#include <vector>

namespace metal_marlin {

// Text for HTML, also within double quotes: the four characters that mean something there are replaced.
std::string escape_html(const std::string& text);

// Relative output error by layer, a line for each kind of linear; with its title. Empty: nothing was measured.
// `linears`: those of a report that parse_report() let pass. `evaluated`: evaluated_text() of that report.
std::string error_plot(const std::vector<LinearRecord>& linears, const std::string& evaluated);

}  // namespace metal_marlin
