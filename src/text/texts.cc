#include "text/texts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>
#include <set>

#include "core/counted.h"
#include "formats/text.h"
#include "infer/batch_sampler.h"
#include "options/tables.h"
#include "recipe/budget.h"
#include "statistics/stats_file.h"
#include "text/builtin_text.h"
#include "text/jsonl_text.h"
#include "text/mixture.h"
#include "text/select_pool.h"
#include "tokenizer/text_stream.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

constexpr int64_t kLeastHeldBack = 256;  // tokens of each of several sources: fewer are too noisy to judge by

std::vector<double> weights_of(const CalibrationOptions& c) {
  return c.calibration_weights.empty() ? std::vector<double>(c.calibration.size(), 1.0) : c.calibration_weights;
}

// What one source gives.
struct Part {
  std::string source;
  SourceKind kind = SourceKind::kText;
  double weight = 1;
  double share = 0;    // of all sequences, instead of a weight that was given: the program's own text beside files
  TokenSet sequences;  // all that there are, at most as many as the run asks for; of self-made text: none yet
  TokenSet held_back;
  int64_t tokens = 0;      // of the text
  bool counted = true;     // else `tokens` is how many of it were read
  int64_t count = 0;       // sequences that the run takes
  int64_t held_count = 0;  // self-made sequences held back
};

// At least these tokens of all sources are held back: a tenth of those used.
int64_t held_back_tokens(const QuantizeOptions& options, int64_t available, int32_t bos) {
  const CalibrationOptions& c = options.calibration;
  const bool only_self = c.calibration.size() == 1 && has_source(c, SourceKind::kSelf);
  const int64_t each = c.sequence_length - (bos >= 0 && !only_self ? 1 : 0);
  return held_back_beside(std::min(available, samples_of(options) * each));
}

// The tokens of a source that a run can use, from the text's beginning and its end; of self-made text none. One
// sequence more than can be used: what is held back comes from behind them.
TextEnds tokens_of(const Part& part, const Tokenizer& tokenizer, const QuantizeOptions& options) {
  const CalibrationOptions& c = options.calibration;
  const int64_t most = samples_of(options) * c.sequence_length;
  const auto all = [](std::vector<int32_t> ids) {
    const auto total = static_cast<int64_t>(ids.size());
    return TextEnds{std::move(ids), total, true};
  };
  switch (part.kind) {
    case SourceKind::kSelf:
      return {};
    case SourceKind::kBuiltin:
      return all(tokenizer.encode(std::string(builtin_text()), false));
    case SourceKind::kConversations:
      return all(tokenize_jsonl(part.source, tokenizer, most + held_back_tokens(options, most, -1) + c.sequence_length,
                                memory_budget(options.machine)));
    default: {
      // Held back are whole chunks, one more than there are tokens asked for.
      const int64_t held = held_back_tokens(options, most, -1) + kLeastHeldBack + options.evaluation.context;
      return text_ends(part.source, tokenizer, most, held, memory_budget(options.machine));
    }
  }
}

// The program's own text as a source beside files that have `sequences` in all. When the files are short, its share is
// of what they can give: it does not fill up for them.
Part builtin_part(const QuantizeOptions& options, const Tokenizer& tokenizer, int32_t bos, int64_t sequences) {
  const double share = builtin_share_of(options);
  const double beside = share / (1 - share);
  const std::vector<double> weights = weights_of(options.calibration);
  Part part{"builtin", SourceKind::kBuiltin, beside * std::accumulate(weights.begin(), weights.end(), 0.0)};
  const auto ids = tokens_of(part, tokenizer, options).ids;
  const int64_t most =
      std::min<int64_t>(builtin_sequences(options), std::llround(beside * static_cast<double>(sequences)));
  part.share = share;
  part.sequences = cut_chunks(ids, 0, ids.size(), options.calibration.sequence_length, most, bos);
  part.count = static_cast<int64_t>(part.sequences.sequences.size());
  return part;
}

