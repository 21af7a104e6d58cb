// GPTQ by a Hessian: what tests/test_gptq.py does not reach (strides, threads, the observer).
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>

#include <cmath>
#include <optional>
#include <vector>

#include "arrays/random_array.h"
#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"

namespace metal_marlin {
namespace {

TEST(GptqLayer, HessianOfStridedInputs) {
  const int64_t tokens = 600, k = 300;
  const Array x = normal({tokens, k}, 1, 1);
  const Array h = compute_hessian(x.view());
  ASSERT_EQ(h.shape, (std::vector<int64_t>{k, k}));
  for (const auto& [i, j] : {std::pair<int64_t, int64_t>{0, 0}, {3, 299}, {270, 10}, {256, 255}}) {
    double sum = 0;
    for (int64_t t = 0; t < tokens; ++t) sum += 2.0 * x.as<float>()[t * k + i] * x.as<float>()[t * k + j];
    EXPECT_NEAR(h.as<double>()[i * k + j], sum / tokens, 1e-12);
  }
  // Columns reversed: H reversed in both.
  const ArrayView reversed{x.as<float>() + k - 1, ElementType::kF32, {tokens, k}, {k, -1}};
  const Array r = compute_hessian(reversed);
  for (int64_t i = 0; i < k; ++i)
    EXPECT_NEAR(r.as<double>()[i * k + 5], h.as<double>()[(k - 1 - i) * k + k - 6], 1e-12);
}

TEST(GptqLayer, PacksWhatItRestores) {
  const Array w = normal({70, 90}, 0.1, 2);
  const Array h = compute_hessian(normal({400, 90}, 1, 3).view());
  for (const bool sym : {true, false}) {
    const GPTQResult r = GPTQQuantizer(4, 32, sym).quantize_weight(w.view(), h.view());
    const auto zeros = sym ? std::nullopt : std::optional(r.zeros.view());
    const PackedGPTQ p = pack_gptq_int4(r.Q.view(), r.scales.view(), zeros, 32, r.perm);
    for (int64_t j = 0; j < 90; ++j) {
      const int64_t column = r.perm[static_cast<size_t>(j)];
      for (int64_t n = 0; n < 70; ++n) {
        const auto code = static_cast<float>(p.packed.as<uint32_t>()[n * 12 + column / 8] >> (4 * (column % 8)) & 15u);
        const int64_t at = j / 32 * 70 + n;
        const float value =
            (code - 8 - f16_to_f32(p.zeros.as<uint16_t>()[at])) * f16_to_f32(p.scales.as<uint16_t>()[at]);
        ASSERT_EQ(value, r.Q.as<float>()[n * 90 + column]) << n << " " << column;
      }
    }
    EXPECT_THROW(pack_gptq_int4(r.Q.view(), r.scales.view(), zeros, 32), ArgumentError);
  }
}

TEST(GptqLayer, DoesNotDependOnThreadsAndStopsWhenAsked) {
  const Array w = normal({130, 64}, 0.1, 4);
  const Array h = compute_hessian(normal({200, 64}, 1, 5).view());
  std::optional<ThreadCount> thread_count;
  thread_count.emplace(1);
  const GPTQResult one = quantize_layer_gptq(w.view(), h.view(), 3, -1, false);
  thread_count.emplace(3);
  const GPTQResult three = quantize_layer_gptq(w.view(), h.view(), 3, -1, false);
  thread_count.reset();
  EXPECT_EQ(one.Q.bytes, three.Q.bytes);
  EXPECT_EQ(one.total_error, three.total_error);
  Observer observer;
  observer.on_progress = [](const Progress&) { return false; };
  EXPECT_THROW(quantize_layer_gptq(w.view(), h.view(), 4, 32, true, true, 0.01, observer), Interrupted);
  EXPECT_THROW(compare_gptq_vs_rtn(w.view(), h.view(), 4, 32, observer), Interrupted);
}

}  // namespace
}  // namespace metal_marlin
