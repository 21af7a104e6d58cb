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
#include "pack/group_arrays.h"
#include "pack/native.h"
#include "pipeline/group_size.h"
#include "pipeline/ignored_options.h"
#include "pipeline/mixed_bits.h"
#include "pipeline/rounding_choice.h"
#include "pipeline/texts.h"
#include "report/options.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

constexpr const char* kRanges[] = {"absmax", "mse", "gram", "diagonal"};  // RangeChoice

template <typename T>
T choose(const char* option, const std::string& given, const std::vector<std::pair<std::string, T>>& choices) {
  std::vector<std::string> names;
  for (const auto& [name, value] : choices) {
    if (name == given) return value;
    names.push_back(name);
  }
  throw ArgumentError(fmt::format("--{}: expected one of {}, got \"{}\"", option, fmt::join(names, ", "), given));
}

void check_range(const char* option, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    throw ArgumentError(fmt::format("--{}: expected a number from {} to {}, got {}", option, low, high, value));
  }
}

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

bool fast(const QuantizeOptions& o) {
  return choose<bool>("effort", o.effort, {{"best", false}, {"fast", true}});
}

}  // namespace

std::string rounding_option(const QuantizeOptions& o) {
  if (o.error_feedback == "off") return "--error-feedback off";
  return o.method == "awq" && o.effort != "best" ? "--effort " + o.effort : "--method " + o.method;
}

QuantizeOptions with_presets(QuantizeOptions o) {
  const bool own = std::find(o.given.begin(), o.given.end(), "samples") != o.given.end();
  if (fast(o) && o.method == "awq" && !own && o.calibration.samples == CalibrationOptions{}.samples)
    o.calibration.samples = kFastSamples;
  if (o.builtin_share != kShareOfMethod) {
    check_range("builtin-share", o.builtin_share, 0, kMostBuiltinShare);
  } else {
    o.builtin_share = o.method == "awq" ? kBuiltinShare : 0;
    if (builtin_sequences(o) == 0) o.builtin_share = 0;
  }
  return o;
}