// Each source's sequences, and how many the run takes. Self-made text is not made here.
std::vector<Part> lay_out(const ModelSource& source, const QuantizeOptions& options) {
  const CalibrationOptions& c = options.calibration;
  std::vector<Part> parts;
  if (from_statistics(c)) return parts;
  const Tokenizer& tokenizer = source.tokenizer();
  const int32_t bos = bos_to_add(c.bos, tokenizer);
  const std::vector<double> weights = weights_of(c);
  const int64_t most = samples_of(options) * c.sequence_length;
  double sum = 0;  // of the weights of sources that something is held back from
  std::vector<std::vector<int32_t>> ids;
  int64_t available = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    Part& part = parts.emplace_back(Part{c.calibration[i], source_kind(c.calibration[i]), weights[i]});
    TextEnds text = tokens_of(part, tokenizer, options);
    part.tokens = text.total;
    part.counted = text.counted;
    ids.push_back(std::move(text.ids));
    if (part.kind != SourceKind::kBuiltin) sum += weights[i];
    available = std::min(most, available + (part.kind == SourceKind::kSelf ? most : part.tokens));
  }
  const int64_t held = options.evaluation.text.empty() ? held_back_tokens(options, available, bos) : 0;
  const bool alone = parts.size() == 1;
  std::vector<int64_t> capacity;
  for (size_t i = 0; i < parts.size(); ++i) {
    Part& part = parts[i];
    const int64_t share =
        alone || held == 0
            ? held
            : std::max(kLeastHeldBack, static_cast<int64_t>(std::ceil(static_cast<double>(held) * (weights[i] / sum))));
    if (part.kind == SourceKind::kSelf) {
      part.held_count = (share + c.sequence_length - 1) / c.sequence_length;
      capacity.push_back(samples_of(options));
      continue;
    }
    if (part.kind == SourceKind::kBuiltin && !alone) {
      // Beside other sources it is for calibration only: nothing of it is held back.
      part.sequences = cut_chunks(ids[i], 0, ids[i].size(), c.sequence_length, samples_of(options), bos);
    } else {
      CalibrationSplit split = split_tokens(ids[i], samples_of(options), c.sequence_length, options.evaluation.context,
                                            bos, share, part.source);
      part.sequences = std::move(split.calibration);
      part.held_back = std::move(split.held_back);
    }
    capacity.push_back(static_cast<int64_t>(part.sequences.sequences.size()));
  }
  int64_t own = 0;
  if (builtin_sequences(options) > 0) {
    Part part = builtin_part(options, tokenizer, bos, std::accumulate(capacity.begin(), capacity.end(), int64_t{0}));
    own = part.count;
    if (own > 0) parts.push_back(std::move(part));
  }
  const auto counts = apportion(weights, capacity, samples_of(options) - own);
  for (size_t i = 0; i < counts.size(); ++i) parts[i].count = counts[i];
  return parts;
}

void make_self_text(const ModelSource& source, const QuantizeOptions& options, Part& part, Tracker& tracker) {
  const CalibrationOptions& c = options.calibration;
  SelfTextOptions self;
  self.count = part.count + part.held_count;
  if (self.count == 0) return;
  self.length = c.sequence_length;
  self.temperature = c.temperature;
  self.seed = c.seed;
  self.bos = bos_to_add(c.bos, source.tokenizer());
  self.memory_bytes = memory_budget(options.machine);
  tracker.enter("self text", 0, self.length);
  auto sequences = sample_sequences(source, source.tokenizer(), self,
                                    [&](int64_t done, int64_t total) { tracker.enter("self text", done, total); });
  const auto cut = sequences.begin() + part.count;
  part.held_back.sequences.assign(std::make_move_iterator(cut), std::make_move_iterator(sequences.end()));
  sequences.erase(cut, sequences.end());
  part.sequences.sequences = std::move(sequences);
}

std::string held_back_text(const Part& part) {
  if (part.kind == SourceKind::kSelf) {
    return fmt::format("the last {} of {} that the model made itself", part.held_count,
                       counted(part.count + part.held_count, "sequence"));
  }
  if (!part.counted) return fmt::format("the last {} of {}", counted(part.held_back.tokens(), "token"), part.source);
  return fmt::format("the last {} of the {} of {}", part.held_back.tokens(), counted(part.tokens, "token"),
                     part.source);
}

void warn_of_few_sequences(const QuantizeOptions& options, const std::vector<Part>& parts, bool hold_back,
                           Tracker& tracker) {
  const CalibrationOptions& c = options.calibration;
  const char* rest = hold_back ? " (the rest is held back for evaluation)" : "";
  const auto warn = [&](const Part& part, int64_t asked, const char* why) {
    if (part.count >= asked) return;
    tracker.warn(fmt::format("{}: only {} of {} for calibration where {} were asked for{}", part.source,
                             counted(part.count, "sequence"), counted(c.sequence_length, "token"), asked, why));
  };
  const std::vector<double> weights = weights_of(c);
  const bool own = parts.size() > weights.size();
  const std::vector<int64_t> enough(weights.size(), samples_of(options));
  const auto asked = apportion(weights, enough, samples_of(options) - (own ? parts.back().count : 0));
  for (size_t i = 0; i < weights.size(); ++i) warn(parts[i], asked[i], rest);
  // The default share of the program's own text may be cut without a warning; one that was given may not.
  if (!options.builtin_share) return;
  warn(own ? parts.back() : Part{"builtin", SourceKind::kBuiltin}, builtin_sequences(options), "");
}

