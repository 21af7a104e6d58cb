#include "pipeline/texts.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>

#include "infer/batch_sampler.h"
#include "pipeline/memory_plan.h"
#include "source/tokenizer.h"

namespace metal_marlin {
namespace {

bool named_text(const EvaluationOptions& e) { return !e.text.empty() && e.text != "none"; }

void check_size(const char* option, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    throw ArgumentError(fmt::format("--{}: expected a whole number from {} to {}, found {}", option, least, most, value));
  }
}

}  // namespace

void check_sizes(const CalibrationOptions& options) {
  check_size("samples", options.samples, 1, kMostSequences);
  check_size("sequence-length", options.sequence_length, 8, kMostSequenceLength);
}

void check_sizes(const EvaluationOptions& options) {
  check_size("chunks", options.chunks, 1, kMostSequences);
  check_size("context", options.context, 8, kMostSequenceLength);
}

CalibrationKind calibration_kind(const CalibrationOptions& options) {
  if (options.calibration == "self") return CalibrationKind::kSelf;
  return std::filesystem::path(options.calibration).extension() == ".npz" ? CalibrationKind::kNpz : CalibrationKind::kText;
}

SelfTextSize self_text_size(const QuantizeOptions& options) {
  const CalibrationOptions& c = options.calibration;
  if (!options.evaluation.text.empty()) return {c.samples, 0};
  // As many sequences of the same kind as make up a tenth of the tokens, at least kHeldBackTokens.
  const int64_t held = std::max(kHeldBackTokens, c.samples * c.sequence_length / 10);
  const int64_t sequences = (held + c.sequence_length - 1) / c.sequence_length;
  return {c.samples + sequences, sequences};
}

TokenSet evaluation_chunks(const EvaluationOptions& options, const std::string& text, const Tokenizer& tokenizer) {
  const auto ids = tokenizer.encode(text, false);
  TokenSet chunks = cut_chunks(ids, 0, ids.size(), options.context, options.chunks, bos_to_add(options.bos, tokenizer));
  if (chunks.sequences.empty()) {
    throw FormatError(fmt::format("{}: expected at least one chunk of {} tokens, found {} tokens; give a longer text or a shorter --context",
                                  options.text, options.context, ids.size()));
  }
  return chunks;
}

void warn_of_few_chunks(const EvaluationOptions& options, const TokenSet& chunks, Tracker& tracker) {
  const auto got = static_cast<int64_t>(chunks.sequences.size());
  if (got < options.chunks) {
    tracker.warn(fmt::format("{}: only {} chunks of {} tokens where {} were asked for", options.text, got, options.context, options.chunks));
  }
}

void warn_beyond_positions(const ModelSource& source, int64_t tokens, Tracker& tracker) {
  const ModelConfig& c = source.config();
  if (c.max_position_embeddings <= 0 || tokens <= c.max_position_embeddings || c.rope.type == RopeType::kDynamic) return;
  tracker.warn(fmt::format("{}: sequences of {} tokens exceed the {} positions that the model was made for (max_position_embeddings): "
                           "what comes after them may be worthless", source.path(), tokens, c.max_position_embeddings));
}

RunTexts prepare_texts(const ModelSource& source, const QuantizeOptions& options, Tracker& tracker) {
  RunTexts texts;
  const CalibrationOptions& c = options.calibration;
  const EvaluationOptions& e = options.evaluation;
  const bool hold_back = e.text.empty();
  const Tokenizer& tokenizer = source.tokenizer();
  const int32_t bos = bos_to_add(c.bos, tokenizer);
  // First, because it can be wrong: sampling takes long.
  if (named_text(e)) {
    tracker.enter("tokenize", 0, 1);
    texts.held_back = evaluation_chunks(e, read_utf8_text(e.text), tokenizer);
    texts.held_back_source = e.text;
    warn_of_few_chunks(e, texts.held_back, tracker);
  }
  switch (calibration_kind(c)) {
    case CalibrationKind::kNpz:
      if (hold_back) tracker.warn("statistics from a file: there is no text to hold back, so nothing is evaluated; name one with --evaluate FILE");
      break;
    case CalibrationKind::kText: {
      tracker.enter("tokenize", 0, 1);
      const auto ids = tokenize_file(c.calibration, tokenizer);
      CalibrationSplit split = split_tokens(ids, c.samples, c.sequence_length, e.context, bos, hold_back, c.calibration);
      texts.calibration = std::move(split.calibration);
      if (hold_back) texts.held_back = std::move(split.held_back);
      if (hold_back) texts.held_back_source = fmt::format("the last {} of the {} tokens of {}", texts.held_back.tokens(), ids.size(), c.calibration);
      break;
    }
    case CalibrationKind::kSelf: {
      const auto [count, held_sequences] = self_text_size(options);
      SelfTextOptions self;
      self.count = count;
      self.length = c.sequence_length;
      self.temperature = c.temperature;
      self.seed = c.seed;
      self.bos = bos;
      self.memory_bytes = memory_budget(options.machine);
      tracker.enter("self text", 0, self.length);
      auto sequences = sample_sequences(source, tokenizer, self, [&](int64_t done, int64_t total) { tracker.enter("self text", done, total); });
      const auto cut = sequences.end() - held_sequences;
      if (hold_back) texts.held_back.sequences.assign(std::make_move_iterator(cut), std::make_move_iterator(sequences.end()));
      sequences.erase(cut, sequences.end());
      texts.calibration.sequences = std::move(sequences);
      if (hold_back) texts.held_back_source = fmt::format("the last {} of {} sequences that the model made itself", held_sequences, self.count);
      break;
    }
  }
  const auto got = static_cast<int64_t>(texts.calibration.sequences.size());
  if (calibration_kind(c) != CalibrationKind::kNpz && got < c.samples) {
    tracker.warn(fmt::format("{}: only {} sequences of {} tokens for calibration where {} were asked for{}", c.calibration, got, c.sequence_length,
                             c.samples, hold_back ? " (the rest is held back for evaluation)" : ""));
  }
  warn_beyond_positions(source, std::max(texts.calibration.longest(), texts.held_back.longest()), tracker);
  return texts;
}

TextSizes expected_sizes(const ModelSource& source, const QuantizeOptions& options) {
  const CalibrationOptions& c = options.calibration;
  const EvaluationOptions& e = options.evaluation;
  TextSizes sizes;
  if (calibration_kind(c) == CalibrationKind::kText) {
    const bool hold_back = e.text.empty();
    const auto split = split_tokens(tokenize_file(c.calibration, source.tokenizer()), c.samples, c.sequence_length, e.context,
                                    bos_to_add(c.bos, source.tokenizer()), hold_back, c.calibration);
    sizes = {split.calibration.tokens(), split.held_back.tokens()};
  } else if (calibration_kind(c) == CalibrationKind::kSelf) {
    sizes.calibration = c.samples * c.sequence_length;
    sizes.held_back = self_text_size(options).held_back * c.sequence_length;
  }
  if (named_text(e)) {
    sizes.held_back = evaluation_chunks(e, read_utf8_text(e.text), source.tokenizer()).tokens();
  }
  return sizes;
}

}  // namespace metal_marlin
