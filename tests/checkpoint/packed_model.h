// A small Llama whose linears are codes, for the tests that read layouts.
#pragma once

#include <cmath>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/models.h"
#include "core/half.h"
#include "pack/packed_tensor.h"

namespace metal_marlin::test {

// Asymmetric codes of 4 bits that follow from the name alone; zeros of at least `least_zero`.
inline QuantizedTensor random_codes(const std::string& name, const std::vector<int64_t>& shape, int64_t group_size,
                                    uint8_t least_zero = 0) {
  QuantizedTensor q{
      .out_features = shape[0], .in_features = shape[1], .group_size = group_size, .bits = 4, .symmetric = false};
  const int64_t weights = shape[0] * shape[1];
  const auto noise = small_values(name, weights * 2);
  const auto code = [&](int64_t i) { return static_cast<uint8_t>(std::fabs(noise[static_cast<size_t>(i)]) * 15.99F); };
  for (int64_t i = 0; i < weights; ++i) q.codes.push_back(code(i));
  for (int64_t i = 0; i < shape[0] * q.groups(); ++i) {
    q.scales.push_back(f32_to_f16(noise[static_cast<size_t>(i)]));
    q.zeros.push_back(std::max(least_zero, code(weights + i)));
  }
  return q;
}

// The config and the tensors of a folder, to be changed before it is written.
struct PackedModel {
  nlohmann::json config = small_config();
  std::vector<OwnedTensor> tensors;
  std::map<std::string, QuantizedTensor> codes;  // by the name of the weight
  std::map<std::string, std::string> metadata = {{"metal_marlin.nibble_offset", "8"}};

  static bool is_linear(const std::string& name) { return name.find("_proj.") != std::string::npos; }

  void add(const std::string& name, QuantizedTensor q, PackedTensor packed) {
    for (OwnedTensor& part : packed.parts) {
      part.name = name.substr(0, name.size() - 6) + part.name;  // without "weight"
      tensors.push_back(std::move(part));
    }
    codes.emplace(name, std::move(q));
  }
  OwnedTensor& at(const std::string& name) {
    for (OwnedTensor& t : tensors) {
      if (t.name == name) return t;
    }
    throw std::runtime_error(name);
  }
  void erase(const std::string& name) {
    std::erase_if(tensors, [&](const OwnedTensor& t) { return t.name == name; });
  }
  std::unique_ptr<ModelSource> open(const TemporaryFolder& folder) const {
    folder.write("config.json", config.dump());
    std::vector<TensorView> views;
    for (const OwnedTensor& t : tensors) views.push_back(t.view());
    write_safetensors(folder.path("model.safetensors"), views, metadata);
    return ModelSource::open(folder.path(""));
  }
};

}  // namespace metal_marlin::test
