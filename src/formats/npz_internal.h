// Shared by npy.cc, npz.cc and npz_write.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/tensor.h"
#include "formats/npz.h"

namespace metal_marlin {

inline constexpr uint64_t kNpyHeaderLimit = uint64_t{1} << 16;  // bytes before the data; numpy's own are 128

// Converts stored bytes to the machine's byte order, in place.
void npy_to_native(const NpyHeader& header, std::span<std::byte> data);
// Makes the array from stored `data`: fixes the byte order, then the order of dimensions.
OwnedTensor npy_finish(const NpyHeader& header, Buffer data);
// Returns the bytes before the data, as numpy writes them. Throws ArgumentError for a type that npy does not have.
std::string npy_header_text(const TensorView& array);

}  // namespace metal_marlin
