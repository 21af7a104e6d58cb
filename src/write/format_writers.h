// The two formats of CheckpointWriter.
#pragma once

#include "write/checkpoint_writer.h"

namespace metal_marlin {

// Native format, version 1 (pack/native.h): model.awq.safetensors with "metal_marlin.*" metadata. Other tensors keep
// their type. Groups may differ between linears.
class NativeWriter : public CheckpointWriter {
 public:
  const char* format() const noexcept override { return "native"; }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size) const override;

 protected:
  std::vector<TensorInfo> parts(const QuantizedLinear& linear) const override;
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override;
  DType kept_type(DType stored) const override { return stored; }
  std::string weights_suffix() const override { return ".awq.safetensors"; }
  std::map<std::string, std::string> metadata(const CheckpointPlan& plan) const override;
  void check(const CheckpointPlan& plan) const override;
  void configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override;
};

// AWQ gemm (pack/awq_gemm.h): model.safetensors, every float tensor in float16, one group size.
class AwqWriter : public CheckpointWriter {
 public:
  const char* format() const noexcept override { return "awq"; }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size) const override;

 protected:
  std::vector<TensorInfo> parts(const QuantizedLinear& linear) const override;
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override;
  DType kept_type(DType) const override { return DType::kF16; }
  std::string weights_suffix() const override { return ".safetensors"; }
  std::map<std::string, std::string> metadata(const CheckpointPlan& plan) const override;
  void check(const CheckpointPlan& plan) const override;
  void configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override;
};

}  // namespace metal_marlin
