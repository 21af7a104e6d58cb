// Rotation of input channels by Hadamard matrices. y = x R and W' = W R give the same product, x W^T = y W'^T, and
// outlier channels are spread over their block.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace metal_marlin {

// R is block-diagonal; each block is Sylvester's H_n / sqrt(n), n a power of two: orthonormal and symmetric, so R is
// its own inverse. Blocks have `block_size` channels. The rest at the end is divided into the powers of two of which it
// is the sum, largest first (50 = 32 + 16 + 2), so that nothing is padded. ArgumentError unless block_size is a power
// of two.
std::vector<int64_t> hadamard_blocks(int64_t features, int64_t block_size);

// matrix <- matrix R for [rows, features]: features log2(block) additions per row.
void rotate_columns(Matrix& matrix, int64_t block_size);
// hessian <- R hessian R for a symmetric [features, features], both halves filled; the result is symmetric to the bit.
void rotate_hessian(Matrix& hessian, int64_t block_size);

}  // namespace metal_marlin
