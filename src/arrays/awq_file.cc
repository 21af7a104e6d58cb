#include <fmt/format.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "core/border.h"
#include "core/threads.h"
#include "formats/safetensors.h"
#include "pack/group_arrays.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

Array array_of(const TensorView& t, ElementType type) {
  return copy_array(type, t.shape, t.bytes.data());
}

AWQResult load_tensor(const SafetensorsFile& file, const TensorView& weight, bool earlier) {
  const std::string name = file.path() + ": " + weight.name;
  if (weight.shape.size() != 2 || weight.shape[0] < 1 || weight.shape[1] < 1) {
    throw FormatError(fmt::format("{}: expected U32 [K / 8, N], found {}", name, shape_string(weight.shape)));
  }
  const int64_t k = weight.shape[0] * kFp4PerU32;
  const int64_t n = weight.shape[1];
  const TensorView& scales = file.get(weight.name + ".scales");
  const TensorView& zeros = file.get(weight.name + ".zeros");
  const int64_t groups = scales.shape.size() == 2 ? scales.shape[0] : 0;
  if (groups < 1 || k % groups != 0) {
    throw FormatError(fmt::format("{}: scales: expected F16 [G, {}] with G that divides {}, found {}", name, n, k,
                                  shape_string(scales.shape)));
  }
  AWQResult r;
  r.meta.in_features = r.meta.padded_in_features = k;
  r.meta.out_features = n;
  r.meta.group_size = k / groups;
  r.meta.code_offset = earlier ? 7 : 8;
  const TensorView* q_scale = file.find(weight.name + ".q_scale");
  if (earlier) {
    expect_part(scales, DType::kF16, {{groups, n}}, name, "scales");
    expect_part(zeros, DType::kF16, {{groups, n}}, name, "zeros");
    expect_part(*q_scale, DType::kF16, {{n}}, name, "q_scale");
  } else {
    // Checks types, shapes, scales and zeros.
    const QuantizedTensor t = unpack_native(weight, scales, zeros, r.meta.group_size, name, Codes::kSkip);
    r.meta.scheme = t.symmetric ? "sym" : "asym";
    if (q_scale != nullptr) unpack_q_scale(*q_scale, k, name);
  }
  r.Q = array_of(weight, ElementType::kU32);
  r.scales = array_of(scales, ElementType::kF16);
  r.zeros = array_of(zeros, ElementType::kF16);
  if (q_scale != nullptr) {
    r.q_scale = array_of(*q_scale, ElementType::kF16);
  } else {
    r.q_scale = Array(ElementType::kF16, {k});
    std::fill_n(r.q_scale.as<uint16_t>(), k, uint16_t{0x3c00});  // 1
  }
  return r;
}

}  // namespace

std::vector<std::pair<std::string, AWQResult>> awq_load(const std::string& path) try {
  const ThreadCount thread_count;
  const SafetensorsFile file(path);
  const bool own = file.metadata().count("metal_marlin.nibble_offset") > 0;
  if (const auto version = file.metadata().find("metal_marlin.version");
      version != file.metadata().end() && version->second != "1") {
    throw UnsupportedError(
        fmt::format("{}: metal_marlin.version: expected 1, of 4 bits, found {}; load it as a model instead", path,
                    version->second));
  }
  std::vector<std::pair<std::string, AWQResult>> out;
  for (const TensorView& t : file.tensors()) {
    if (t.dtype != DType::kU32 || file.find(t.name + ".scales") == nullptr) continue;
    // The earlier numpy implementation (offset 7, q_scale per output channel) wrote no metadata. The axis of q_scale
    // does not follow from its shape: K may equal N.
    const bool earlier = !own && file.find(t.name + ".q_scale") != nullptr;
    out.emplace_back(t.name, load_tensor(file, t, earlier));
  }
  if (out.empty()) {
    throw FormatError(fmt::format(
        "{}: expected 4-bit tensors (NAME of U32 with NAME.scales), found none; convert other formats to native first",
        path));
  }
  return out;
} catch (...) {
  rethrow_as_error("awq_load");
}

}  // namespace metal_marlin
