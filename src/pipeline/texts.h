// The tokens of a run: for statistics, and held back for evaluation.
#pragma once

#include <metal_marlin/quantize.h>

#include "pipeline/progress.h"
#include "source/model_source.h"
#include "source/text.h"

namespace metal_marlin {

enum class CalibrationKind : uint8_t { kSelf, kText, kNpz };
CalibrationKind calibration_kind(const CalibrationOptions& options);

// ArgumentError naming the option whose value is out of its range.
void check_sizes(const CalibrationOptions& options);
void check_sizes(const EvaluationOptions& options);

struct RunTexts {
  TokenSet calibration;  // empty with an npz
  TokenSet held_back;    // empty: no evaluation
  std::string held_back_source;  // for the report: a path, or "the last n of m tokens of ..."
};

// The chunks of a text to evaluate on; FormatError when it is too short for one.
TokenSet evaluation_chunks(const EvaluationOptions& options, const std::string& text, const Tokenizer& tokenizer);
void warn_of_few_chunks(const EvaluationOptions& options, const TokenSet& chunks, Tracker& tracker);
// Warns when `tokens` exceed max_position_embeddings, unless the model's RoPE grows with the sequence.
void warn_beyond_positions(const ModelSource& source, int64_t tokens, Tracker& tracker);

// Reads or samples the texts as `options` say. Warns when the text has fewer sequences than asked for.
RunTexts prepare_texts(const ModelSource& source, const QuantizeOptions& options, Tracker& tracker);

// What self-made text is asked for: the calibration sequences and, with nothing named to evaluate on, those held back.
struct SelfTextSize {
  int64_t sequences = 0;
  int64_t held_back = 0;  // of them
};
SelfTextSize self_text_size(const QuantizeOptions& options);

// How many tokens prepare_texts will give for calibration and evaluation, as far as that is known without sampling.
struct TextSizes {
  int64_t calibration = 0;
  int64_t held_back = 0;
};
TextSizes expected_sizes(const ModelSource& source, const QuantizeOptions& options);

}  // namespace metal_marlin
