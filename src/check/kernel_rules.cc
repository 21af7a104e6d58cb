// Which bits, groups, shapes and types the kernels of vLLM and SGLang have for AWQ and GPTQ; what both have of
// compressed-tensors stands in compressed_rules.cc.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "check/engine_layers.h"
#include "check/rule.h"

namespace metal_marlin {
namespace {

constexpr std::array<int64_t, 4> kMarlinGroups = {-1, 32, 64, 128};

std::optional<int64_t> bits_of(const CheckpointFacts& f) {
  const auto bits = whole(f.quantization, "bits");
  return bits ? bits : whole(f.quantization, "w_bit");
}

std::optional<int64_t> group_of(const CheckpointFacts& f) {
  const auto group = whole(f.quantization, "group_size");
  return group ? group : whole(f.quantization, "q_group_size");
}

bool is_marlin_group(std::optional<int64_t> group) {
  return group && std::find(kMarlinGroups.begin(), kMarlinGroups.end(), *group) != kMarlinGroups.end();
}

void bits(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const auto found = bits_of(f);
  if (!found) return;
  if (f.method == "awq" && *found != 4) {
    answer.refused(
        fmt::format("{}: expected 4 bits, found {}; {} has no other AWQ", f.quantization_place, *found, q.name()),
        "metal-marlin convert --to compressed-tensors, or quantize to 4 bits");
  } else if (f.method == "gptq" && *found != 4 && *found != 8) {
    answer.refused(fmt::format("{}: expected 4 or 8 bits, found {}", f.quantization_place, *found),
                   "quantize to 4 or 8 bits");
  }
}

void gptq_asymmetric(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "gptq" || truth(f.quantization, "sym").value_or(true)) return;
  answer.refused(fmt::format("{}: expected sym true, found false; {} has no kernel for GPTQ with zero points",
                             f.quantization_place, q.name()),
                 "quantize with --scheme sym, or metal-marlin convert --to awq");
}

// The qzeros of a symmetric checkpoint are not read: they must all be the middle.
void awq_zero_point(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "awq" || truth(f.quantization, "zero_point").value_or(true)) return;
  answer.slow(fmt::format("{}: zero_point is false, for which there is no Marlin kernel; a slower one is taken",
                          f.quantization_place),
              "write zero_point: true, which is right for symmetric data too");
}

void group_size(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const auto group = group_of(f);
  if ((f.method != "awq" && f.method != "gptq") || !group || is_marlin_group(group)) return;
  if (f.method == "awq" && *group > 0) {
    answer.slow(fmt::format("{}: group_size is {}; Marlin kernels have 32, 64, 128 and -1, and a slower one is taken",
                            f.quantization_place, *group),
                "quantize with --group-size 128");
  } else {
    answer.refused(fmt::format("{}: expected group_size 32, 64, 128 or -1, found {}", f.quantization_place, *group),
                   "quantize with --group-size 128");
  }
}

// Groups that do not divide the width, whatever the number of devices.
void groups_divide(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  const auto group = group_of(f);
  if ((f.method != "awq" && f.method != "gptq") || !group || *group <= 0) return;
  Names names;
  int64_t columns = 0;
  for (const auto& [name, m] : f.modules) {
    if (!m.quantized() || !m.columns || *m.columns % *group == 0) continue;
    if (names.empty()) columns = *m.columns;
    names.add(name);
  }
  if (names.empty()) return;
  answer.refused(fmt::format("{}: expected in_features that are a multiple of group_size {}, found {}", names.text(),
                             *group, columns),
                 "quantize with a group size that divides it, or leave the layer in 16 bits");
}

void output_packs(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "awq" && f.method != "gptq") return;
  const int64_t pack = 32 / std::clamp<int64_t>(bits_of(f).value_or(4), 1, 32);
  Names names;
  for (const EngineLayer& layer : engine_layers(f)) {
    const auto rows = layer.rows();
    if (!layer.quantized() || !rows) continue;
    const int64_t here = layer.splits_columns ? *rows : *rows / q.devices;
    if (here % pack != 0) names.add(layer.name);
  }
  if (names.empty()) return;
  answer.refused(fmt::format("{}: expected out_features on each device that are a multiple of {}", names.text(), pack),
                 "leave the layer in 16 bits, or use fewer devices");
}

