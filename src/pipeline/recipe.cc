#include "pipeline/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fnmatch.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "kernels/gemm.h"
#include "options/tables.h"
#include "pack/group_arrays.h"
#include "pack/native.h"
#include "pipeline/group_size.h"
#include "pipeline/mixed_bits.h"
#include "pipeline/presets.h"
#include "pipeline/texts.h"
#include "quantize/gptq.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

void require_width(const CheckpointWriter& writer, int bits) {
  const auto widths = writer.widths();
  if (std::find(widths.begin(), widths.end(), bits) != widths.end()) return;
  throw ArgumentError(fmt::format("--format {0}: {0} holds {1} bits, not {2}; use --bits {1}, or another format",
                                  writer.format(), list_widths(widths), bits));
}

// ArgumentError when the format cannot hold the grid. Marlin refuses so many shapes that most linears would stay in 16
// bits; with it the linears are named in an error instead.
void require_holdable(const CheckpointWriter& writer, const Grid& grid, const ModelSource& source,
                      const QuantizeOptions& options) {
  if (const std::string reason = writer.refusal_of(grid); !reason.empty()) {
    throw ArgumentError(fmt::format("--format {0}: {0} {1}; use {2}, or another format", writer.format(), reason,
                                    grid.symmetric ? "--group-size 128 or -1" : "--scheme sym"));
  }
  if (writer.format() != std::string("marlin")) return;
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (const QuantizedWeight& w : layer_tensors(source, layer, options).quantized) {
      if (const std::string reason = writer.refusal(w.rows, w.columns, grid.group_of(w.columns), grid.bits);
          !reason.empty()) {
        throw ArgumentError(fmt::format(
            "--format marlin: {}: {}; leave it in 16 bits with --skip, or choose another format", w.name, reason));
      }
    }
  }
}

}  // namespace

Recipe stages_of(const QuantizeOptions& o) {
  const QuantizeOptions s = options_in_force(o);
  Recipe r;
  r.method = s.method;
  r.scales = s.scale_search != true            ? ScaleMethod::kNone
             : s.method == Method::kAwqSalient ? ScaleMethod::kSalient
                                               : ScaleMethod::kAwq;
  r.rounding = s.error_feedback == true ? Rounding::kGptq : Rounding::kNearest;
  r.ranges = *s.range;
  r.clip = *s.clip;
  r.grid.symmetric = s.scheme == Scheme::kSymmetric;
  r.signed_scales = *s.signed_scales;
  r.refine = *s.refine;
  r.guard = *s.guard;
  r.statistic = *s.activation_method;
  r.scale_loss = *s.awq_loss;
  r.salient_ratio = s.salient_ratio;
  r.first_token_weight = *s.first_token_weight;
  r.least_damping = o.damping.value_or(GptqOptions{}.damping);
  r.damping = r.guard ? most_damping(r.least_damping, s.scheme) : *s.damping;
  r.act_order = s.act_order;
  if (std::find(kNativeWidths.begin(), kNativeWidths.end(), o.bits) == kNativeWidths.end()) {
    throw ArgumentError(fmt::format("--bits: expected {}, found {}", list_widths(kNativeWidths), o.bits));
  }
  r.grid.bits = o.bits;
  return r;
}

Recipe make_recipe(const QuantizeOptions& o, const ModelSource& source) {
  Recipe r = stages_of(o);
  std::set<std::string> formats;
  for (const std::string& f : o.formats) {
    const auto& known = checkpoint_formats();
    if (std::find(known.begin(), known.end(), f) == known.end()) {
      throw ArgumentError(fmt::format("--format: expected one of {}, found \"{}\"", fmt::join(known, ", "), f));
    }
    if (!formats.insert(f).second) throw ArgumentError(fmt::format("--format: \"{}\" is named twice", f));
    require_width(*CheckpointWriter::create(f), o.bits);
  }
  if (formats.empty())
    throw ArgumentError(fmt::format("--format: expected at least one of {}", fmt::join(checkpoint_formats(), ", ")));
  r.grid.group_size = resolve_group_size(source, o);
  for (const std::string& f : o.formats) {
    const auto writer = CheckpointWriter::create(f);
    require_holdable(*writer, r.grid, source, o);
    r.least_zero = std::max(r.least_zero, writer->least_zero());
  }
  check_sizes(o.calibration);
  check_sizes(o.evaluation);
  r.precision = statistics_precision(o.machine.precision);
  check_mixed(o, r);
  r.grids = grids_of_patterns(source, o, r);
  return r;
}

int64_t guard_sequences(const Recipe& recipe, int64_t sequences) {
  return recipe.guard && sequences >= 2 ? std::max<int64_t>(1, sequences / 8) : 0;
}

