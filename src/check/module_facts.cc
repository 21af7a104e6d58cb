// Which tensors make which module, and what their shapes say of bits and groups.
#include <algorithm>

#include "check/facts.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

bool cut(const std::string& name, std::string_view end, std::string& module) {
  if (name.size() <= end.size() || std::string_view(name).substr(name.size() - end.size()) != end) return false;
  module = name.substr(0, name.size() - end.size());
  return true;
}

const TensorFact* find(const CheckpointFacts& facts, const std::string& name) {
  const auto it = facts.tensors.find(name);
  return it == facts.tensors.end() ? nullptr : &it->second;
}

std::optional<int64_t> dimension(const TensorFact* tensor, size_t i) {
  if (tensor == nullptr || tensor->shape.size() != 2) return std::nullopt;
  return tensor->shape[i];
}

// words * 32 / values, where that is whole.
std::optional<int64_t> width(std::optional<int64_t> words, std::optional<int64_t> values) {
  constexpr int64_t kMost = int64_t{1} << 50;
  if (!words || !values || *values <= 0 || *words <= 0 || *words > kMost || *values > kMost) return std::nullopt;
  const int64_t bits = *words * 32 / *values;
  // The last word of a row may be padded.
  return bits >= 1 && bits <= 32 && (*values * bits + 31) / 32 == *words ? std::optional(bits) : std::nullopt;
}

std::optional<int64_t> values_of(std::optional<int64_t> words, std::optional<int64_t> bits) {
  if (!words || !bits || *bits <= 0 || *words > (int64_t{1} << 50) || *words * 32 % *bits != 0) return std::nullopt;
  return *words * 32 / *bits;
}

void read_qweight(const CheckpointFacts& facts, const TensorFact& codes, ModuleFact& m) {
  m.stored = WeightForm::kQweight;
  const TensorFact* scales = find(facts, m.name + ".scales");
  const TensorFact* index = find(facts, m.name + ".g_idx");
  m.zeros = find(facts, m.name + ".qzeros") != nullptr;
  m.group_index = index != nullptr;
  m.groups = dimension(scales, 0);
  m.rows = dimension(scales, 1);
  if (scales != nullptr) m.scale_type = scales->dtype;
  const auto first = dimension(&codes, 0);
  const auto second = dimension(&codes, 1);
  if (facts.method == "awq") {  // gemm: [in, out * bits / 32]
    m.columns = first;
    m.bits = width(second, m.rows);
  } else {  // [in * bits / 32, out]
    m.columns = index != nullptr && index->shape.size() == 1 ? std::optional(index->shape[0])
                                                             : values_of(first, whole(facts.quantization, "bits"));
    m.bits = width(first, m.columns);
  }
}

void read_packed(const CheckpointFacts& facts, const TensorFact& codes, ModuleFact& m) {
  m.stored = WeightForm::kPacked;
  const TensorFact* scales = find(facts, m.name + ".weight_scale");
  m.zeros = find(facts, m.name + ".weight_zero_point") != nullptr;
  m.group_index = find(facts, m.name + ".weight_g_idx") != nullptr;
  m.groups = dimension(scales, 1);
  if (scales != nullptr) m.scale_type = scales->dtype;
  if (!m.rows) m.rows = dimension(&codes, 0);
  m.bits = width(dimension(&codes, 1), m.columns);
}

void read_mlx(const CheckpointFacts& facts, const TensorFact& codes, const TensorFact& scales, ModuleFact& m) {
  m.stored = WeightForm::kMlx;
  m.rows = dimension(&codes, 0);
  m.groups = dimension(&scales, 1);
  m.scale_type = scales.dtype;
  m.zeros = find(facts, m.name + ".biases") != nullptr;
  const json& own = part(facts.quantization, m.name.c_str());
  m.bits = whole(own, "bits");
  auto group = whole(own, "group_size");
  if (!m.bits) m.bits = whole(facts.quantization, "bits");
  if (!group) group = whole(facts.quantization, "group_size");
  m.columns = values_of(dimension(&codes, 1), m.bits);
}

void read_native(const CheckpointFacts& facts, const TensorFact& codes, ModuleFact& m) {
  m.stored = WeightForm::kNative;
  const TensorFact* scales = find(facts, m.name + ".weight.scales");
  m.rows = dimension(&codes, 1);
  m.groups = dimension(scales, 0);
  if (scales != nullptr) m.scale_type = scales->dtype;
}

ModuleFact& module_of(CheckpointFacts& facts, const std::string& module, const TensorFact& tensor) {
  ModuleFact& m = facts.modules[module];
  m.name = module;
  m.file = tensor.file;
  m.codes_shape = tensor.shape;
  return m;
}

void read_weight(CheckpointFacts& facts, const std::string& module, const TensorFact& tensor) {
  if (tensor.shape.size() != 2) return;
  const bool words = tensor.dtype == "U32" || tensor.dtype == "I32";
  const TensorFact* scales = find(facts, module + ".scales");
  ModuleFact& m = module_of(facts, module, tensor);
  if (words && scales != nullptr) {
    read_mlx(facts, tensor, *scales, m);
  } else if (words && find(facts, module + ".weight.scales") != nullptr) {
    read_native(facts, tensor, m);
  } else if (tensor.dtype.rfind("F8_", 0) == 0) {
    m.stored = WeightForm::kFloat8;
    m.rows = tensor.shape[0];
    m.columns = tensor.shape[1];
  } else {
    m.rows = tensor.shape[0];
    m.columns = tensor.shape[1];
  }
}

std::string format_of(const CheckpointFacts& facts) {
  if (facts.method == "metal_marlin") return "native";
  if (facts.method == "gptq") {
    const std::string version = text(facts.quantization, "checkpoint_format");
    return version == "gptq_v2" || version == "marlin" ? version : "gptq";
  }
  if (!facts.method.empty()) return facts.method;
  return facts.any_quantized() ? "unnamed" : facts.tensors.empty() ? "none" : "float";
}

}  // namespace

void find_modules(CheckpointFacts& facts) {
  std::string module;
  for (const auto& [name, tensor] : facts.tensors) {
    if (cut(name, ".qweight", module)) {
      read_qweight(facts, tensor, module_of(facts, module, tensor));
    } else if (cut(name, ".weight_packed", module)) {
      read_packed(facts, tensor, module_of(facts, module, tensor));
    } else if (cut(name, ".B", module) && find(facts, module + ".s") != nullptr) {
      module_of(facts, module, tensor).stored = WeightForm::kMarlin;
    } else if (cut(name, ".weight", module)) {
      read_weight(facts, module, tensor);
    }
  }
  // Notes on tensors whose codes are not there make no module.
  std::erase_if(facts.modules, [](const auto& m) { return m.second.name.empty(); });
  facts.format = format_of(facts);
}

}  // namespace metal_marlin
