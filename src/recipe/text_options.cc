#include "recipe/text_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <set>

#include "options/sources.h"
#include "options/tables.h"

namespace metal_marlin {

void check_sizes(const QuantizeOptions& asked) {
  const CalibrationOptions& options = asked.calibration;
  calibration_options().check_ranges(options);
  if (options.calibration.empty())
    throw ArgumentError("calibration", "--calibration: expected self, builtin or a file, found nothing");
  std::set<std::string> names;
  for (const std::string& name : options.calibration) {
    if (name.empty())
      throw ArgumentError("calibration", "--calibration: expected self, builtin or a file, found an empty name");
    if (!names.insert(name).second)
      throw ArgumentError(
          "calibration",
          fmt::format("--calibration: {} is named twice; give it a larger weight instead (--calibration-weights)",
                      name));
    if (std::filesystem::path(name).extension() == ".json") {
      throw ArgumentError(
          "calibration",
          fmt::format("--calibration {}: expected text, or JSON Lines (one object on each line) in a file that ends in "
                      ".jsonl, found one that "
                      "ends in .json; a JSON list becomes JSON Lines by jq -c '.[]'",
                      name));
    }
  }
  if (options.calibration.size() > 1 && from_statistics(options)) {
    throw ArgumentError("calibration", fmt::format("--calibration: expected statistics (.npz, .gguf) alone, found {}: "
                                                   "they are finished and take no further text",
                                                   sources_text(options)));
  }
  const auto& weights = options.calibration_weights;
  if (!weights.empty() && weights.size() != options.calibration.size()) {
    throw ArgumentError(
        "calibration-weights",
        fmt::format("--calibration-weights: expected one number for each of the {} sources, in their order, found {}",
                    options.calibration.size(), weights.size()));
  }
  if (options.select != 0) {
    if (from_statistics(options))
      throw ArgumentError("select", "--select: chooses from texts, and statistics (.npz, .gguf) hold none");
    if (options.select > samples_of(asked)) {
      throw ArgumentError(
          "select",
          fmt::format("--select: expected at most --samples, the size of the pool to choose from ({}), found {}",
                      samples_of(asked), options.select));
    }
  }
}

void check_sizes(const EvaluationOptions& options) {
  evaluation_options().check_ranges(options);
}

std::string sources_text(const CalibrationOptions& options) {
  return fmt::format("{}", fmt::join(options.calibration, ", "));
}

}  // namespace metal_marlin
