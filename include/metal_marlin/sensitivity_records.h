// What quantizing each set of linears costs, as it is measured, and what was chosen by it.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/record.h>
#include <metal_marlin/text_records.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

struct GridRecord {
  int64_t bits = 0;
  int64_t group_size = 0;
  bool symmetric = false;
  int64_t storage_bits = 0;
  double estimated_kl = 0;

  static void describe(auto& field, auto& self) {
    field("bits", self.bits, "16: not quantized");
    field("group_size", self.group_size, "-1: a row");
    field.since("symmetric", self.symmetric);
    field.since("storage_bits", self.storage_bits, "of all weights, scales and zeros");
    field("estimated_kl", self.estimated_kl, "nats");
  }
};

struct ChosenGridRecord {
  int64_t bits = 0;
  int64_t group_size = 0;
  double estimated_kl = 0;

  static void describe(auto& field, auto& self) {
    field("bits", self.bits, "16: not quantized");
    field("group_size", self.group_size, "-1: a row");
    field("estimated_kl", self.estimated_kl, "nats");
  }
};

struct SensitivityItem {
  int64_t layer = 0;
  std::string tap;
  std::vector<std::string> linears;
  int64_t weights = 0;
  double kl = 0;
  double kl_standard_error = 0;
  std::vector<GridRecord> options;
  std::optional<ChosenGridRecord> chosen;

  static void describe(auto& field, auto& self) {
    field("layer", self.layer);
    field("tap", self.tap, "the input: qkv, o, gate_up or down");
    field.since("linears", self.linears, "names of the weights that share it");
    field("weights", self.weights, "how many");
    field("kl", self.kl, "KL divergence of the model in which they alone are quantized, nats");
    field.since("kl_standard_error", self.kl_standard_error);
    field.since("options", self.options, "what they could be stored as");
    field.maybe("chosen", self.chosen);
  }
};

// What quantizing each set of linears that share an input costs.
struct SensitivityRecord {
  int64_t sequences = 0;
  int64_t tokens = 0;
  int64_t statistics_tokens = 0;
  double kl_together = 0;
  std::vector<SensitivityItem> items;

  static void describe(auto& field, auto& self) {
    field.since("sequences", self.sequences, "that were measured on");
    field("tokens", self.tokens, "likewise");
    field.since("statistics_tokens", self.statistics_tokens, "that the linears were calibrated on for it");
    field("kl_together", self.kl_together, "KL divergence when all are quantized");
    field("items", self.items);
  }
};

// The same beside the options that it is of.
struct SensitivityReport : SensitivityRecord {
  double interaction = 1;
  std::string method;
  std::string scheme;
  int64_t bits = 0;
  int64_t group_size = 0;
  TextRecord calibration;

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    SensitivityRecord::describe(field, self);
    field.since("interaction", self.interaction, "kl_together over the sum of the items'");
    field.since("method", self.method);
    field.since("scheme", self.scheme);
    field.since("bits", self.bits);
    field.since("group_size", self.group_size);
    field.since("calibration", self.calibration);
  }
};

// Reads what to_json() wrote; `name` is what messages call it. FormatError naming the key, what was expected and what
// was found for other JSON.
METAL_MARLIN_API SensitivityReport sensitivity_from_json(const std::string& text,
                                                         const std::string& name = "sensitivity");

// The bits of each linear, where they were chosen by what their error costs.
struct MixedRecord : SensitivityRecord {
  double interaction = 1;
  std::optional<double> target_bits;
  double bits_per_weight = 0;
  double estimated_kl = 0;
  double file_bits_per_weight = 0;

  static void describe(auto& field, auto& self) {
    SensitivityRecord::describe(field, self);
    field.since("interaction", self.interaction, "kl_together over the sum of the items'");
    field.since("target_bits", self.target_bits, "null where a limit of the KL divergence chose");
    field("bits_per_weight", self.bits_per_weight, "of the choice, as --target-bits counts");
    field("estimated_kl", self.estimated_kl, "of the choice");
    field("file_bits_per_weight", self.file_bits_per_weight,
          "all that the first format's file holds for these linears");
  }
};

}  // namespace metal_marlin
