// The unpackers of every layout: any types, shapes and bytes give a tensor on its grid, or an Error. What is read packs
// again to the same codes.
#include <fuzzer/FuzzedDataProvider.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <optional>

#include "core/values.h"
#include "fuzz_input.h"
#include "fuzz_tensors.h"
#include "pack/awq_gemm.h"
#include "pack/gptq.h"
#include "pack/marlin.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

constexpr int64_t kGroups[] = {-1, 8, 16, 32, 64, 128, 1, 0, 3, 1 << 20};
constexpr int kBits[] = {4, 3, 8, 4, 2, 5};

void check(const QuantizedTensor& q, const QuantizedTensor& again) {
  fuzz::require(q.codes == again.codes && q.zeros == again.zeros && q.scales == again.scales,
                "what is packed again is read again");
}

TensorView part(const PackedTensor& packed, const char* name) {
  return packed.find(name)->view();
}

}  // namespace
}  // namespace metal_marlin

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  FuzzedDataProvider input(data, size);
  const int layout = input.ConsumeIntegralInRange(0, 4);
  const int bits = input.PickValueInArray(kBits);
  const int64_t group =
      input.ConsumeIntegralInRange(0, 7) == 0 ? input.ConsumeIntegral<int64_t>() : input.PickValueInArray(kGroups);
  const int64_t in = input.ConsumeIntegralInRange<int64_t>(0, 40) * (int64_t{1} << input.ConsumeIntegralInRange(0, 4));
  const int64_t out = input.ConsumeIntegralInRange<int64_t>(0, 40) * (int64_t{1} << input.ConsumeIntegralInRange(0, 4));
  const int64_t groups = group > 0 ? std::max<int64_t>(1, in / group + (in % group != 0 ? 1 : 0)) : 1;
  const Codes codes = input.ConsumeIntegralInRange(0, 3) == 0 ? Codes::kSkip : Codes::kRead;
  const auto version = layout == 1 ? GptqVersion::kV1 : GptqVersion::kV2;
  fuzz::Tensors tensors(input);
  try {
    QuantizedTensor q;
    switch (layout) {
      case 0: {
        const TensorView c = tensors.make(DType::kI32, in, out / 8);
        const TensorView z = tensors.make(DType::kI32, groups, out / 8);
        q = unpack_awq_gemm(c, z, tensors.make(DType::kF16, groups, out), group, "fuzz", codes);
        break;
      }
      case 1:
      case 2: {
        const TensorView c = tensors.make(DType::kI32, in * bits / 32, out);
        const TensorView z = tensors.make(DType::kI32, groups, out * bits / 32);
        const TensorView s = tensors.make(DType::kF16, groups, out);
        const TensorView g_idx = tensors.make(DType::kI32, in);
        q = unpack_gptq(c, z, s, input.ConsumeBool() ? &g_idx : nullptr, group, version, "fuzz", codes, bits);
        break;
      }
      case 3: {
        const TensorView c = tensors.make(DType::kI32, in / 16, out * 2);
        q = unpack_marlin(c, tensors.make(DType::kF16, groups, out), group, "fuzz", codes);
        break;
      }
      default: {
        const TensorView c = tensors.make(DType::kU32, in * bits / 32, out);
        const TensorView s = tensors.make(DType::kF16, groups, out);
        q = unpack_native(c, s, tensors.make(DType::kF16, groups, out), group, "fuzz", codes, bits);
      }
    }
    if (codes == Codes::kSkip || q.codes.empty()) return 0;
    try {
      validate(q, "fuzz");
    } catch (const Error&) {
      fuzz::require(false, "what is read lies on its grid");
    }
    std::vector<float> row(static_cast<size_t>(q.in_features));
    dequantize_rows(q, q.out_features - 1, 1, row.data());
    switch (layout) {
      case 0: {
        const PackedTensor p = pack_awq_gemm(q, "fuzz");
        check(q, unpack_awq_gemm(part(p, "qweight"), part(p, "qzeros"), part(p, "scales"), group, "fuzz"));
        break;
      }
      case 1:
      case 2: {
        const PackedTensor p = pack_gptq(q, "fuzz", version);
        const TensorView g_idx = part(p, "g_idx");
        check(q, unpack_gptq(part(p, "qweight"), part(p, "qzeros"), part(p, "scales"), &g_idx, group, version, "fuzz",
                             Codes::kRead, bits));
        break;
      }
      case 3: {
        const PackedTensor p = pack_marlin(q, "fuzz");
        check(q, unpack_marlin(part(p, "B"), part(p, "s"), group, "fuzz"));
        break;
      }
      default: {
        const PackedTensor p = pack_native(q, "fuzz");
        check(q, unpack_native(part(p, "weight"), part(p, "weight.scales"), part(p, "weight.zeros"), group, "fuzz",
                               Codes::kRead, bits));
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
