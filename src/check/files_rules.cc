// Files that an engine wants, and where it looks for the settings of the quantization.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "check/rule.h"
#include "core/counted.h"

namespace metal_marlin {
namespace {

bool ends_so(const std::string& name, std::string_view end) {
  return name.size() > end.size() && std::string_view(name).substr(name.size() - end.size()) == end;
}

bool is_weight_name(const std::string& name) {
  return ends_so(name, ".safetensors");
}

void config_missing(const Question& q, Answer& answer) {
  if (q.facts.gguf || q.facts.has_config) return;
  answer.refused("config.json: expected the model's config beside the weights, found none that can be read",
                 "take config.json from the original model");
}

void file_damaged(const Question& q, Answer& answer) {
  for (const FileFault& fault : q.facts.faults) {
    const bool config = fault.file.find(".json") != std::string::npos;
    if (fault.unsupported) {
      answer.unknown(fault.reason, "this program cannot read the file, so its tensors are not known");
    } else if (!config || fault.file == "config.json" || fault.file == "model.safetensors.index.json") {
      answer.refused(fault.reason, "fetch or write the file again");
    } else {
      answer.unknown(fault.reason, "repair the file or remove it");
    }
  }
}

void weights_missing(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.gguf) return;
  if (!f.absent_files.empty()) {
    answer.refused(fmt::format("model.safetensors.index.json: expected {} beside it, found {} missing",
                               *f.absent_files.begin(), counted(f.absent_files.size(), "file")),
                   "fetch the missing shards, or write the index anew");
  }
  const bool damaged =
      std::any_of(f.faults.begin(), f.faults.end(), [](const FileFault& fault) { return is_weight_name(fault.file); });
  if (!f.weight_files.empty() || damaged) return;
  const bool others = std::any_of(f.files.begin(), f.files.end(), [](const std::string& name) {
    return ends_so(name, ".bin") || ends_so(name, ".pt") || ends_so(name, ".pth") || ends_so(name, ".gguf");
  });
  if (others) {
    answer.unknown("expected *.safetensors files, found weights in another container, of which no rule is known",
                   "name the .gguf file itself, or take a folder of safetensors");
  } else {
    answer.refused("expected *.safetensors files, found none", "name a folder that holds the weights");
  }
}

// transformers opens model.safetensors, or the index; a glob it has not.
void weights_name(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.gguf || f.weight_files.empty()) return;
  if (q.is(Engine::kTransformers)) {
    if (f.has_file("model.safetensors") || f.has_index) return;
    answer.refused(
        fmt::format("expected model.safetensors or model.safetensors.index.json, found {}",
                    f.weight_files.size() == 1 ? f.weight_files[0] : counted(f.weight_files.size(), "other file")),
        f.weight_files.size() == 1 ? "rename the file to model.safetensors" : "write the index of the shards");
    return;
  }
  const bool any = std::any_of(f.weight_files.begin(), f.weight_files.end(),
                               [](const std::string& name) { return name.rfind("model", 0) == 0; });
  if (!any) {
    answer.refused(fmt::format("expected model*.safetensors, found {}", f.weight_files[0]),
                   "rename the weights to model.safetensors");
  }
}

void tensors_twice(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.twice.empty()) return;
  // With an index, these read its shards alone.
  if (f.has_index && !q.is(Engine::kMlx)) return;
  answer.unknown(fmt::format("{}: expected each tensor in one file, found {} in two, and cannot tell which counts",
                             f.twice[0], counted(f.twice.size(), "tensor")),
                 "move the file that does not belong to the model out of the folder");
}