// What prepare_texts() warns of before it has a text, in its order; `chunks` of the text that was named.
void warn_of_names_text(const ModelSource& source, const QuantizeOptions& options, const TokenSet& chunks,
                        Tracker& tracker) {
  const EvaluationOptions& e = options.evaluation;
  const bool statistics = from_statistics(options.calibration);
  if (names_text(e) || !statistics) tracker.warn_of(source.tokenizer().warnings());
  if (names_text(e)) warn_of_few_chunks(e, chunks, tracker);
  if (statistics && e.text.empty()) {
    tracker.warn(
        "statistics from a file: there is no text to hold back, so nothing is evaluated; name one with --evaluate "
        "FILE");
  }
}

void warn_of_no_choice(const CalibrationOptions& c, int64_t sequences, Tracker& tracker) {
  if (c.select > 0 && c.select >= sequences) {
    tracker.warn(fmt::format("--select {}: the texts hold only {}: nothing is left to choose from", c.select,
                             counted(sequences, "sequence")));
  }
}

}  // namespace

int64_t most_self_text(const QuantizeOptions& options) {
  const CalibrationOptions& c = options.calibration;
  const int64_t held = options.evaluation.text.empty() ? held_back_beside(samples_of(options) * c.sequence_length) : 0;
  return samples_of(options) + (held + c.sequence_length - 1) / c.sequence_length;
}

TokenSet evaluation_chunks(const EvaluationOptions& options, const Tokenizer& tokenizer) {
  const int64_t most = options.chunks * options.context;
  const auto ids = source_kind(options.text) == SourceKind::kConversations
                       ? tokenize_jsonl(options.text, tokenizer, most)
                       : first_tokens(options.text, tokenizer, most);
  TokenSet chunks = cut_chunks(ids, 0, ids.size(), options.context, options.chunks, bos_to_add(options.bos, tokenizer));
  if (chunks.sequences.empty()) {
    throw FormatError(
        fmt::format("{}: expected at least one chunk of {}, found {}; give a longer text or a shorter --context",
                    options.text, counted(options.context, "token"), counted(ids.size(), "token")));
  }
  return chunks;
}

void warn_of_few_chunks(const EvaluationOptions& options, const TokenSet& chunks, Tracker& tracker) {
  const auto got = static_cast<int64_t>(chunks.sequences.size());
  if (got < options.chunks) {
    tracker.warn(fmt::format("{}: only {} of {} where {} were asked for", options.text, counted(got, "chunk"),
                             counted(options.context, "token"), options.chunks));
  }
}

void warn_beyond_positions(const ModelSource& source, int64_t tokens, Tracker& tracker) {
  const ModelConfig& c = source.config();
  if (c.max_position_embeddings <= 0 || tokens <= c.max_position_embeddings || c.rope.type == RopeType::kDynamic)
    return;
  tracker.warn(
      fmt::format("{}: sequences of {} exceed the {} that the model was made for (max_position_embeddings): "
                  "what comes after them may be worthless",
                  source.path(), counted(tokens, "token"), counted(c.max_position_embeddings, "position")));
}

bool preparation_is_long(const CalibrationOptions& options) {
  return has_source(options, SourceKind::kSelf) || options.select > 0;
}

