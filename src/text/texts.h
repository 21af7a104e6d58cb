// The tokens of a run: for statistics, and held back for evaluation.
#pragma once

#include <metal_marlin/quantize.h>
#include <metal_marlin/report_records.h>

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/progress.h"
#include "options/sources.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {

class StatsFile;

struct RunTexts {
  TokenSet calibration;          // empty with an npz
  TokenSet held_back;            // empty: no evaluation
  std::string held_back_source;  // for the report: a path, or "the last n of m tokens of ..."
  TextRecord record;             // of the calibration text, for report, model card and statistics files
};

// The chunks of the text to evaluate on, of which no more is read than they take; FormatError when it is too short for
// one.
TokenSet evaluation_chunks(const EvaluationOptions& options, const Tokenizer& tokenizer);
void warn_of_few_chunks(const EvaluationOptions& options, const TokenSet& chunks, Tracker& tracker);
// Warns when `tokens` exceed max_position_embeddings, unless the model's RoPE grows with the sequence.
void warn_beyond_positions(const ModelSource& source, int64_t tokens, Tracker& tracker);

// Reads or samples the texts as `options` say, and selects from them. Warns when a text has fewer sequences than asked
// for. `scratch`: path of a file that may hold the states of the pool when memory is short.
RunTexts prepare_texts(const ModelSource& source, const QuantizeOptions& options, Tracker& tracker,
                       const std::string& scratch);
// Whether prepare_texts takes long: text is made or selected.
bool preparation_is_long(const CalibrationOptions& options);

// How many sequences of self-made text are asked for: for calibration and, with nothing named to evaluate on, to hold
// back. An upper bound where there are other sources, which may be short.
int64_t most_self_text(const QuantizeOptions& options);

// How many tokens prepare_texts will give for calibration and evaluation, as far as that is known without sampling.
struct TextSizes {
  int64_t calibration = 0;
  int64_t builtin = 0;  // of these, from the program's own text
  int64_t held_back = 0;
  int64_t self_made = 0;  // tokens that the model makes for both
  int64_t pool = 0;       // tokens to select from
};
// `tracker`: warned of what prepare_texts would warn of; null: nothing is said.
TextSizes expected_sizes(const ModelSource& source, const QuantizeOptions& options, Tracker* tracker = nullptr);

// The record of statistics from a file.
TextRecord statistics_record(const CalibrationOptions& options, const StatsFile& file);

}  // namespace metal_marlin