void tokenizer_missing(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.gguf) return;
  const bool has = f.has_file("tokenizer.json") || f.has_file("tokenizer.model") || f.has_file("tekken.json") ||
                   (f.has_file("vocab.json") && f.has_file("merges.txt")) || f.has_file("tiktoken.model");
  if (!has) {
    const std::string message = "expected tokenizer.json or tokenizer.model beside the weights, found neither";
    const std::string advice = "copy the tokenizer's files from the original model";
    if (q.is(Engine::kTransformers)) {
      answer.note(message + ": the model loads, AutoTokenizer does not", advice);
    } else {
      answer.refused(message, advice);
    }
  } else if (!f.has_file("tokenizer_config.json")) {
    answer.note("expected tokenizer_config.json, found none: chat template and special tokens may be missing",
                "copy it from the original model");
  }
}

// Where the engine finds no settings, it builds a model of floats.
void settings_missing(const Question& q, Answer& answer) {
  const CheckpointFacts& f = q.facts;
  if (f.gguf || !f.has_config || !f.any_quantized()) return;
  const bool separate = f.quantization_place == "quantize_config.json" || f.quantization_place == "quant_config.json";
  if (!f.quantization.is_null() && !separate) return;
  const std::string found = separate ? "found it in " + f.quantization_place + " alone" : "found none";
  std::string message = "config.json: expected quantization_config, since tensors are quantized; " + found;
  if (q.is(Engine::kTransformers)) {
    answer.wrong(message + ": the quantized tensors are left aside and weights are made at random",
                 "copy the settings into config.json as quantization_config");
  } else {
    answer.refused(message, separate && !q.is(Engine::kMlx) ? "copy it into config.json as quantization_config"
                                                            : "write the settings into config.json");
  }
}

void settings_nested(const Question& q, Answer& answer) {
  if (q.facts.quantization_place != "config.json: text_config: quantization_config") return;
  if (q.is(Engine::kVllm)) {
    answer.note("config.json: quantization_config stands in text_config, where this engine finds it", "");
  } else {
    answer.unknown("config.json: expected quantization_config at the top, found it in text_config",
                   "copy it to the top of config.json");
  }
}

constexpr const char* kHub =
    "transformers 5.24 modeling_utils.py, configuration_utils.py; vLLM 0.33 config/model.py; "
    "SGLang 0.5.23 configs/model_config.py; mlx-lm 0.32.2 utils.py:load_config";

}  // namespace

std::span<const Rule> file_rules() {
  static constexpr Rule kRules[] = {
      {"config-missing", kFolderReaders, "config.json", kHub, config_missing},
      {"file-damaged", kFolderReaders | Engine::kLlamaCpp, "whether each file can be read",
       "safetensors 0.8 (40 files, read by the reference package); llama.cpp src/llama-model-loader.cpp, "
       "ggml/src/gguf.cpp "
       "as in llama-cpp-python 0.3.36",
       file_damaged},
      {"weights-missing", kFolderReaders, "shards that the index names", kHub, weights_missing},
      {"weights-name", Engine::kTransformers | Engine::kMlx, "names of the weight files",
       "transformers 5.24 modeling_utils.py:_get_resolved_checkpoint_files; mlx-lm 0.32.2 utils.py:load_model",
       weights_name},
      {"tensors-twice", kFolderReaders, "tensors that two files hold",
       "vLLM 0.33 model_loader/weight_utils.py:filter_duplicate_safetensors_files; mlx-lm 0.32.2 utils.py:load_model",
       tensors_twice},
      {"tokenizer-missing", kFolderReaders, "files of the tokenizer",
       "transformers 5.24 models/auto/tokenization_auto.py, which all four call", tokenizer_missing},
      {"quantization-config-missing", kFolderReaders, "quantization_config beside quantized tensors",
       "vLLM 0.33 config/model.py:_verify_quantization; SGLang 0.5.23 configs/model_config.py; transformers 5.24 "
       "quantizers/auto.py; mlx-lm 0.32.2 utils.py:load_model",
       settings_missing},
      {"quantization-config-nested", kFolderReaders, "quantization_config inside text_config",
       "vLLM 0.33 model_executor/model_loader/weight_utils.py:get_quant_config, "
       "transformers_utils/model_arch_config_convertor.py",
       settings_nested},
  };
  return kRules;
}

}  // namespace metal_marlin