RunTexts prepare_texts(const ModelSource& source, const QuantizeOptions& options, Tracker& tracker,
                       const std::string& scratch) {
  RunTexts texts;
  const CalibrationOptions& c = options.calibration;
  const EvaluationOptions& e = options.evaluation;
  const bool hold_back = e.text.empty();
  // Before any text is made: this file may be faulty, and making text takes long.
  if (names_text(e)) {
    tracker.enter("tokenize", 0, 1);
    texts.held_back = evaluation_chunks(e, source.tokenizer());
    texts.held_back_source = e.text;
  }
  warn_of_names_text(source, options, texts.held_back, tracker);
  if (from_statistics(c)) {
    warn_beyond_positions(source, texts.held_back.longest(), tracker);
    return texts;
  }
  tracker.enter("tokenize", 0, 1);
  std::vector<Part> parts = lay_out(source, options);
  std::vector<int64_t> counts;
  std::vector<double> weights;
  std::vector<std::string> held_back_sources;
  for (size_t i = 0; i < parts.size(); ++i) {
    Part& part = parts[i];
    if (part.kind == SourceKind::kSelf) make_self_text(source, options, part, tracker);
    part.sequences.sequences.resize(static_cast<size_t>(part.count));
    counts.push_back(part.count);
    weights.push_back(part.weight);
    SourceRecord& fact = texts.record.sources.emplace_back();
    fact.source = part.source;
    fact.kind = source_kind_name(part.kind);
    fact.sequences = part.count;
    fact.tokens = part.sequences.tokens();
    if (part.share > 0) {
      fact.share = part.share;
    } else {
      fact.weight = part.weight;
    }
    if (part.kind == SourceKind::kSelf) {
      fact.temperature = c.temperature;
      fact.seed = c.seed;
      fact.sequence_length = c.sequence_length;
    }
    if (!hold_back || part.held_back.sequences.empty()) continue;
    held_back_sources.push_back(held_back_text(part));
    std::move(part.held_back.sequences.begin(), part.held_back.sequences.end(),
              std::back_inserter(texts.held_back.sequences));
  }
  if (hold_back) texts.held_back_source = fmt::format("{}", fmt::join(held_back_sources, "; "));
  warn_of_few_sequences(options, parts, hold_back, tracker);
  std::vector<int64_t> origin = interleave(counts);  // the source of each sequence
  std::vector<int64_t> taken(parts.size(), 0);
  std::vector<int64_t> place;  // and its number there
  for (const int64_t s : origin) {
    const auto at = static_cast<size_t>(s);
    place.push_back(taken[at]);
    texts.calibration.sequences.push_back(std::move(parts[at].sequences.sequences[static_cast<size_t>(taken[at]++)]));
  }
  if (c.select > 0 && c.select < static_cast<int64_t>(origin.size())) {
    const PoolSelection chosen = select_pool(source, texts.calibration, origin, apportion(weights, counts, c.select),
                                             options.machine, scratch, tracker);
    SelectionRecord& selection = texts.record.selection.emplace();
    selection.pool = std::ssize(origin);
    selection.blocks = chosen.blocks;
    selection.coverage = chosen.coverage;
    TokenSet kept;
    for (const int64_t i : chosen.sequences) {
      const auto at = static_cast<size_t>(i);
      selection.sequences.push_back({parts[static_cast<size_t>(origin[at])].source, place[at]});
      kept.sequences.push_back(std::move(texts.calibration.sequences[at]));
    }
    texts.calibration = std::move(kept);
  }
  warn_of_no_choice(c, std::ssize(origin), tracker);
  warn_beyond_positions(source, std::max(texts.calibration.longest(), texts.held_back.longest()), tracker);
  return texts;
}

TextSizes expected_sizes(const ModelSource& source, const QuantizeOptions& options, Tracker* tracker) {
  const CalibrationOptions& c = options.calibration;
  const EvaluationOptions& e = options.evaluation;
  TextSizes sizes;
  const TokenSet chunks = names_text(e) ? evaluation_chunks(e, source.tokenizer()) : TokenSet();
  if (tracker != nullptr) warn_of_names_text(source, options, chunks, *tracker);
  const std::vector<Part> parts = lay_out(source, options);
  std::vector<int64_t> counts;
  std::vector<double> weights;
  for (const Part& part : parts) {
    counts.push_back(part.count);
    weights.push_back(part.weight);
    sizes.held_back += part.kind == SourceKind::kSelf ? part.held_count * c.sequence_length : part.held_back.tokens();
    if (part.kind == SourceKind::kSelf) sizes.self_made += (part.count + part.held_count) * c.sequence_length;
  }
  const auto sequences = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  if (c.select > 0 && c.select < sequences) {
    sizes.pool = sequences * c.sequence_length;
    counts = apportion(weights, counts, c.select);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    sizes.calibration += counts[i] * c.sequence_length;
    if (parts[i].kind == SourceKind::kBuiltin) sizes.builtin += counts[i] * c.sequence_length;
  }
  if (names_text(e)) sizes.held_back = chunks.tokens();
  if (tracker != nullptr && !from_statistics(c)) {
    warn_of_few_sequences(options, parts, e.text.empty(), *tracker);
    warn_of_no_choice(c, sequences, *tracker);
  }
  return sizes;
}

TextRecord statistics_record(const CalibrationOptions& options, const StatsFile& file) {
  TextRecord out;
  SourceRecord& source = out.sources.emplace_back();
  source.source = options.calibration.front();
  source.kind = source_kind_name(SourceKind::kStatistics);
  source.tokens = static_cast<int64_t>(file.tokens());
  return out;
}

}  // namespace metal_marlin
