// A small Llama in layouts that are only read, packed one value at a time by the formulas of docs/formats.md.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/packed_model.h"
#include "core/half.h"

namespace metal_marlin::test {

template <typename T>
OwnedTensor tensor_of(const std::string& name, DType type, const std::vector<int64_t>& shape,
                      const std::vector<T>& values) {
  OwnedTensor t{name, type, shape, Buffer(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
  return t;
}

struct ForeignModel : PackedModel {
  static constexpr int64_t kGroup = 32;
  using Pack = PackedTensor (*)(const QuantizedTensor&);

  // Every linear but up is stored as `pack` makes it.
  ForeignModel(const nlohmann::json& quantization, Pack pack) {
    config["hidden_size"] = 64;
    config["intermediate_size"] = 128;
    if (!quantization.is_null()) config["quantization_config"] = quantization;
    metadata = {{"format", "pt"}};
    for (const auto& [name, shape] : shapes()) {
      if (!is_linear(name) || name.find("up_proj") != std::string::npos) {
        tensors.push_back(f32_tensor(name, shape));
        continue;
      }
      QuantizedTensor q = random_codes(name, shape, kGroup);
      PackedTensor packed = pack(q);
      add(name, std::move(q), std::move(packed));
    }
  }
  static Shapes shapes() {
    Shapes out;
    for (auto [name, shape] : small_shapes()) {
      for (int64_t& d : shape) d = d == 16 ? 64 : d == 24 ? 128 : d == 8 ? 32 : d;
      out.emplace(name, shape);
    }
    return out;
  }
};

inline uint8_t code_at(const QuantizedTensor& q, int64_t n, int64_t k) {
  return q.codes[static_cast<size_t>(n * q.in_features + k)];
}
inline size_t group_at(const QuantizedTensor& q, int64_t n, int64_t j) {
  return static_cast<size_t>(n * q.groups() + j);
}

inline PackedTensor pack_gemv(const QuantizedTensor& q) {
  constexpr int64_t kZ = 4;  // of groups of 32, up to 32 of them
  const int64_t N = q.out_features;
  const int64_t K = q.in_features;
  std::vector<uint32_t> words(static_cast<size_t>(N * K / 8));
  std::vector<uint32_t> zeros(static_cast<size_t>(N * kZ));
  std::vector<uint16_t> scales(static_cast<size_t>(N * kZ * 8));
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k)
      words[static_cast<size_t>((n * K + k) / 8)] |= uint32_t{code_at(q, n, k)} << 4 * (k % 8);
    for (int64_t j = 0; j < q.groups(); ++j) {
      zeros[static_cast<size_t>(n * kZ + j / 8)] |= uint32_t{q.zeros[group_at(q, n, j)]} << 4 * (j % 8);
      scales[static_cast<size_t>(n * kZ * 8 + j)] = q.scales[group_at(q, n, j)];
    }
  }
  PackedTensor p;
  p.parts.push_back(tensor_of("qweight", DType::kI32, {N, K / 8}, words));
  p.parts.push_back(tensor_of("qzeros", DType::kI32, {N, kZ}, zeros));
  p.parts.push_back(tensor_of("scales", DType::kF16, {N, kZ * 8}, scales));
  return p;
}

inline PackedTensor pack_gemv_fast(const QuantizedTensor& q) {
  constexpr int64_t kRows = 32;  // of scales, 8 Z
  const int64_t N = q.out_features;
  const int64_t K = q.in_features;
  std::vector<uint16_t> halves(static_cast<size_t>(N * K / 4));
  for (int64_t r = 0; r < N / 4; ++r) {
    for (int64_t b = 0; b < K / 64; ++b) {
      for (int64_t p = 0; p < 64; ++p) {
        for (int64_t t = 0; t < 4; ++t) {
          const uint8_t code = code_at(q, 4 * r + p / 16, 64 * b + 32 * (p / 8 % 2) + 8 * t + p % 8);
          halves[static_cast<size_t>(r * K + 64 * b + p)] |= static_cast<uint16_t>(code << 4 * t);
        }
      }
    }
  }
  std::vector<uint16_t> scales(static_cast<size_t>(kRows * N));
  std::vector<uint16_t> zeros(scales.size());
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t j = 0; j < q.groups(); ++j) {
      const size_t at = group_at(q, n, j);
      scales[static_cast<size_t>(j * N + n)] = q.scales[at];
      zeros[static_cast<size_t>(j * N + n)] = f32_to_f16(-f16_to_f32(q.scales[at]) * static_cast<float>(q.zeros[at]));
    }
  }
  PackedTensor p;
  p.parts.push_back(tensor_of("qweight", DType::kI16, {N / 4, K}, halves));
  p.parts.push_back(tensor_of("qzeros", DType::kF16, {kRows, N}, zeros));
  p.parts.push_back(tensor_of("scales", DType::kF16, {kRows, N}, scales));
  return p;
}

