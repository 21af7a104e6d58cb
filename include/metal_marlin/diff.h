// In what two checkpoints of one model differ: codes, scales, zeros, weights. docs/diff.md has tables of the fields.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/options.h>
#include <metal_marlin/record.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// How one side stores a tensor.
struct DiffForm {
  std::string stored_as;
  std::optional<int64_t> bits;
  std::optional<int64_t> group_size;

  static void describe(auto& field, auto& self) {
    field("stored_as", self.stored_as, "its type, or the format of its codes");
    field.maybe("bits", self.bits, "of a code");
    field.maybe("group_size", self.group_size, "-1: a whole row");
  }
};

// A tensor that differs.
struct DiffTensor {
  std::string name;
  std::vector<int64_t> shape;
  DiffForm a;
  DiffForm b;
  std::optional<double> codes;
  std::optional<double> scales;
  std::optional<double> zeros;
  double relative_difference = 0;
  double max_difference = 0;

  static void describe(auto& field, auto& self) {
    field("name", self.name, "as Hugging Face has it");
    field("shape", self.shape);
    field("a", self.a, "how A stores it");
    field("b", self.b, "how B stores it");
    field.maybe("codes", self.codes,
                "the share of codes that differ; where both have codes of one width and group size");
    field.maybe("scales", self.scales,
                "max over the groups of |scale of B - scale of A| / |scale of A|, likewise; 1 where A's alone is 0");
    field.maybe("zeros", self.zeros, "the share of zeros (or minima) that differ, likewise");
    field("relative_difference", self.relative_difference, "||B - A|| / ||A|| of the weights, Frobenius norms");
    field("max_difference", self.max_difference, "the largest difference of two weights");
  }
};

struct DiffResult {
  std::string a;
  std::string b;
  bool equal = false;
  uint64_t linears = 0;
  uint64_t changed_linears = 0;
  uint64_t others = 0;
  uint64_t changed_others = 0;
  std::vector<DiffTensor> linear_changes;
  std::vector<DiffTensor> other_changes;
  std::vector<std::string> only_in_a;
  std::vector<std::string> only_in_b;
  std::vector<std::string> warnings;

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("a", self.a, "the path of A");
    field("b", self.b, "the path of B");
    field("equal", self.equal, "whether all tensors have the same values, in whatever form");
    field("linears", self.linears, "how many weights of the blocks both have");
    field("changed_linears", self.changed_linears, "how many of them differ");
    field("others", self.others, "how many other tensors both have: embedding, head, norms, biases");
    field("changed_others", self.changed_others, "how many of them differ");
    field("linear_changes", self.linear_changes, "the linears that differ, in the model's order, `limit` of them");
    field("other_changes", self.other_changes, "the other tensors that differ, likewise");
    field("only_in_a", self.only_in_a, "names that B lacks");
    field("only_in_b", self.only_in_b, "names that A lacks");
    field("warnings", self.warnings, "what opening the two found");
  }
};

struct DiffOptions {
  // How many changes each list holds at most. 0: all.
  int64_t limit = 0;
  MachineOptions machine;
};

// Compares what is stored, tensor by tensor, and undoes no folds (compare_models() does): two runs with other scales
// of channels differ in all that the scales touch. Codes are compared as integers in the common form, whatever the
// layouts. One tensor of each is in memory at a time, in float32. Throws ArgumentError unless both are of one model,
// NumericError naming the tensor where one that differs holds NaN or infinity.
METAL_MARLIN_API DiffResult diff_models(const std::string& a, const std::string& b, const DiffOptions& options = {});

// What `diff` prints. Control characters in names are shown as escapes.
METAL_MARLIN_API std::string render_diff(const DiffResult& result);

}  // namespace metal_marlin
