// Tensors that are written as floats: those of the source that nothing changed, and those into which scales were
// folded.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "write/write_job.h"

namespace metal_marlin {

// Takes the bytes of a tensor, in order.
using FloatSink = std::function<void(std::span<const std::byte>)>;
// Takes the rows of a tensor as float32, in order; tensors of one dimension are one row.
using RowSink = std::function<void(const Matrix& rows)>;

// The values of a kept or changed item in the type of its first tensor, in pieces where it is large. Adds to the report
// what was lost on the way. ArgumentError where the provider's tensor has another shape; NumericError for a NaN on the
// way to float16.
void write_kept(WriteJob& job, const WriteItem& item, const FloatSink& sink);
// The values of such an item as float32, in pieces of at most plan.whole_bytes.
void read_kept(WriteJob& job, const WriteItem& item, const RowSink& sink);

}  // namespace metal_marlin
