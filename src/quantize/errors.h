// How far a quantized linear is from the original.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "core/values.h"

namespace metal_marlin {

struct LinearErrors {
  double weight_error = 0;   // ||W - Wq||_F / ||W||_F
  double output_error = -1;  // sqrt(tr(E G E^T) / tr(W G W^T)), E = Wq - W: relative error of the outputs; -1 without G
  double clipped_share = 0;  // share of weights more than half a step beyond the ends of their group's range
  double saturated_share = 0;  // share of codes that are 0 or levels - 1
  double least_scale = 0;      // least and largest |S|
  double largest_scale = 0;
};

// weight [out, in] is the original after folding. gram [in, in] is that of the same folded input; its upper half is
// read; null: no output error. A zero denominator gives error 0 if the numerator is 0 as well, else infinity. With gram
// it costs out * in^2 multiply-adds. Throws ArgumentError when shapes disagree.
LinearErrors linear_errors(const Matrix& weight, const QuantizedTensor& quantized, const Matrix* gram);

}  // namespace metal_marlin
