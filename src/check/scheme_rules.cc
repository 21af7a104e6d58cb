// The format of the checkpoint under each engine: whether it is one that the engine has, and the settings it wants.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "check/rule.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

using Methods = std::set<std::string_view>;

// quant_method of formats that the rules know under this engine.
bool is_covered(Engine engine, const std::string& method) {
  if (engine == Engine::kMlx) return method == "mlx" || method == "awq";
  return method == "awq" || method == "gptq" || method == "compressed-tensors";
}

// Others that the engine has, and of which the rules know nothing.
bool is_others(Engine engine, const std::string& method) {
  static const Methods kVllm = {"fp8",          "fbgemm_fp8",     "fp_quant",       "modelopt",
                                "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "humming",
                                "experts_int8", "quark",          "moe_wna16",      "torchao",
                                "inc",          "mxfp4",          "gpt_oss_mxfp4",  "deepseek_v4_fp8",
                                "auto-round",   "mxfp8"};
  static const Methods kSglang = {
      "fp8",       "mxfp8",       "blockwise_int8", "modelopt",  "modelopt_fp8", "modelopt_fp4", "modelopt_mixed",
      "w8a8_int8", "w8a8_fp8",    "bitsandbytes",   "gguf",      "moe_wna16",    "w4afp8",       "petit_nvfp4",
      "quark",     "quark_mxfp4", "auto-round",     "modelslim", "mxfp4",        "humming",      "quark_int4fp8_moe"};
  static const Methods kTransformers = {"gguf",        "bitsandbytes", "eetq",  "aqlm",       "quanto", "quark",
                                        "fouroversix", "fp_quant",     "hqq",   "fbgemm_fp8", "higgs",  "torchao",
                                        "bitnet",      "vptq",         "spqr",  "fp8",        "nvfp4",  "mxfp8",
                                        "auto-round",  "mxfp4",        "metal", "sinq",       "gemma"};
  static const Methods kMlx = {"bitnet", "mxfp4", "mxfp8", "fp8", "modelopt"};
  const Methods& methods = engine == Engine::kVllm     ? kVllm
                           : engine == Engine::kSglang ? kSglang
                           : engine == Engine::kMlx    ? kMlx
                                                       : kTransformers;
  return methods.count(method) > 0;
}

const char* advice_of(Engine engine) {
  return engine == Engine::kMlx ? "metal-marlin convert --to mlx"
                                : "metal-marlin convert --to compressed-tensors or awq";
}

void format(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.gguf) {
    if (q.is(Engine::kMlx)) {
      answer.refused("a GGUF file; expected a folder with config.json and model*.safetensors", advice_of(q.engine));
    } else if (q.is(Engine::kTransformers)) {
      answer.unknown(
          "a GGUF file: from_pretrained(FOLDER, gguf_file=NAME) dequantizes it where it knows the architecture",
          "metal-marlin convert --to f16 makes a folder");
    } else {
      answer.unknown(fmt::format("a GGUF file, of whose support in {} no rule is known", q.name()),
                     "metal-marlin convert --to f16 makes a folder");
    }
    return;
  }
  if (!f.has_config || f.quantization.is_null()) return;
  if (f.method.empty()) {
    answer.refused(fmt::format("{}: expected quant_method, found none", f.quantization_place),
                   "take the config from whoever made the checkpoint");
  } else if (is_others(q.engine, f.method)) {
    answer.unknown(fmt::format("quant_method is {}, which {} has and no rule looks at", shown(f.method), q.name()),
                   "try it");
  } else if (q.is(Engine::kMlx) && f.method == "gptq") {
    answer.refused("quant_method is gptq: mlx-lm takes its tensors for AWQ's, or refuses g_idx",
                   "metal-marlin convert --to mlx");
  } else if (q.is(Engine::kMlx) && f.method == "compressed-tensors") {
    answer.refused("quant_method is compressed-tensors: mlx-lm takes it for groups of 32 under other names of tensors",
                   "metal-marlin convert --to mlx");
  } else if (!is_covered(q.engine, f.method)) {
    answer.refused(fmt::format("quant_method is {}, which {} does not have", shown(f.method), q.name()),
                   advice_of(q.engine));
  }
}

WeightForm stored_by(const std::string& method) {
  if (method == "awq" || method == "gptq") return WeightForm::kQweight;
  if (method == "compressed-tensors") return WeightForm::kPacked;
  return method == "mlx" ? WeightForm::kMlx : WeightForm::kFloat;
}

// compressed-tensors has FP8 beside packed integers.
void tensors_of_format(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.gguf || !is_covered(q.engine, f.method)) return;
  Names other;
  Names floats;
  for (const auto& [name, m] : f.modules) {
    if (!m.quantized() || m.stored == stored_by(f.method)) continue;
    if (m.stored == WeightForm::kFloat8 && f.method == "compressed-tensors") {
      floats.add(name);
    } else {
      other.add(name);
    }
  }
  if (!other.empty()) {
    answer.refused(
        fmt::format("quant_method is {}, but the tensors of {} are of another format", shown(f.method), other.text()),
        "take the config that belongs to the weights");
  }
  if (!floats.empty()) {
    answer.unknown(fmt::format("{}: weights in FP8, which no rule looks at", floats.text()), "try it");
  }
}

bool has_any(const nlohmann::json& object, std::initializer_list<const char*> keys) {
  return std::any_of(keys.begin(), keys.end(), [&](const char* key) { return object.contains(key); });
}

