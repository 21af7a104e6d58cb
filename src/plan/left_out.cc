#include "plan/left_out.h"

namespace metal_marlin {

std::vector<Skipped> left_out_tensors(const ModelSource& source) {
  std::vector<Skipped> out;
  for (const CheckpointTensor& t : source.left_out())
    out.push_back({t.name, !t.reason.empty() ? t.reason : "not part of the language model"});
  return out;
}

}  // namespace metal_marlin
