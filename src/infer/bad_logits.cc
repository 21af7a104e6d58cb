#include "infer/bad_logits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/model_source.h"

namespace metal_marlin {

BadLogits::BadLogits(const std::string& model)
    : NumericError(
          fmt::format("{}: the logits are NaN or infinite: a weight is damaged, or a value inside the model exceeds "
                      "what its type holds",
                      model)) {}

void explain_bad_logits(const ModelSource& source) {
  for (const CheckpointTensor& t : source.tensors()) source.check_finite(t.name);
  throw NumericError(
      fmt::format("{}: the logits are NaN or infinite, although all weights are finite: a value inside the model "
                  "exceeds what its type holds; try --compute f32, or compare the files with their publisher's",
                  source.path()));
}

void check_logits(const ModelSource& source, std::span<const float> logits) {
  if (std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); })) return;
  explain_bad_logits(source);
}

}  // namespace metal_marlin
