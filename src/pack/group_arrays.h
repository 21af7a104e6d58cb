// What the layouts share: checks of a QuantizedTensor before packing and of stored parts before unpacking, and the
// arrays of one value per group, which are [out, groups] in memory and [groups, out] in every layout of this folder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"

namespace metal_marlin {

// ArgumentError naming `name`: not 4 bits, arrays of the wrong size, a group size that does not divide in_features, a
// zero above 15, a scale that is not finite. (Codes are checked while they are packed.)
void check_packable(const QuantizedTensor& tensor, const std::string& name, const char* layout);
[[noreturn]] void refuse_codes(const std::string& name);  // some code is above 15

// FormatError naming `name`, expected and found unless `part` has this type and shape and the bytes for it.
void expect_part(const TensorView& part, DType dtype, std::span<const int64_t> shape, const std::string& name,
                 const char* what);
// group_size < 0: in_features. FormatError when it does not divide in_features.
int64_t explicit_group_size(int64_t group_size, int64_t in_features, const std::string& name);

// F16 [groups, out].
OwnedTensor pack_scales(const QuantizedTensor& tensor, std::string part);
// Into tensor.scales; FormatError when one is not finite.
void unpack_scales(const TensorView& scales, QuantizedTensor& tensor, const std::string& name);

OwnedTensor new_part(std::string name, DType dtype, std::vector<int64_t> shape);

}  // namespace metal_marlin
