#include "infer/batch_sampler.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <memory>
#include <string>

#include "checkpoint/model_source.h"
#include "core/counted.h"
#include "core/random.h"
#include "core/threads.h"
#include "infer/bad_logits.h"
#include "infer/decoder.h"
#include "infer/sampling.h"
#include "kernels/gemm.h"
#include "model/model.h"
#include "model/prepared_block.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr uint64_t kProgramBytes = 128 * kMiB;  // program, libraries, tokenizer
// However much memory there is, weights and cache together take no more than this, or no more than the weights and a
// quarter. Larger groups gain little once the weights are read for some 20 rows.
constexpr uint64_t kModestBytes = 520 * kMiB;
constexpr int64_t kLargestGroup = 64;
constexpr int64_t kSmallGroup =
    3;  // with smaller groups, it costs no more to load blocks at every step for many sequences
// The head computes fewer rows by another path, whose last bits differ.
constexpr int64_t kHeadRows = 8;

constexpr int64_t kWarmTokens = 4;  // drawn at a raised temperature after a start
constexpr double kWarmFactor = 1.25;
constexpr double kMinP = 0.005;

constexpr size_t kLongestPeriod = 16;
constexpr size_t kLoopTokens = 32;

void check(const SelfTextOptions& o) {
  if (o.count < 1)
    throw ArgumentError(fmt::format("self-made text: {}, expected at least 1", counted(o.count, "sequence")));
  if (o.length < 2)
    throw ArgumentError(fmt::format("self-made text: {}, expected at least 2", counted(o.length, "token")));
  if (!(o.temperature > 0))
    throw ArgumentError(fmt::format("self-made text: temperature {}, expected > 0", o.temperature));
}

MatmulPrecision precision() {
  return has_bf16_gemm() ? MatmulPrecision::kBF16 : MatmulPrecision::kF32;
}

// Whether a token may start a text: it is ordinary text with a letter in it.
bool is_word(const std::string& text) {
  if (text.find("\xef\xbf\xbd") != std::string::npos || text.find('<') != std::string::npos) return false;
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c >= 0x80 || (c | 0x20u) - 'a' < 26u; });
}

// A sequence that is being sampled.
class Writer {
 public:
  Writer(const SelfTextOptions& options, const ModelSource& source, const Tokenizer& tokenizer, int64_t index)
      : options_(options),
        source_(source),
        tokenizer_(tokenizer),
        random_(options.seed, static_cast<uint64_t>(index)),
        warm_(sampling(options.temperature * kWarmFactor), source.path()),
        usual_(sampling(options.temperature), source.path()) {
    start();
  }

  // Adds a token: one drawn from `logits`, or a new start where the text has ended. Returns true when the caller must
  // make the model forget what came before.
  bool extend(std::span<const float> logits) {
    if (is_end(source_.config().eos_token_ids) || is_end(tokenizer_.eos_ids()) ||
        (since_start_ >= static_cast<int64_t>(kLoopTokens) && ends_in_loop(tokens_))) {
      start();
      return true;
    }
    Sampler& sampler = since_start_ <= kWarmTokens ? warm_ : usual_;
    tokens_.push_back(sampler.sample(logits, {}, random_));
    ++since_start_;
    return false;
  }
  const std::vector<int32_t>& tokens() const noexcept { return tokens_; }

 private:
  bool is_end(const std::vector<int32_t>& ends) const {
    return std::find(ends.begin(), ends.end(), tokens_.back()) != ends.end();
  }
  static SamplingOptions sampling(double temperature) {
    return {.temp = temperature, .top_k = 0, .top_p = 1, .min_p = kMinP};
  }
  void start() {
    since_start_ = 1;
    if (options_.bos >= 0) {
      tokens_.push_back(options_.bos);
      return;
    }
    constexpr int kTries = 1000;  // some vocabularies have no words
    const auto vocabulary = static_cast<uint64_t>(source_.config().vocab_size);
    int32_t token = 0;
    for (int i = 0; i < kTries; ++i) {
      token = static_cast<int32_t>(random_.below(vocabulary));
      if (is_word(tokenizer_.decode(std::span(&token, 1), true))) break;
    }
    tokens_.push_back(token);
  }

  const SelfTextOptions& options_;
  const ModelSource& source_;
  const Tokenizer& tokenizer_;
  Random random_;
  Sampler warm_;
  Sampler usual_;
  std::vector<int32_t> tokens_;
  int64_t since_start_ = 0;
};

}  // namespace

bool ends_in_loop(const std::vector<int32_t>& tokens) {
  for (size_t period = 1; period <= kLongestPeriod; ++period) {
    const size_t span = std::max(kLoopTokens, 3 * period);
    if (tokens.size() < span) continue;
    const auto end = tokens.end();
    if (std::equal(end - static_cast<std::ptrdiff_t>(span - period), end, end - static_cast<std::ptrdiff_t>(span)))
      return true;
  }
  return false;
}

