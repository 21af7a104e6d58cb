#include "quantize/append_rows.h"

#include <utility>

namespace metal_marlin {

void append_rows(QuantizedTensor& all, QuantizedTensor part) {
  if (all.out_features == 0) {
    all = std::move(part);
    return;
  }
  all.out_features += part.out_features;
  all.codes.insert(all.codes.end(), part.codes.begin(), part.codes.end());
  all.scales.insert(all.scales.end(), part.scales.begin(), part.scales.end());
  all.zeros.insert(all.zeros.end(), part.zeros.begin(), part.zeros.end());
  all.minima.insert(all.minima.end(), part.minima.begin(), part.minima.end());
}

}  // namespace metal_marlin
