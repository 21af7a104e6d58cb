// HQQ, as its package and transformers store it in safetensors, with groups along the input channels (axis 1). It is
// read, not written.
//
// Notation: N = out_features, K = in_features, g = group size, G = K / g; b bits; codes q in 0..2^b - 1. The groups of
// all rows are one list: group r = n G + j has the codes q[n, j g .. j g + g - 1], R = N G groups in all.
//
//   shape  I64 [2]                      N, K
//   scale  F16, BF16 or F32 [R, 1]      s
//   zero   like scale [R, 1]            z, any number; or both as zero_scale [2, R, 1], zeros first
//   W_q    U8 [R / f, g]                f = 8 / b codes of b = 1, 2, 4 or 8 bits in a byte: code c of group r stands in
//                                       byte [r mod (R / f), c], r div (R / f) = 0 in its highest bits; b = 5 and 6 as
//                                       8
//          I32 [ceil(R / 10), g]        b = 3: in the same way ten codes a word, the first in bits 27 to 29
//
// The bytes of W_q may be labelled as floats of 16 or 32 bits (view_as_float), with a second dimension to match.
//
//   4 bits:  byte [i, c] = q of group i, code c, in the upper half | q of group i + R / 2, code c, in the lower half
//
//   w[n, k] = (q - z) s
//
// Why this order: unpacking is one shift and one copy for each of the f parts, without any interleaving.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

// Bits of a code that is stored. (Models "of 1.58 bits" have 2.)
std::span<const int> hqq_widths() noexcept;

struct HqqForm {
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;
  int stored_bits = 0;  // 1, 2, 3, 4 or 8: of the place that a code has
};
// What the shapes say. `scales`: scale or zero_scale. FormatError naming `name`, expected and found; UnsupportedError
// for groups along the outputs (axis 0) and such as run over the ends of rows.
HqqForm hqq_form(const TensorView& codes, const TensorView& scales, const TensorView& shape, const std::string& name);

// `zeros` null: `scales` is zero_scale. Where every zero is a code the result has zeros, else minima -z s, rounded to
// the type of the scales (float16 where that holds these). FormatError as hqq_form(), and naming `name` for scales and
// zeros that are not finite and codes of more than `bits`; UnsupportedError for scales in 32 bits that 16 do not hold.
QuantizedTensor unpack_hqq(const TensorView& codes, const TensorView& scales, const TensorView* zeros,
                           const TensorView& shape, int bits, const std::string& name, Codes with = Codes::kRead);

}  // namespace metal_marlin
