// The formats of CheckpointWriter.
#pragma once

#include "pack/gptq.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

// What a file in the native format says of itself, and the parts of a linear in it: of NativeWriter, and of the files
// of awq_quantize_model, which have no config. stored_scales: the scales of input channels are stored beside the codes,
// because no module before takes them up.
std::map<std::string, std::string> native_metadata(const CheckpointPlan& plan, bool stored_scales = false);
std::vector<TensorInfo> native_parts(const QuantizedLinear& linear, bool stored_scale = false);

// Native format (pack/native.h): model.awq.safetensors with "metal_marlin.*" metadata, version 1 where every linear has
// 4 bits, else 2. Other tensors keep their type. Groups and bits may differ between linears.
class NativeWriter : public CheckpointWriter {
 public:
  const char* format() const noexcept override { return "native"; }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int bits) const override;
  std::span<const int> widths() const noexcept override;

 protected:
  std::vector<TensorInfo> parts(const QuantizedLinear& linear) const override { return native_parts(linear); }
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override;
  DType kept_type(DType stored, const CheckpointPlan&) const override { return stored; }
  std::string weights_suffix() const override { return ".awq.safetensors"; }
  std::map<std::string, std::string> metadata(const CheckpointPlan& plan) const override {
    return native_metadata(plan);
  }
  void check(const CheckpointPlan& plan) const override;
  void configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override;
};

// AWQ gemm (pack/awq_gemm.h): model.safetensors, every float tensor in float16, one group size.
class AwqWriter : public CheckpointWriter {
 public:
  const char* format() const noexcept override { return "awq"; }
  bool one_grid() const noexcept override { return true; }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int bits) const override;
  std::span<const int> widths() const noexcept override;

 protected:
  std::vector<TensorInfo> parts(const QuantizedLinear& linear) const override;
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override;
  DType kept_type(DType, const CheckpointPlan&) const override { return DType::kF16; }
  std::string weights_suffix() const override { return ".safetensors"; }
  std::map<std::string, std::string> metadata(const CheckpointPlan& plan) const override;
  void check(const CheckpointPlan& plan) const override;
  void configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override;
};

// GPTQ version 1 or 2 (pack/gptq.h): model.safetensors, every float tensor in float16 (unless the plan keeps types),
// quantize_config.json beside config.json; other bits and group sizes than the plan's in "dynamic".
class GptqWriter : public CheckpointWriter {
 public:
  explicit GptqWriter(GptqVersion version) : version_(version) {}
  const char* format() const noexcept override { return version_ == GptqVersion::kV1 ? "gptq" : "gptq_v2"; }
  int64_t least_group() const noexcept override { return 32; }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int bits) const override;
  std::span<const int> widths() const noexcept override;
  int least_zero() const noexcept override { return version_ == GptqVersion::kV1 ? 1 : 0; }

 protected:
  std::vector<TensorInfo> parts(const QuantizedLinear& linear) const override;
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override;
  DType kept_type(DType stored, const CheckpointPlan& plan) const override;
  std::string weights_suffix() const override { return ".safetensors"; }
  std::map<std::string, std::string> metadata(const CheckpointPlan& plan) const override;
  void check(const CheckpointPlan& plan) const override;
  void configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override;
  std::map<std::string, std::string> more_files(const nlohmann::json& config) const override;

 private:
  GptqVersion version_;
};

// Marlin of IST-DASLab (pack/marlin.h): model.safetensors, every float tensor in float16, symmetric.
class MarlinWriter : public CheckpointWriter {
 public:
  const char* format() const noexcept override { return "marlin"; }
  bool one_grid() const noexcept override { return true; }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int bits) const override;
  std::span<const int> widths() const noexcept override;
  std::string refusal_of(const Grid& grid) const override;

 protected:
  std::vector<TensorInfo> parts(const QuantizedLinear& linear) const override;
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override;
  DType kept_type(DType, const CheckpointPlan&) const override { return DType::kF16; }
  std::string weights_suffix() const override { return ".safetensors"; }
  std::map<std::string, std::string> metadata(const CheckpointPlan& plan) const override;
  void check(const CheckpointPlan& plan) const override;
  void configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override;
  std::map<std::string, std::string> more_files(const nlohmann::json& config) const override;
};

// A full-precision checkpoint: model.safetensors, every float tensor in float16, no codes. Only `convert` uses it.
class F16Writer : public CheckpointWriter {
 public:
  const char* format() const noexcept override { return "f16"; }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int bits) const override;
  std::span<const int> widths() const noexcept override;

 protected:
  std::vector<TensorInfo> parts(const QuantizedLinear& linear) const override;
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override;
  DType kept_type(DType, const CheckpointPlan&) const override { return DType::kF16; }
  std::string weights_suffix() const override { return ".safetensors"; }
  std::map<std::string, std::string> metadata(const CheckpointPlan& plan) const override;
  void check(const CheckpointPlan& plan) const override;
  void configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override;
};

// Throws ArgumentError naming the first linear whose groups or bits are not the plan's. `what` is e.g. "an AWQ
// checkpoint".
void require_one_grid(const CheckpointPlan& plan, const char* what);
// Sets the model's type in the config to float16, in which the scales are stored: engines allocate them in that type.
void set_model_type_f16(nlohmann::json& config);

}  // namespace metal_marlin
