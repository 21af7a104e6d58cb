// What the bytes of a quantized model are spent on.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "source/model_source.h"

namespace metal_marlin {

// [{name, weights, bytes, source_bytes}] of "linears" (the quantized ones), "embedding", "head", "linears in 16 bits"
// and "norms and biases", in this order; parts without weights are left out. `kept`: bytes that each tensor which is
// not quantized takes in the result. quantized_bytes: of all others together.
nlohmann::json size_parts(const ModelSource& source, const std::map<std::string, uint64_t>& kept,
                          uint64_t quantized_bytes);

// "linears 57.3 MB (4.31 bits per weight), embedding 56.6 MB (16 bits), norms and biases 70.3 KB". Of size_parts().
std::string size_parts_text(const nlohmann::json& parts);

// Why a result is larger than its source, or what keeps it from being smaller: a sentence without a full stop; empty:
// nothing worth saying. Of size_parts().
std::string size_reason(const nlohmann::json& parts);

}  // namespace metal_marlin
