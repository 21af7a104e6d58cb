// Logits that are NaN or infinite: which weight is at fault.
#pragma once

#include <metal_marlin/error.h>

#include <span>
#include <string>

namespace metal_marlin {

class ModelSource;

// What a sampler throws. It knows no weights: explain_bad_logits() does.
class BadLogits : public NumericError {
 public:
  explicit BadLogits(const std::string& model);
};

// NumericError (FormatError for scales of codes) that names the first weight that is NaN or infinite, its tensor, its
// element and what to do; or says that all weights are finite. Reads all weights, so call it for bad logits alone.
[[noreturn]] void explain_bad_logits(const ModelSource& source);

// Calls explain_bad_logits() where one of the logits is NaN or infinite.
void check_logits(const ModelSource& source, std::span<const float> logits);

// What `use` returns; BadLogits is explained.
template <typename Use>
auto with_bad_logits_explained(const ModelSource& source, const Use& use) -> decltype(use()) {
  try {
    return use();
  } catch (const BadLogits&) {
    explain_bad_logits(source);
  }
}

}  // namespace metal_marlin
