// A random two-layer Llama on disk, made by the tests of the writers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin::test {

// A fresh folder below the system's temporary one, removed at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  std::string path() const { return path_.string(); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline constexpr int64_t kHidden = 256;
inline constexpr int64_t kIntermediate = 64;
inline constexpr int64_t kKv = 32;
inline constexpr int64_t kVocab = 40;
inline constexpr int64_t kLayers = 2;

// Writes config.json, model.safetensors, tokenizer_config.json. Embedding and head BF16, norms F32, linears F16.
// `replace`: tensors with other content.
void write_tiny_model(const std::string& folder, const std::map<std::string, std::vector<float>>& replace = {});
std::vector<std::string> tiny_linears();  // weight names
std::vector<int64_t> tiny_shape(const std::string& name);

// Random codes for the plan's linears, `folded` norms; deterministic in the name.
class TinyProvider : public TensorProvider {
 public:
  explicit TinyProvider(const CheckpointPlan& plan) : plan_(plan) {}
  QuantizedTensor quantized(const std::string& name) override;
  OwnedTensor changed(const std::string& name) override;
  std::map<std::string, QuantizedTensor> instead;  // delivered for a name in place of random codes
  std::map<std::string, int> asked;
  std::string fail_at;  // throws Interrupted when this linear is asked for

 private:
  CheckpointPlan plan_;
};

// All linears but `skip`.
CheckpointPlan tiny_plan(int64_t group_size, bool symmetric, const std::vector<std::string>& skip = {});
std::vector<std::string> names_in(const std::string& folder);

}  // namespace metal_marlin::test
