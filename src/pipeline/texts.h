// The tokens of a run: for statistics, and held back for evaluation.
#pragma once

#include <metal_marlin/quantize.h>

#include "pipeline/progress.h"
#include "source/model_source.h"
#include "source/text.h"

namespace metal_marlin {

enum class CalibrationKind : uint8_t { kSelf, kText, kNpz };
CalibrationKind calibration_kind(const CalibrationOptions& options);

struct RunTexts {
  TokenSet calibration;  // empty with an npz
  TokenSet held_back;    // empty: no evaluation
  std::string held_back_source;  // for the report: a path, or "the last n of m tokens of ..."
};

// Reads or samples the texts as `options` say. Warns when the text has fewer sequences than asked for.
RunTexts prepare_texts(const ModelSource& source, const QuantizeOptions& options, Tracker& tracker);

// How many tokens prepare_texts will give for calibration and evaluation, as far as that is known without sampling.
struct TextSizes {
  int64_t calibration = 0;
  int64_t held_back = 0;
};
TextSizes expected_sizes(const ModelSource& source, const QuantizeOptions& options);

}  // namespace metal_marlin