ComputeType statistics_precision(std::optional<MatmulPrecision> asked) {
  const bool half = asked ? asked == MatmulPrecision::kBF16 : prefers_bf16_gemm();
  return half && has_bf16_gemm() ? ComputeType::kBF16 : ComputeType::kF32;
}

bool ranges_by_gram(const Recipe& r) {
  return r.ranges == RangeChoice::kGram || r.ranges == RangeChoice::kDiagonal;
}

bool needs_gram(const Recipe& r) {
  return r.scales != ScaleMethod::kNone || r.clip || ranges_by_gram(r) || r.rounding == Rounding::kGptq || r.refine;
}

void check_output(const ModelSource& source, const std::string& output) {
  if (output.empty()) throw ArgumentError("--output: expected a folder, got nothing");
  std::error_code code;
  if (std::filesystem::exists(output, code) && !std::filesystem::is_directory(output, code)) {
    throw ArgumentError(fmt::format("{}: expected a folder, found a file", output));
  }
  refuse_own_folder(source, output);
}

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& p) { return fnmatch(p.c_str(), name.c_str(), 0) == 0; });
}

LayerTensors layer_tensors(const ModelSource& source, int64_t layer, const QuantizeOptions& options) {
  LayerTensors out;
  std::vector<QuantizedWeight> weights;
  for (LinearSlot& slot : source.linears(layer)) {
    const auto it =
        std::find_if(weights.begin(), weights.end(), [&](const QuantizedWeight& w) { return w.name == slot.weight; });
    QuantizedWeight& w =
        it != weights.end() ? *it : weights.emplace_back(QuantizedWeight{slot.weight, {}, 0, slot.columns, {}});
    w.rows += slot.rows;
    w.slots.push_back(std::move(slot));
  }
  // Engines load q,k,v and gate,up as one matrix: a mixture of 4 and 16 bits inside one cannot be loaded.
  std::array<std::string, kLinearInputs> skipped_by;
  for (const QuantizedWeight& w : weights) {
    if (matches_any(options.skip, w.name)) skipped_by[static_cast<size_t>(input_of(w.slots.front().kind))] = w.name;
  }
  for (QuantizedWeight& w : weights) {
    if (w.columns % 8 != 0) {
      out.skipped.push_back(
          {w.name, fmt::format("in_features {} is no multiple of 8, which every layout needs", w.columns)});
      continue;
    }
    const std::string& by = skipped_by[static_cast<size_t>(input_of(w.slots.front().kind))];
    if (by.empty()) {
      out.quantized.push_back(std::move(w));
    } else if (matches_any(options.skip, w.name)) {
      out.skipped.push_back({w.name, "--skip"});
    } else {
      out.skipped.push_back({w.name, "fused at load with " + by + ", which --skip names"});
    }
  }
  return out;
}

LayerTensors planned_tensors(const ModelSource& source, int64_t layer, const QuantizeOptions& options,
                             const Recipe& recipe) {
  LayerTensors tensors = layer_tensors(source, layer, options);
  std::vector<QuantizedWeight> kept;
  for (QuantizedWeight& w : tensors.quantized) {
    w.grid = recipe.grid;
    std::string reason;
    const auto named = recipe.grids.find(w.name);
    const auto chosen = recipe.chosen_grids.find(w.name);
    if (named != recipe.grids.end()) w.grid = named->second;
    if (named == recipe.grids.end() && chosen != recipe.chosen_grids.end()) w.grid = chosen->second;
    if (w.grid.bits == kUnquantizedBits) {
      tensors.skipped.push_back(
          {w.name, named != recipe.grids.end() ? "--linear-bits" : "16 bits chosen by its share of the KL divergence"});
      continue;
    }
    for (const std::string& format : options.formats) {
      const std::string r =
          CheckpointWriter::create(format)->refusal(w.rows, w.columns, w.grid.group_of(w.columns), w.grid.bits);
      if (reason.empty() && !r.empty()) reason = fmt::format("{}: {}", format, r);
    }
    if (reason.empty()) {
      kept.push_back(std::move(w));
    } else {
      tensors.skipped.push_back({w.name, reason});
    }
  }
  tensors.quantized = std::move(kept);
  return tensors;
}

OptionValues option_values(const QuantizeOptions& o, const Recipe& r) {
  QuantizeOptions shown = options_in_force(o);
  shown.group_size = r.grid.group_size;
  shown.machine.precision = r.precision == ComputeType::kBF16 ? MatmulPrecision::kBF16 : MatmulPrecision::kF32;
  shown.mixed_bits = chooses_bits(o);
  OptionValues values;
  for (const auto& row : quantize_options().rows()) {
    if (row.shapes != Shapes::kNothing) values[row.key] = row.get(shown);
  }
  values["group_size_option"] = o.group_size ? std::to_string(*o.group_size) : std::string("auto");
  return values;
}

}  // namespace metal_marlin
