// Renders OUT/report.json again.
#pragma once

#include <string>

namespace metal_marlin {

// `run`: an output folder of quantize_model, or a report.json. Throws FormatError when it is no report of a known schema.
std::string read_report(const std::string& run);
std::string render_report_text(const std::string& report_json);
std::string render_report_html(const std::string& report_json);  // one self-contained page
std::string render_plan(const std::string& plan_json);           // of plan_quantization

}  // namespace metal_marlin
