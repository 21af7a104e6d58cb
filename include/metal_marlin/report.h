// Renders OUT/report.json again.
#pragma once

#include <metal_marlin/export.h>

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

// `run`: an output folder of quantize_model, or a report.json. FormatError naming file, key, expected and found when it
// is no whole report, UnsupportedError for another schema; the functions below check what they are given likewise.
METAL_MARLIN_API std::string read_report(const std::string& run);
// The result in some eight lines: verdict, figures, sizes, cost.
METAL_MARLIN_API std::string render_report_summary(const std::string& report_json);
METAL_MARLIN_API std::string render_report_text(const std::string& report_json);
METAL_MARLIN_API std::string render_report_html(const std::string& report_json);  // one self-contained page
// The page into a file, whole or not at all. SystemError: the machine, or `path` is no regular file. ArgumentError:
// `path` is a file of a checkpoint that this program wrote (its report.html aside).
METAL_MARLIN_API void write_report_html(const std::string& report_json, const std::string& path);
METAL_MARLIN_API std::string render_plan(const std::string& plan_json);  // of plan_quantization

struct QuantizationLayerReport {
  std::string name;
  std::vector<int64_t> shape;  // [out_features, in_features]
  int64_t group_size = 0;
  int bits = 0;
  std::string method;        // as it was rounded
  double weight_error = 0;   // |W' - W| / |W|
  double output_error = -1;  // of the outputs, relative, on the calibration text; negative: not measured
};
// What a report says in figures, without parsing JSON.
struct QuantizationReport {
  std::string model_path;  // of the source
  std::vector<std::string> formats;
  int bits = 0;
  int64_t group_size = 0;  // of the first linear
  bool actorder = false;
  int64_t quantized_layers = 0;
  int64_t skipped_layers = 0;
  int64_t total_params = 0;
  int64_t quantized_params = 0;
  double compression_ratio = 1;  // bytes of the weights as the source stores them / bytes of the quantized model
  double bits_per_weight = 0;
  double mean_output_error = -1;  // of the linears where it was measured; negative: of none
  double kl_divergence = -1;      // nats; negative: not evaluated
  std::vector<QuantizationLayerReport> layers;
};
// report_json as read_report returns it; the same errors.
METAL_MARLIN_API QuantizationReport quantization_report(const std::string& report_json);

}  // namespace metal_marlin