inline PackedTensor pack_llm_awq(const QuantizedTensor& q) {
  PackedTensor p = pack_gemv_fast(q);
  p.parts[1].name = "scaled_zeros";
  return p;
}

// 4 bits, zeros half a code off where `q` says so.
inline PackedTensor pack_hqq(const QuantizedTensor& q) {
  const int64_t groups = q.out_features * q.groups();
  std::vector<uint8_t> bytes(q.codes.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<uint8_t>(q.codes[i] << 4 | q.codes[i + bytes.size()]);
  std::vector<uint16_t> zeros;
  for (const uint8_t z : q.zeros) zeros.push_back(f32_to_f16(static_cast<float>(z)));
  PackedTensor p;
  p.parts.push_back(tensor_of("W_q", DType::kU8, {groups / 2, q.group_size}, bytes));
  p.parts.push_back(tensor_of("scale", DType::kF16, {groups, 1}, q.scales));
  p.parts.push_back(tensor_of("zero", DType::kF16, {groups, 1}, zeros));
  p.parts.push_back(tensor_of<int64_t>("shape", DType::kI64, {2}, {q.out_features, q.in_features}));
  p.parts.push_back(tensor_of<int32_t>("nbits", DType::kI32, {}, {4}));
  p.parts.push_back(tensor_of<int32_t>("group_size", DType::kI32, {}, {static_cast<int32_t>(q.group_size)}));
  p.parts.push_back(tensor_of<int32_t>("axis", DType::kI32, {}, {1}));
  p.parts.push_back(tensor_of<uint8_t>("packing", DType::kU8, {7}, {'4', 'b', 'i', 't', '_', 'u', '8'}));
  for (const char* flag : {"channel_wise", "encoded_state_dict", "stores_quant_config"})
    p.parts.push_back(tensor_of<uint8_t>(flag, DType::kU8, {}, {1}));
  for (const char* flag : {"quant_scale", "quant_zero", "view_as_float", "offload_meta", "round_zero"})
    p.parts.push_back(tensor_of<uint8_t>(flag, DType::kU8, {}, {0}));
  return p;
}

// Codes and zeros less 8 as signed bytes.
inline PackedTensor pack_bytes(const QuantizedTensor& q) {
  const auto bytes = [](const std::vector<uint8_t>& codes) {
    std::vector<int8_t> out;
    for (const uint8_t code : codes) out.push_back(static_cast<int8_t>(code - 8));
    return out;
  };
  PackedTensor p;
  p.parts.push_back(tensor_of("weight", DType::kI8, {q.out_features, q.in_features}, bytes(q.codes)));
  p.parts.push_back(tensor_of("weight_scale", DType::kF16, {q.out_features, q.groups()}, q.scales));
  p.parts.push_back(tensor_of("weight_zero_point", DType::kI8, {q.out_features, q.groups()}, bytes(q.zeros)));
  p.parts.push_back(tensor_of<float>("input_scale", DType::kF32, {1}, {0.5F}));
  return p;
}

inline nlohmann::json awq_config(const std::string& version) {
  return {{"quant_method", "awq"}, {"version", version}, {"bits", 4}, {"group_size", ForeignModel::kGroup}};
}
inline nlohmann::json hqq_config() {
  return {{"quant_method", "hqq"},
          {"quant_config",
           {{"weight_quant_params", {{"nbits", 4}, {"group_size", ForeignModel::kGroup}, {"axis", 1}}},
            {"scale_quant_params", nullptr},
            {"zero_quant_params", nullptr}}},
          {"skip_modules", {"lm_head"}}};
}
inline nlohmann::json bytes_config(const std::string& format = "int-quantized") {
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"weights",
               {{"num_bits", 8},
                {"type", "int"},
                {"strategy", "group"},
                {"symmetric", false},
                {"group_size", ForeignModel::kGroup}}}}}}}};
}

}  // namespace metal_marlin::test
