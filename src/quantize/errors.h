// How far a quantized linear is from the original.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "core/values.h"

namespace metal_marlin {

// E = Wq - W.
struct ErrorNorms {
  double weight_error = 0;           // ||E||_F / ||W||_F
  double output_error = -1;          // sqrt(tr(E G E^T) / tr(W G W^T)): relative error of the outputs; -1 without G
  double squared_error = 0;          // ||E||_F^2
  double squared_output_error = -1;  // tr(E G E^T); -1 without G
};

struct LinearErrors : ErrorNorms {
  double clipped_share = 0;    // share of weights more than half a step beyond the ends of their group's range
  double saturated_share = 0;  // share of codes that are 0 or levels - 1
  double least_scale = 0;      // least and largest |S|
  double largest_scale = 0;
};

// weight [out, in] is the original after folding. gram [in, in] is that of the same folded input; its upper half is
// read; null: no output error. A zero denominator gives error 0 if the numerator is 0 as well, else infinity. With gram
// it costs out * in^2 multiply-adds. input_scale [in]: the factors by which the columns of weight were multiplied,
// where no producer takes them up; weight_error and squared_error are then those of W / input_scale.
// Throws ArgumentError when shapes disagree or the columns of `quantized` are in groups of act order.
LinearErrors linear_errors(const Matrix& weight, const QuantizedTensor& quantized, const Matrix* gram,
                           std::span<const float> input_scale = {});

struct ValueErrors : ErrorNorms {
  double largest_error = 0;  // max |E|
};
// The same of values [out, in] that are not on a grid.
ValueErrors value_errors(const Matrix& weight, const Matrix& values, const Matrix* gram);

}  // namespace metal_marlin