Recipe stages_of(const QuantizeOptions& o) {
  Recipe r;
  r.method = o.method;
  struct Preset {
    ScaleMethod scales;
    RangeChoice ranges;
    bool clip;
    Rounding rounding;
    Statistic statistic;
    bool refine = false;
  };
  // Zeros fitted to correlations within a group overfit the calibration text. Error feedback gains what such zeros
  // would gain.
  const bool diagonal = o.scheme == "asym" && !fast(o);
  const Preset best{ScaleMethod::kAwq,
                    diagonal ? RangeChoice::kDiagonal : RangeChoice::kGram,
                    false,
                    fast(o) ? Rounding::kNearest : Rounding::kGptq,
                    Statistic::kMean,
                    true};
  const Preset paper{ScaleMethod::kAwq, RangeChoice::kAbsmax, true, Rounding::kNearest, Statistic::kMean};
  const auto preset = choose<Preset>(
      "method", o.method,
      {{"awq", best},
       {"awq-paper", paper},
       {"awq-salient", {ScaleMethod::kSalient, RangeChoice::kAbsmax, false, Rounding::kNearest, Statistic::kRms}},
       {"gptq", {ScaleMethod::kNone, RangeChoice::kGram, false, Rounding::kGptq, Statistic::kMean}},
       {"rtn", {ScaleMethod::kNone, RangeChoice::kAbsmax, false, Rounding::kNearest, Statistic::kMean}}});
  const ScaleMethod searched_scales = preset.scales == ScaleMethod::kNone ? ScaleMethod::kAwq : preset.scales;
  r.scales = choose<ScaleMethod>("scale-search", o.scale_search,
                                 {{"auto", preset.scales}, {"on", searched_scales}, {"off", ScaleMethod::kNone}});
  r.rounding = choose<Rounding>("error-feedback", o.error_feedback,
                                {{"auto", preset.rounding}, {"on", Rounding::kGptq}, {"off", Rounding::kNearest}});
  r.ranges = o.range == "auto" ? preset.ranges
                               : choose<RangeChoice>("range", o.range,
                                                     {{"auto", preset.ranges},
                                                      {"absmax", RangeChoice::kAbsmax},
                                                      {"mse", RangeChoice::kMse},
                                                      {"gram", RangeChoice::kGram},
                                                      {"diagonal", RangeChoice::kDiagonal}});
  r.clip = choose<bool>("clip", o.clip,
                        {{"auto", preset.clip && r.ranges == RangeChoice::kAbsmax}, {"on", true}, {"off", false}});
  if (r.clip && r.ranges != RangeChoice::kAbsmax) {
    throw ArgumentError(fmt::format("--clip on: shrinks absmax ranges and cannot be combined with --range {}",
                                    kRanges[static_cast<int>(r.ranges)]));
  }
  r.grid.symmetric = choose<bool>("scheme", o.scheme, {{"sym", true}, {"asym", false}});
  const bool searched = r.ranges != RangeChoice::kAbsmax;
  r.signed_scales =
      choose<bool>("signed-scales", o.signed_scales,
                   {{"auto", preset.refine && searched && r.grid.symmetric}, {"on", true}, {"off", false}});
  if (r.signed_scales && !(searched && r.grid.symmetric)) {
    throw ArgumentError(
        "--signed-scales on: only symmetric grids (--scheme sym) with searched ranges (--range mse, gram or diagonal) "
        "have them");
  }
  r.refine = choose<bool>("refine", o.refine, {{"auto", preset.refine}, {"on", true}, {"off", false}});
  // Statistics from a file cannot be split into calibration and validation tokens.
  r.guard = choose<bool>("guard", o.guard, {{"auto", preset.refine}, {"on", true}, {"off", false}}) &&
            r.rounding == Rounding::kGptq && !from_statistics(o.calibration);
  r.statistic = choose<Statistic>(
      "activation-method", o.activation_method,
      {{"auto", preset.statistic}, {"mean", Statistic::kMean}, {"max", Statistic::kMax}, {"rms", Statistic::kRms}});
  const bool feedback = preset.refine && r.rounding == Rounding::kGptq && ranges_by_gram(r);
  r.scale_loss = choose<ScaleLoss>("awq-loss", o.awq_loss,
                                   {{"auto", feedback ? ScaleLoss::kFeedback : ScaleLoss::kLinear},
                                    {"linear", ScaleLoss::kLinear},
                                    {"feedback", ScaleLoss::kFeedback},
                                    {"block", ScaleLoss::kBlock}});
  if (r.scale_loss == ScaleLoss::kFeedback && r.scales == ScaleMethod::kAwq && r.rounding != Rounding::kGptq) {
    throw ArgumentError(
        fmt::format("--awq-loss feedback: {} rounds without error feedback; use linear", rounding_option(o)));
  }
  if (r.scales != ScaleMethod::kAwq || (r.scale_loss == ScaleLoss::kBlock && from_statistics(o.calibration))) {
    r.scale_loss = ScaleLoss::kLinear;
  }
  check_range("salient-ratio", o.salient_ratio, 0, 1);
  r.salient_ratio = o.salient_ratio;
  if (o.first_token_weight != 0) check_range("first-token-weight", o.first_token_weight, 1, 1e6);
  r.first_token_weight = o.first_token_weight != 0 ? o.first_token_weight : preset.refine ? kFirstTokenWeight : 1;
  if (o.damping != kDampingOfMethod) check_range("damping", o.damping, 0, 1);
  r.least_damping = o.damping != kDampingOfMethod ? o.damping : GptqOptions{}.damping;
  // Without a validation split, the damping that the guard chooses most often.
  const double raised = raised_damping(r.grid);
  const bool most = r.guard || (preset.refine && r.rounding == Rounding::kGptq && o.damping == kDampingOfMethod);
  r.damping = most ? r.least_damping * raised * raised : r.least_damping;
  r.act_order = o.act_order;
  if (std::find(kNativeWidths.begin(), kNativeWidths.end(), o.bits) == kNativeWidths.end()) {
    throw ArgumentError(fmt::format("--bits: expected {}, got {}", list_widths(kNativeWidths), o.bits));
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
      throw ArgumentError(fmt::format("--format: expected one of {}, got \"{}\"", fmt::join(known, ", "), f));
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
  check_range("temperature", o.calibration.temperature, 0.01, 10);
  check_sizes(o.evaluation);
  r.precision = statistics_precision(o.machine.precision);
  check_mixed(o, r);
  r.grids = grids_of_patterns(source, o, r);
  return r;
}

int64_t guard_sequences(const Recipe& recipe, int64_t sequences) {
  return recipe.guard && sequences >= 2 ? std::max<int64_t>(1, sequences / 8) : 0;
}

ComputeType statistics_precision(const std::string& name) {
  const ComputeType half = has_bf16_gemm() ? ComputeType::kBF16 : ComputeType::kF32;
  return choose<ComputeType>(
      "precision", name,
      {{"auto", prefers_bf16_gemm() ? half : ComputeType::kF32}, {"f32", ComputeType::kF32}, {"bf16", half}});
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
  constexpr const char* kBos[] = {"auto", "always", "never"};
  constexpr const char* kScaleLosses[] = {"linear", "feedback", "block"};
  constexpr const char* kStatistics[] = {"mean", "max", "rms"};
  OptionValues values;
  values["method"] = o.method;
  values["effort"] = o.method == "awq" ? o.effort : std::string("best");
  values["scheme"] = o.scheme;
  values["bits"] = int64_t{o.bits};
  values["group_size"] = r.grid.group_size;
  values["group_size_option"] = o.group_size;
  values["range"] = std::string(kRanges[static_cast<int>(r.ranges)]);
  values["clip"] = r.clip;
  values["signed_scales"] = r.signed_scales;
  values["scale_search"] = r.scales != ScaleMethod::kNone;
  values["error_feedback"] = r.rounding == Rounding::kGptq;
  values["refine"] = r.refine;
  values["guard"] = r.guard;
  values["awq_loss"] = std::string(kScaleLosses[static_cast<int>(r.scale_loss)]);
  values["activation_method"] = std::string(kStatistics[static_cast<int>(r.statistic)]);
  values["salient_ratio"] = o.salient_ratio;
  values["first_token_weight"] = r.first_token_weight;
  values["damping"] = r.guard ? r.least_damping : r.damping;
  values["act_order"] = o.act_order;
  values["formats"] = o.formats;
  values["skip"] = o.skip;
  values["calibration"] = o.calibration.calibration;
  values["calibration_weights"] = list_option(o.calibration.calibration_weights);
  values["builtin_share"] = o.builtin_share;
  values["select"] = o.calibration.select;
  values["samples"] = o.calibration.samples;
  values["sequence_length"] = o.calibration.sequence_length;
  values["bos"] = std::string(kBos[static_cast<int>(o.calibration.bos)]);
  values["seed"] = number_option(o.calibration.seed);
  values["temperature"] = o.calibration.temperature;
  values["evaluate"] = o.evaluation.text;
  values["chunks"] = o.evaluation.chunks;
  values["context"] = o.evaluation.context;
  values["precision"] = r.precision == ComputeType::kBF16 ? std::string("bf16") : std::string("f32");
  values["target_bits"] = o.target_bits > 0 ? OptionValue(o.target_bits) : OptionValue();
  values["mixed_bits"] = chooses_bits(o);
  values["linear_bits"] = o.linear_bits;
  values["sensitivity_tokens"] = o.sensitivity_tokens;
  values["max_kl"] = o.max_kl < 0 ? OptionValue() : OptionValue(o.max_kl);
  return values;
}

}  // namespace metal_marlin
