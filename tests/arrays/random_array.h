// Arrays of random numbers for tests.
#pragma once

#include <metal_marlin/array.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "core/random.h"

namespace metal_marlin {

// float32, normally distributed with this standard deviation.
inline Array normal(std::vector<int64_t> shape, double scale, uint64_t seed) {
  Array a(ElementType::kF32, std::move(shape));
  Random random(seed);
  for (int64_t i = 0; i < a.elements(); ++i) a.as<float>()[i] = static_cast<float>(scale * random.normal());
  return a;
}

}  // namespace metal_marlin