SelfTextPlan plan_self_text(const ModelSource& source, const SelfTextOptions& options) {
  check(options);
  const ModelConfig& c = source.config();
  const auto layers = static_cast<uint64_t>(c.num_hidden_layers);
  const uint64_t layer = prepared_bytes(source, 0, precision(), false);
  const uint64_t layer_f32 = prepared_bytes(source, 0, MatmulPrecision::kF32, false);
  const uint64_t each = Decoder::cache_bytes(source, KvType::kF16, 1, options.length);
  const auto vocabulary = static_cast<uint64_t>(c.vocab_size);
  const auto most = std::min(options.count, kLargestGroup);
  // Counts the logits of a group, a few tensors of the width of a block, the candidates of each sequence's two
  // samplers, and a block in f32 beside its packed form.
  const uint64_t rows = static_cast<uint64_t>(most) *
                        (4 * (vocabulary + static_cast<uint64_t>(8 * c.hidden_size + 3 * c.intermediate_size)) +
                         2 * vocabulary * sizeof(TokenProbability));
  SelfTextPlan plan;
  plan.other_bytes = vocabulary * static_cast<uint64_t>(c.hidden_size) * 2 + rows + layer_f32 + layer;
  const uint64_t budget = options.memory_bytes == 0 ? ~uint64_t{0} : options.memory_bytes;
  const uint64_t fixed = kProgramBytes + plan.other_bytes;
  const uint64_t left = budget > fixed ? budget - fixed : 0;
  const uint64_t weights = layer * layers;
  const uint64_t modest = std::max(kModestBytes, weights + weights / 4);
  const uint64_t free = std::min(left, modest);
  int64_t fit = 0;
  if (free >= weights + static_cast<uint64_t>(std::min(kSmallGroup, most)) * each) {
    plan.resident_layers = c.num_hidden_layers;
    fit = static_cast<int64_t>(std::min<uint64_t>((free - weights) / each, static_cast<uint64_t>(most)));
  } else {
    // Loading weights again costs the same for any number of sequences, so take as many sequences as half the memory
    // holds.
    fit = static_cast<int64_t>(std::min<uint64_t>(left / 2 / each, static_cast<uint64_t>(most)));
    if (fit < 1 && left >= each) fit = 1;
    if (fit < 1) {
      throw SystemError(
          fmt::format("sampling text from the model needs at least {} MiB, the budget is {} MiB; give more memory, "
                      "shorter sequences, or a text file for calibration",
                      (fixed + each) / kMiB + 1, budget / kMiB));
    }
    plan.resident_layers = static_cast<int64_t>(std::min((left - static_cast<uint64_t>(fit) * each) / layer, layers));
  }
  const int64_t groups = (options.count + fit - 1) / fit;
  plan.group = (options.count + groups - 1) / groups;
  plan.weight_bytes = static_cast<uint64_t>(plan.resident_layers) * layer;
  plan.cache_bytes = static_cast<uint64_t>(plan.group) * each;
  return plan;
}

uint64_t self_text_bytes(const ModelSource& source, uint64_t memory_bytes, int64_t count, int64_t length) {
  SelfTextOptions options;
  options.count = count;
  options.length = length;
  options.memory_bytes = memory_bytes;
  return plan_self_text(source, options).bytes();
}

std::vector<std::vector<int32_t>> sample_sequences(const ModelSource& source, const Tokenizer& tokenizer,
                                                   const SelfTextOptions& options,
                                                   const std::function<void(int64_t done, int64_t total)>& progress) {
  const SelfTextPlan plan = plan_self_text(source, options);
  if (options.bos >= source.config().vocab_size) {
    throw ArgumentError(
        fmt::format("BOS token {} is outside the vocabulary of {}", options.bos, source.config().vocab_size));
  }
  const int64_t groups = (options.count + plan.group - 1) / plan.group;
  const int64_t steps = options.length - 1;
  const auto report = [&](int64_t done) {
    if (progress) progress(done, groups * steps);
  };
  report(0);
  DecoderOptions decoder_options;
  decoder_options.sequences = plan.group;
  decoder_options.capacity = options.length;
  decoder_options.precision = precision();
  decoder_options.cache = KvType::kF16;
  decoder_options.weight_bytes = plan.weight_bytes;
  Decoder decoder(source, decoder_options, [&](int64_t, int64_t) { report(0); });
  const Head head(source, precision());
  Matrix states;
  const int64_t head_rows = std::max(plan.group, kHeadRows);
  Matrix logits(head_rows, head.vocab_size());
  Matrix last(head_rows, source.config().hidden_size);
  std::vector<std::vector<int32_t>> result;
  for (int64_t group = 0; group < groups; ++group) {
    // Every group has the same number of rows, so that a sequence does not depend on how many there are. The surplus of
    // the last group is thrown away.
    std::vector<Writer> writers;
    for (int64_t i = 0; i < plan.group; ++i) writers.emplace_back(options, source, tokenizer, group * plan.group + i);
    std::vector<int32_t> ids(writers.size());
    std::vector<uint8_t> fresh(writers.size());
    const std::vector<int64_t> lengths(writers.size(), 1);
    decoder.reset(options.length);
    for (int64_t step = 0; step < steps; ++step) {
      report(group * steps + step);
      for (size_t i = 0; i < writers.size(); ++i) ids[i] = writers[i].tokens().back();
      decoder.run(ids, lengths, states);
      std::copy(states.values().begin(), states.values().end(), last.data());
      head.logits(last.data(), head_rows, logits.data());
      with_bad_logits_explained(source, [&] {
        parallel_for(plan.group, [&](int64_t i) {
          const auto at = static_cast<size_t>(i);
          fresh[at] = writers[at].extend(logits.row(i)) ? 1 : 0;
        });
      });
      for (int64_t i = 0; i < plan.group; ++i) {
        if (fresh[static_cast<size_t>(i)] != 0) decoder.truncate(i, 0);
      }
    }
    for (const Writer& writer : writers) {
      if (static_cast<int64_t>(result.size()) < options.count) result.push_back(writer.tokens());
    }
  }
  report(groups * steps);
  return result;
}

}  // namespace metal_marlin
