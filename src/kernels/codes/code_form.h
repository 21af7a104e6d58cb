// Of a weight that stays codes: what decides how many bytes it takes as a WeightMatrix.
#pragma once

#include <cstdint>

#include "kernels/codes/product.h"

namespace metal_marlin {

struct CodeForm {
  int bits = 4;       // of a code, 1 .. 8
  int64_t group = 0;  // channels that share a scale; of more than 128 each piece of a segment keeps the scale
  ScaleForm scales = ScaleForm::kF16;
  bool zeros = false;   // a zero for each group, not one for all
  bool minima = false;  // of the form of the scales
};

// What WeightMatrix::bytes() is of a weight of this form.
uint64_t code_bytes(const CodeForm& form, int64_t out_features, int64_t in_features);

}  // namespace metal_marlin
