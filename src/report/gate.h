// --max-kl: the limit on the KL divergence, and whether a report meets it.
#pragma once

#include <metal_marlin/report_records.h>

#include <optional>

namespace metal_marlin {

// --bits mixed --max-kl X --evaluate none: the limit has chosen the bits, and nothing was measured that it could judge.
bool only_estimated(const Report& report);
// False when the report's mean KL divergence exceeds max_kl, or when there is none to judge by and it is not only
// estimated.
bool gate_verdict(const Report& report, std::optional<double> max_kl);
// Both empty without a limit.
GateRecord gate_record(const Report& report, std::optional<double> max_kl);

}  // namespace metal_marlin
