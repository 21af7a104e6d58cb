// What is in a checkpoint, and how two of them differ. docs/inspect.md and docs/compare.md have tables of the fields.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/options.h>
#include <metal_marlin/record.h>
#include <metal_marlin/report_records.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// The sizes of a model that matter.
struct InspectedConfig {
  std::string model_type;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  double rope_theta = 0;

  static void describe(auto& field, auto& self) {
    field("model_type", self.model_type);
    field("vocab_size", self.vocab_size);
    field("hidden_size", self.hidden_size);
    field("intermediate_size", self.intermediate_size, "of the feed-forward layers");
    field("num_hidden_layers", self.num_hidden_layers);
    field("num_attention_heads", self.num_attention_heads);
    field("num_key_value_heads", self.num_key_value_heads);
    field("head_dim", self.head_dim);
    field("max_position_embeddings", self.max_position_embeddings);
    field("tie_word_embeddings", self.tie_word_embeddings, "the head is the embedding");
    field("rope_theta", self.rope_theta);
  }
};

// The tensors that are stored as one type.
struct StoredType {
  uint64_t tensors = 0;
  uint64_t bytes = 0;

  static void describe(auto& field, auto& self) {
    field("tensors", self.tensors, "how many");
    field("bytes", self.bytes);
  }
};

// The linears of a quantized checkpoint that have one grid.
struct InspectedGrid {
  int64_t bits = 0;
  int64_t group_size = 0;
  uint64_t linears = 0;
  uint64_t weights = 0;

  static void describe(auto& field, auto& self) {
    field("bits", self.bits, "16: not quantized");
    field("group_size", self.group_size, "-1: a whole row");
    field("linears", self.linears, "how many have them");
    field("weights", self.weights, "likewise");
  }
};

struct InspectedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string stored_as;
  uint64_t bytes = 0;
  std::string file;
  std::optional<int64_t> bits;
  std::optional<int64_t> group_size;

  static void describe(auto& field, auto& self) {
    field("name", self.name);
    field("shape", self.shape);
    field("stored_as", self.stored_as, "its type, or the format of its codes");
    field("bytes", self.bytes);
    field("file", self.file, "that holds it");
    field.maybe("bits", self.bits, "where it is quantized");
    field.maybe("group_size", self.group_size, "likewise; -1: a whole row");
  }
};

struct Inspection {
  std::string path;
  std::string format;
  std::string family;
  InspectedConfig config;
  uint64_t parameters = 0;
  uint64_t bytes = 0;
  double bits_per_weight = 0;
  std::optional<JsonText> quantization;
  uint64_t linears = 0;
  std::map<std::string, StoredType> stored_as;
  std::optional<std::vector<InspectedGrid>> grids;
  std::optional<std::vector<InspectedTensor>> tensors;
  std::vector<SkippedRecord> skipped;
  std::vector<std::string> warnings;
  std::optional<SensitivityReport> sensitivity;

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("path", self.path, "where it is");
    field("format", self.format, "how it is stored: safetensors, gguf, awq, gptq, ...");
    field("family", self.family, "which family reads it, such as llama");
    field("config", self.config, "the sizes that matter");
    field("parameters", self.parameters, "of all tensors");
    field("bytes", self.bytes, "likewise");
    field("bits_per_weight", self.bits_per_weight, "likewise");
    field.maybe("quantization", self.quantization, "`quantization_config` of its config.json");
    field("linears", self.linears, "how many weights of the blocks can be quantized");
    field("stored_as", self.stored_as, "by type");
    field.maybe("grids", self.grids, "of a quantized checkpoint: which linears have which grid");
    field.maybe("tensors", self.tensors, "with `--tensors`");
    field("skipped", self.skipped,
          "tensors that `quantize` leaves alone: embedding, head, norms and biases, other parts of the checkpoint, "
          "layers beyond num_hidden_layers");
    field("warnings", self.warnings, "where files, config and tensors contradict each other, and which counts");
    field.maybe("sensitivity", self.sensitivity, "with `--sensitivity`");
  }
};

// Looks at a checkpoint without loading its weights. Inspection::sensitivity stays empty; sensitivity_of_model()
// (quantize.h) measures it.
METAL_MARLIN_API Inspection inspect_model(const std::string& model, bool with_tensors = true);

struct ComparedLayer {
  int64_t layer = 0;
  double relative_error = 0;
  double max_error = 0;

  static void describe(auto& field, auto& self) {
    field("layer", self.layer);
    field("relative_error", self.relative_error, "of its linears");
    field("max_error", self.max_error, "likewise");
  }
};

struct ComparedTensor {
  std::string name;
  std::vector<int64_t> shape;
  double relative_error = 0;
  double max_error = 0;
  std::vector<std::string> stored_as;

  static void describe(auto& field, auto& self) {
    field("name", self.name, "a part of a fused weight as NAME[q]");
    field("shape", self.shape, "of the whole weight");
    field("relative_error", self.relative_error);
    field("max_error", self.max_error, "the largest difference of two weights");
    field("stored_as", self.stored_as, "how A and how B store it");
  }
};

struct Comparison {
  std::string a;
  std::string b;
  double relative_error = 0;
  std::vector<ComparedLayer> layers;
  std::vector<ComparedTensor> tensors;
  std::vector<std::string> only_in_a;
  std::vector<std::string> only_in_b;
  std::vector<std::string> warnings;

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("a", self.a, "the path of A");
    field("b", self.b, "the path of B");
    field("relative_error", self.relative_error, "over all linears together");
    field("layers", self.layers);
    field("tensors", self.tensors);
    field("only_in_a", self.only_in_a, "names that B lacks");
    field("only_in_b", self.only_in_b, "names that A lacks");
    field("warnings", self.warnings, "what opening the two found");
  }
};

// The error of B's weights against A's. relative_error = ||B - A||_F / ||A||_F. That of a layer and of the whole model
// is over the linears. Scales that B has folded are undone first: norms are multiplied into the linears that they feed
// (and are not listed), the rows of v and up are scaled back to A's length, and the columns of o and down with them.
// Throws ArgumentError unless both are of one model.
METAL_MARLIN_API Comparison compare_models(const std::string& a, const std::string& b,
                                           const MachineOptions& machine = {});

// What `inspect` and `compare` print. Control characters in names are shown as escapes.
METAL_MARLIN_API std::string render_inspection(const Inspection& inspection);
METAL_MARLIN_API std::string render_comparison(const Comparison& comparison);

}  // namespace metal_marlin
