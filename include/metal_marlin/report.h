// Reads the report of a run, OUT/report.json, and renders it.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/plan_records.h>
#include <metal_marlin/report_records.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// Reads a report. `run` is an output folder of quantize_model, or a report.json. Throws FormatError naming file, key,
// what was expected and what was found when it is no complete report, and UnsupportedError for another schema.
METAL_MARLIN_API Report read_report(const std::string& run);
// The same of the text of a report.json; `name` is what messages call it.
METAL_MARLIN_API Report report_from_json(const std::string& text, const std::string& name = "report.json");
// The functions below show control characters in names as escapes.
// The result in some eight lines: verdict, figures, sizes, cost.
METAL_MARLIN_API std::string render_report_summary(const Report& report);
METAL_MARLIN_API std::string render_report_text(const Report& report);
METAL_MARLIN_API std::string render_report_html(const Report& report);  // one self-contained page
// Writes the page into a file, completely or not at all. Throws SystemError for the machine, or when `path` is no
// regular file. ArgumentError: `path` is a file of a checkpoint that this program wrote (its report.html aside), or
// another file that is no page of this program.
METAL_MARLIN_API void write_report_html(const Report& report, const std::string& path);
METAL_MARLIN_API std::string render_plan(const Plan& plan);

struct QuantizationLayerReport {
  std::string name;
  std::vector<int64_t> shape;  // [out_features, in_features]
  int64_t group_size = 0;
  int bits = 0;
  std::string method;                  // as it was rounded
  double weight_error = 0;             // |W' - W| / |W|
  std::optional<double> output_error;  // of the outputs, relative, on the calibration text; empty: not measured
};
// The figures of a report, summed up.
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
  std::optional<double> mean_output_error;  // of the linears where it was measured; empty: of none
  std::optional<double> kl_divergence;      // nats; empty: not evaluated
  std::vector<QuantizationLayerReport> layers;
};
METAL_MARLIN_API QuantizationReport quantization_report(const Report& report);

}  // namespace metal_marlin
