// Renders OUT/report.json again.
#pragma once

#include <string>

namespace metal_marlin {

// `run`: an output folder of quantize_model, or a report.json. FormatError naming file, key, expected and found when it
// is no whole report, UnsupportedError for another schema; the functions below check what they are given likewise.
std::string read_report(const std::string& run);
std::string render_report_text(const std::string& report_json);
std::string render_report_html(const std::string& report_json);  // one self-contained page
// The page into a file, whole or not at all. SystemError: the machine, or `path` is no regular file.
void write_report_html(const std::string& report_json, const std::string& path);
std::string render_plan(const std::string& plan_json);           // of plan_quantization

}  // namespace metal_marlin
