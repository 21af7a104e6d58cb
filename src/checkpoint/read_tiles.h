// Stored words of a linear as they are multiplied.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "layouts/packed_config.h"

namespace metal_marlin {

class WeightMatrix;

// Rows of the linear straight from the stored words, each of which is read once. Null where the layout does not have
// these rows in whole words. Errors as read_packed() and read_q_scale().
std::unique_ptr<WeightMatrix> read_tiles(const PackedConfig& config, const PackedLinear& linear,
                                         const std::string& name, int64_t first_row, int64_t rows);

}  // namespace metal_marlin
