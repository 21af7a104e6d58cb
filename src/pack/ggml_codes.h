// The ggml types whose blocks are codes with a scale, and perhaps a minimum, in float16 for each 32 of them: Q4_0,
// Q4_1, Q5_0, Q5_1, Q8_0. Their grids are those of QuantizedTensor, so codes and scales pass both ways unchanged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "core/values.h"
#include "formats/blocks/block_tensor.h"

namespace metal_marlin {

// The grid of a type that a BlockForm describes. Of the types above it is exact; of the others `block` is set. Nothing
// for floats and types without a form.
std::optional<Grid> grid_of_type(GgmlType type) noexcept;
// The type above that has this grid; nothing where none has.
std::optional<GgmlType> type_of_grid(const Grid& grid) noexcept;

// Codes, scales and minima as blocks. ArgumentError naming `name`: a grid that no type has, in_features no multiple of
// 32, groups in act order, a zero that is not that of the type.
BlockTensor pack_to_blocks(const QuantizedTensor& tensor, const std::string& name);
// The same backwards, of whole rows of one of the types above. FormatError naming `name`: a scale that is not finite.
QuantizedTensor unpack_blocks_to_codes(GgmlType type, int64_t out_features, int64_t in_features,
                                       std::span<const std::byte> blocks, const std::string& name);

}  // namespace metal_marlin
