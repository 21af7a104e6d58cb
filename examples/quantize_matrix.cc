// Quantizes one weight for the inputs that it gets, by each method.
#include <metal_marlin/metal_marlin.h>

#include <iostream>
#include <random>
#include <utility>
#include <vector>

int main() try {
  using metal_marlin::Method;
  constexpr int64_t kOut = 256, kIn = 512, kTokens = 2048;
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::vector<float> weight(kOut * kIn);
  std::vector<float> inputs(kTokens * kIn);
  for (float& w : weight) w = 0.05f * normal(random);
  // Some channels are much stronger than the others.
  for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = normal(random) * (i % kIn % 50 == 0 ? 20.0f : 1.0f);

  for (const auto& [name, method] : {std::pair{"rtn", Method::kRtn}, {"gptq", Method::kGptq}, {"awq", Method::kAwq}}) {
    metal_marlin::MatrixOptions options;
    options.method = method;
    const metal_marlin::QuantizedMatrix result = metal_marlin::quantize_matrix(
        metal_marlin::ArrayView(weight, {kOut, kIn}), metal_marlin::ArrayView(inputs, {kTokens, kIn}), options);
    const metal_marlin::Array values = result.dequantize();  // float32 [kOut, kIn]
    std::cout << name << ": output error " << result.output_error.value() << ", first weight " << weight[0] << " -> "
              << values.as<float>()[0] << '\n';
  }
} catch (const metal_marlin::Error& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
