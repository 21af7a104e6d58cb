// From one 4-bit checkpoint format to another without passing through floats: codes, zeros and scales stay as they are.
// And from any checkpoint to float16.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/progress.h>

#include <string>

namespace metal_marlin {

struct ConvertOptions {
  std::string to;          // "native", "awq", "gptq", "gptq_v2", "marlin", "f16"
  bool overwrite = false;  // replace what this program wrote in OUT; anything else there is refused
  int threads = 0;         // 0: all that this process may use
};

struct ConvertResult {
  // {model, output, from, to, linears, kept, group_size, symmetric, bits, bits_per_weight, bytes,
  //  files: [{name, bytes}], clamped: [{name, clamped, flushed, largest}], warnings, seconds, peak_memory_bytes}
  // group_size, symmetric and bits are null for "f16".
  std::string report_json;
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

// Renders ConvertResult::report_json as a few lines of text.
METAL_MARLIN_API std::string render_conversion(const std::string& report_json);

}  // namespace metal_marlin
