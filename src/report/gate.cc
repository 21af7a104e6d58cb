#include "report/gate.h"

namespace metal_marlin {

bool only_estimated(const Report& report) {
  return report.mixed && !report.mixed->target_bits && !report.model.kl_divergence.mean;
}

bool gate_verdict(const Report& report, std::optional<double> max_kl) {
  if (!max_kl || only_estimated(report)) return true;
  const std::optional<double>& kl = report.model.kl_divergence.mean;
  return kl && *kl <= *max_kl;
}

GateRecord gate_record(const Report& report, std::optional<double> max_kl) {
  if (!max_kl) return {};
  GateRecord gate;
  gate.max_kl = max_kl;
  if (!only_estimated(report)) gate.passed = gate_verdict(report, max_kl);
  return gate;
}

}  // namespace metal_marlin