// SGLang's Marlin wants whole tiles; vLLM fills them up with zeros.
void marlin_tiles(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "awq" && f.method != "gptq" && f.method != "compressed-tensors") return;
  constexpr int64_t kRows = 64;
  constexpr int64_t kColumns = 128;
  Names names;
  int64_t rows_found = 0;
  int64_t columns_found = 0;
  for (const EngineLayer& layer : engine_layers(f)) {
    const auto rows = layer.rows();
    const auto columns = layer.columns();
    if (!layer.quantized() || !rows || !columns) continue;
    const int64_t rows_here = layer.splits_columns ? *rows : *rows / q.devices;
    const int64_t columns_here = layer.splits_columns ? *columns / q.devices : *columns;
    if (rows_here % kRows == 0 && columns_here % kColumns == 0) continue;
    if (names.empty()) {
      rows_found = rows_here;
      columns_found = columns_here;
    }
    names.add(layer.name);
  }
  if (names.empty()) return;
  const std::string message =
      fmt::format("{}: Marlin works on tiles of {} outputs and {} inputs, found {} and {} on each device", names.text(),
                  kRows, kColumns, rows_found, columns_found);
  if (q.is(Engine::kVllm)) {
    answer.note(message + "; the rest is filled up with zeros", "");
  } else if (f.method == "awq") {
    answer.slow(message + "; a slower kernel is taken", "use fewer devices");
  } else {
    answer.unknown(message, "use fewer devices, or try it");
  }
}

bool is_bf16(const CheckpointFacts& f) {
  return f.sizes.dtype == "bfloat16";
}

// Kernels beside Marlin's have float16 alone; SGLang asks before it loads.
void plain_kernel_type(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "awq" || f.sizes.dtype.empty() || f.sizes.dtype == "float16") return;
  const bool marlin = truth(f.quantization, "zero_point").value_or(false) && is_marlin_group(group_of(f));
  if (marlin) return;
  answer.refused(
      fmt::format("config.json: dtype is {}; the AWQ kernel for this zero_point and group_size has float16 alone",
                  f.sizes.dtype),
      "give --dtype float16, or write zero_point: true and a group size of 32, 64 or 128");
}

// Scales are allocated in the type of the model.
void scales_rounded(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (!is_bf16(f)) return;
  Names names;
  for (const auto& [name, m] : f.modules) {
    if (m.quantized() && m.scale_type == "F16") names.add(name);
  }
  if (names.empty()) return;
  answer.note(
      fmt::format("config.json: dtype is bfloat16, but the scales of {} are F16: {} rounds them to bfloat16, which "
                  "keeps 8 of 11 bits",
                  names.text(), q.name()),
      "give --dtype float16, or write float16 into config.json");
}

}  // namespace

std::span<const Rule> kernel_rules() {
  static constexpr const char* kConfigs =
      "vLLM 0.33 auto_awq.py, auto_gptq.py (TYPE_MAP); SGLang 0.5.23 awq/awq.py, gptq/gptq.py (TYPE_MAP), "
      "gptq/schemes/gptq_linear.py (\"The non-Marlin GPTQ CUDA kernel has been removed\")";
  static constexpr const char* kMarlin =
      "vLLM 0.33 quantization/utils/marlin_utils.py; SGLang 0.5.23 quantization/marlin_utils.py";
  static constexpr Rule kRules[] = {
      {"bits-of-kernels", kServers, "bits of AWQ and GPTQ", kConfigs, bits},
      {"gptq-asymmetric", kServers, "sym of GPTQ", kConfigs, gptq_asymmetric},
      {"awq-zero-point", kServers, "zero_point of AWQ",
       "vLLM 0.33 auto_awq.py:get_quant_method; SGLang 0.5.23 awq/awq.py:is_awq_marlin_compatible", awq_zero_point},
      {"group-size-of-kernels", kServers, "group_size of AWQ and GPTQ", kMarlin, group_size},
      {"groups-divide", kServers | Engine::kTransformers, "in_features against group_size", kMarlin, groups_divide},
      {"outputs-pack", kServers, "out_features of the fused layers",
       "vLLM 0.33 auto_awq.py, SGLang 0.5.23 awq/schemes/awq_linear.py (\"The output size is not aligned\")",
       output_packs},
      {"marlin-tiles", kServers, "shapes of the fused layers on each device", kMarlin, marlin_tiles},
      {"awq-kernel-type", only(Engine::kSglang), "dtype of the model where AWQ takes no Marlin kernel",
       "SGLang 0.5.23 model_loader/loader.py, awq/awq.py:get_supported_act_dtypes", plain_kernel_type},
      {"scales-rounded", kServers, "type of the scales against dtype of the model",
       "vLLM 0.33 auto_awq.py, auto_gptq.py, compressed_tensors_wNa16.py (params_dtype); SGLang 0.5.23 likewise",
       scales_rounded},
  };
  return kRules;
}

}  // namespace metal_marlin