void settings_keys(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.quantization.is_null()) return;
  const auto want = [&](std::initializer_list<const char*> keys) {
    if (has_any(f.quantization, keys)) return;
    answer.refused(fmt::format("{}: expected the key {}, found none", f.quantization_place, *keys.begin()),
                   "add it; whoever made the checkpoint knows its value");
  };
  if (f.method == "awq") {
    want({"bits", "w_bit"});
    want({"group_size", "q_group_size"});
    want({"zero_point"});
  } else if (f.method == "gptq") {
    want({"bits"});
    want({"group_size"});
    want({"desc_act"});
    want({"sym"});
  } else if (f.method == "compressed-tensors") {
    want({"config_groups"});
  }
}

void awq_version(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "awq") return;
  std::string version = text(f.quantization, "version");
  if (version.empty()) version = text(f.quantization, "format");
  for (char& c : version) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  if (version.empty() || version == "gemm") return;
  if (q.is(Engine::kTransformers)) {
    if (version != "gemv" && version != "gemv_fast" && version != "llm-awq")
      answer.refused(fmt::format("{}: version is {}", f.quantization_place, shown(version)), "use version gemm");
    return;
  }
  answer.refused(fmt::format("{}: expected version gemm, found {}: {} takes every AWQ checkpoint for gemm",
                             f.quantization_place, shown(version), q.name()),
                 "quantize again with version gemm");
}

// Bits and group size that the config says against those of the shapes. mlx-lm takes the shapes.
void sizes_disagree(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "awq" && f.method != "gptq") return;
  if (f.quantization.contains("dynamic") && part(f.quantization, "dynamic").size() > 0) return;  // of its own
  auto bits = whole(f.quantization, "bits");
  if (!bits) bits = whole(f.quantization, "w_bit");
  auto group = whole(f.quantization, "group_size");
  if (!group) group = whole(f.quantization, "q_group_size");
  Names widths;
  Names groups;
  int64_t width_found = 0;
  int64_t group_found = 0;
  for (const auto& [name, m] : f.modules) {
    if (m.stored != WeightForm::kQweight) continue;
    if (bits && m.bits && *m.bits != *bits) {
      if (widths.empty()) width_found = *m.bits;
      widths.add(name);
    }
    const auto found = m.group_size();
    const auto expected = group && *group <= 0 ? m.columns : group;
    if (found && expected && *found != *expected) {
      if (groups.empty()) group_found = *found;
      groups.add(name);
    }
  }
  if (!widths.empty()) {
    answer.refused(fmt::format("{}: bits is {}, but the tensors of {} have {}", f.quantization_place, *bits,
                               widths.text(), width_found),
                   "take the config that belongs to the weights; one width holds for all");
  }
  if (!groups.empty()) {
    answer.refused(fmt::format("{}: group_size is {}, but the tensors of {} have {}", f.quantization_place, *group,
                               groups.text(), group_found),
                   "take the config that belongs to the weights; one group size holds for all");
  }
}

void packages(const Question& q, Answer& answer) {
  const std::string& method = q.facts.method;
  if (method == "awq") answer.note("transformers reads AWQ by the packages gptqmodel and accelerate", "install them");
  if (method == "gptq") answer.note("transformers reads GPTQ by the packages gptqmodel and optimum", "install them");
  if (method == "compressed-tensors")
    answer.note("transformers reads it by the package compressed-tensors, 0.15 or later", "install it");
}

// How transformers skips modules: by a regular expression up to the end of a module's name, or by the end of the name.
void transformers_floats(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.method != "gptq" || !part(f.quantization, "dynamic").is_null() ||
      f.quantization.contains("modules_in_block_to_quantize"))
    return;
  Names floats;
  for (const auto& [name, m] : f.modules) {
    if (!m.quantized() && name.find(".layers.") != std::string::npos) floats.add(name);
  }
  if (floats.empty()) return;
  answer.unknown(fmt::format("{} is stored in floats, and {} names no linears that are left alone", floats.text(),
                             f.quantization_place),
                 "add dynamic or modules_in_block_to_quantize");
}

}  // namespace

std::span<const Rule> scheme_rules() {
  static constexpr Rule kRules[] = {
      {"format", kFolderReaders, "quant_method",
       "vLLM 0.33 layers/quantization/__init__.py; SGLang 0.5.23 layers/quantization/__init__.py; transformers 5.24 "
       "quantizers/auto.py; mlx-lm 0.32.2 utils.py:load_model",
       format},
      {"tensors-of-format", kFolderReaders, "names of the quantized tensors against quant_method",
       "the same loaders; each looks for the tensors of its format by name", tensors_of_format},
      {"quantization-keys", kServers, "keys of quantization_config",
       "vLLM 0.33 auto_awq.py, auto_gptq.py (from_config); SGLang 0.5.23 awq/awq.py, gptq/gptq.py", settings_keys},
      {"awq-version", kFolderReaders, "version of AWQ",
       "vLLM 0.33 auto_awq.py and SGLang 0.5.23 awq/awq.py read no version; mlx-lm 0.32.2 "
       "utils.py:_transform_awq_weights; transformers 5.24 utils/quantization_config.py:AwqConfig",
       awq_version},
      {"sizes-disagree", kServers | Engine::kTransformers, "bits and group_size against the shapes of the tensors",
       "vLLM 0.33 auto_awq.py, auto_gptq.py (create_weights); SGLang 0.5.23 likewise; transformers 5.24 "
       "integrations/awq.py",
       sizes_disagree},
      {"packages", only(Engine::kTransformers), "packages that transformers needs",
       "transformers 5.24 quantizers/quantizer_awq.py, quantizer_gptq.py, quantizer_compressed_tensors.py", packages},
      {"gptq-floats", only(Engine::kTransformers), "linears that GPTQ left in floats",
       "transformers 5.24 quantizers/quantizer_gptq.py (optimum replaces every linear of a block)",
       transformers_floats},
  };
  return kRules;
}

}  // namespace metal_marlin
