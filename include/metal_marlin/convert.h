// From one 4-bit checkpoint format to another without passing through floats: codes, zeros and scales stay as they are.
// And from any checkpoint to float16.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/progress.h>
#include <metal_marlin/report_records.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

struct ConvertOptions {
  std::string to;          // "native", "awq", "gptq", "gptq_v2", "marlin", "compressed-tensors", "mlx", "f16"
  bool overwrite = false;  // replace what this program wrote in OUT; anything else there is refused
  int threads = 0;         // 0: all that this process may use
};

struct ConvertedFile {
  std::string name;
  uint64_t bytes = 0;

  static void describe(auto& field, auto& self) {
    field("name", self.name);
    field("bytes", self.bytes);
  }
};

struct ConvertResult {
  std::string model;
  std::string output;
  std::string from;
  std::string to;
  uint64_t linears = 0;
  uint64_t kept = 0;
  std::optional<int64_t> group_size;
  std::optional<bool> symmetric;
  std::optional<int64_t> bits;
  double bits_per_weight = 0;
  uint64_t bytes = 0;
  std::vector<ConvertedFile> files;
  std::vector<ClampedRecord> clamped;
  std::vector<std::string> warnings;
  double seconds = 0;
  uint64_t peak_memory_bytes = 0;

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("model", self.model, "the path of IN");
    field("output", self.output, "the path of OUT");
    field("from", self.from, "the format of IN");
    field("to", self.to, "the format of OUT");
    field("linears", self.linears, "how many are quantized");
    field("kept", self.kept, "how many other tensors there are");
    field("group_size", self.group_size, "of most linears; -1: one group per row; null to f16");
    field("symmetric", self.symmetric, "null to f16");
    field("bits", self.bits, "of most linears; null to f16");
    field("bits_per_weight", self.bits_per_weight, "of the whole checkpoint");
    field("bytes", self.bytes, "of all weights");
    field("files", self.files, "what was written");
    field("clamped", self.clamped);
    field("warnings", self.warnings);
    field("seconds", self.seconds);
    field("peak_memory_bytes", self.peak_memory_bytes, "measured");
  }
};

// Converts the checkpoint `model` into the folder `output`. The folder appears complete or not at all: it is written
// beside its place under a temporary name and then renamed. The config, with the right quantization_config, the
// tokenizer and the other files are copied too. Memory: one tensor, not the model. Tensors that are not quantized keep
// their type; "awq", "gptq", "gptq_v2" and "marlin" store floats as float16 and list values that do not fit in
// `clamped`; between "gptq" and "gptq_v2" floats stay as they are. "f16" takes any source, also GGUF and full
// precision, and rounds each value once to float16. Throws before anything is written: UnsupportedError naming tensor
// and reason where the target cannot hold the source (zeros in Marlin, a zero of 0 in "gptq", groups in act order or a
// stored q_scale, sizes, bits), and for a source that is not quantized. Otherwise it throws as reading and writing do.
// On Interrupted nothing is left behind. A source that is in the format already is written anew.
METAL_MARLIN_API ConvertResult convert_model(const std::string& model, const std::string& output,
                                             const ConvertOptions& options, const Observer& observer = {});

// What `convert` prints. Control characters in names are shown as escapes.
METAL_MARLIN_API std::string render_conversion(const ConvertResult& result);

}  // namespace metal_marlin
