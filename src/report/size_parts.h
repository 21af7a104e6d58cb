// What the bytes of a quantized model are spent on.
#pragma once

#include <metal_marlin/report_records.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"

namespace metal_marlin {

// Of "linears" (the quantized ones), "embedding", "head", "linears in 16 bits"
// and "norms and biases", in this order; parts without weights are left out. `kept`: bytes that each tensor which is
// not quantized takes in the result. quantized_bytes: of all others together.
std::vector<PartRecord> size_parts(const ModelSource& source, const std::map<std::string, uint64_t>& kept,
                                   uint64_t quantized_bytes);

// "linears 57.3 MB (4.31 bits per weight), embedding 56.6 MB (16 bits), norms and biases 70.3 KB". Of size_parts().
std::string size_parts_text(std::span<const PartRecord> parts);

// Why a result is larger than its source, or what keeps it from being smaller: a sentence without a full stop; empty:
// nothing worth saying. Of size_parts().
std::string size_reason(std::span<const PartRecord> parts);

}  // namespace metal_marlin
