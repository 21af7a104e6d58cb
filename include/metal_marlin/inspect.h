// What is in a checkpoint, and how two of them differ. Results are JSON; docs/inspect.md and docs/compare.md list the
// keys.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/options.h>

#include <string>

namespace metal_marlin {

// {path, format, family, config{...}, parameters, bytes, bits_per_weight, quantization{...}, linears: n,
//  tensors: [{name, shape, stored_as, bytes, file}], skipped: [{name, reason}], warnings: [text]}. `warnings`: where
//  files, config and tensors contradict each other, and which of them counts. `skipped` holds all that is no linear
//  of
// a block, and what the file has beside the model: other parts, layers that the config does not count.
METAL_MARLIN_API std::string inspect_model(const std::string& model, bool with_tensors = true);

// Returns the error of B's weights against A's, per tensor and per layer: {tensors: [{name, shape, relative_error,
// max_error, stored_as: [a, b]}], layers: [{layer, relative_error}], only_in_a, only_in_b, relative_error, warnings}.
// relative_error = ||B - A||_F / ||A||_F. That of a layer and of the whole model is over the linears. Scales that B has
// folded are undone first: norms are multiplied into the linears that they feed (and are not listed), the rows of v and
// up are scaled back to A's length, and the columns of o and down with them. Throws ArgumentError unless both are of
// one model.
METAL_MARLIN_API std::string compare_models(const std::string& a, const std::string& b,
                                            const MachineOptions& machine = {});

// The tables of `inspect` and `compare` as text, from their JSON. An inspection may have a key "sensitivity", which
// holds what sensitivity_of_model (quantize.h) returns.
METAL_MARLIN_API std::string render_inspection(const std::string& json);
METAL_MARLIN_API std::string render_comparison(const std::string& json);

}  // namespace metal_marlin
