#include "mixed/sensitivity.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/counted.h"
#include "core/threads.h"
#include "formats/text.h"
#include "model/block.h"
#include "model/model.h"
#include "model/state_store.h"
#include "recipe/budget.h"
#include "stages/block_probe.h"
#include "stages/quantize_block.h"
#include "statistics/statistics.h"

namespace metal_marlin {
namespace {

constexpr int64_t kLogitRows = 64;  // of a stream at a time
// Tokens that are less probable than this share of 1 / vocabulary are left out: together they have less than this
// share.
constexpr double kNegligible = 0.005;

// Sequences and tokens of each.
struct Size {
  int64_t sequences = 0;
  int64_t length = 0;
  int64_t statistics = 0;  // sequences
};
Size size_of(const QuantizeOptions& o, int64_t available) {
  Size s;
  s.length = std::min(kSensitivitySequence, o.calibration.sequence_length);
  s.sequences = std::clamp<int64_t>(o.sensitivity_tokens / s.length, 1, std::max<int64_t>(available, 1));
  const int64_t most = std::max<int64_t>(1, kSensitivityStatistics / o.calibration.sequence_length);
  s.statistics = std::min({most, available, std::max(available - s.sequences, (available + 1) / 2)});
  return s;
}

// Tokens of some probability in the reference, and KL(reference || stream) of a row of logits.
class Divergence {
 public:
  void set_reference(const float* logits, int64_t vocab) {
    index_.clear();
    share_.clear();
    logit_.clear();
    const float top = *std::max_element(logits, logits + vocab);
    double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[v] - top));
    for (int64_t v = 0; v < vocab; ++v) {
      const double p = std::exp(static_cast<double>(logits[v] - top)) / sum;
      if (p * static_cast<double>(vocab) < kNegligible) continue;
      index_.push_back(v);
      share_.push_back(p);
      logit_.push_back(logits[v]);
    }
    double kept = 0;
    for (const double p : share_) kept += p;
    for (double& p : share_) p /= kept;
  }
  // With d = the difference of the logits: log(sum p e^d) - sum p d, exact for small d too. NaN or infinity where the
  // logits of one of the two hold such a value.
  double operator()(const float* logits) const {
    constexpr double kLargestExponent = 600;  // e^709 is the largest float64
    double mean = 0;
    double largest = -std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < index_.size(); ++i) {
      const double d = static_cast<double>(logits[index_[i]]) - logit_[i];
      mean += share_[i] * d;
      largest = std::max(largest, d);
    }
    if (!std::isfinite(mean)) return mean;
    double sum = 0;
    if (largest - mean > kLargestExponent) {
      for (size_t i = 0; i < index_.size(); ++i)
        sum += share_[i] * std::exp(static_cast<double>(logits[index_[i]]) - logit_[i] - largest);
      return largest - mean + std::log(sum);
    }
    for (size_t i = 0; i < index_.size(); ++i) {
      sum += share_[i] * std::expm1(static_cast<double>(logits[index_[i]]) - logit_[i] - mean);
    }
    return std::max(0.0, std::log1p(sum));
  }

 private:
  std::vector<int64_t> index_;
  std::vector<double> share_;
  std::vector<float> logit_;
};

uint64_t state_bytes(const ModelSource& source, int64_t tokens) {
  return static_cast<uint64_t>(tokens) * static_cast<uint64_t>(source.config().hidden_size) * sizeof(float);
}

class Measurement {
 public:
  Measurement(const ModelSource& source, const QuantizeOptions& options, const Recipe& recipe,
              const std::vector<LayerTensors>& layers, const TokenSet& calibration, const std::string& scratch,
              Tracker& tracker)
      : source_(source),
        recipe_(recipe),
        layers_(layers),
        tracker_(tracker),
        size_(size_of(options, static_cast<int64_t>(calibration.sequences.size()))) {
    const auto available = static_cast<int64_t>(calibration.sequences.size());
    for (int64_t i = 0; i < size_.statistics; ++i)
      statistics_text_.sequences.push_back(calibration.sequences[static_cast<size_t>(i)]);
    for (int64_t i = available - size_.sequences; i < available; ++i) {
      const auto& all = calibration.sequences[static_cast<size_t>(i)];
      text_.sequences.emplace_back(all.begin(), all.begin() + std::min(static_cast<int64_t>(all.size()), size_.length));
    }
    lengths_ = text_.lengths();
    rows_ = text_.tokens();
    out_.items = sensitive_items(layers, recipe, options);
    const int64_t streams = static_cast<int64_t>(out_.items.size()) + 2;
    std::vector<int64_t> all;
    for (int64_t i = 0; i < streams; ++i) all.insert(all.end(), lengths_.begin(), lengths_.end());
    const int64_t hidden = source.config().hidden_size;
    const bool spill = states_spill(source, options.machine, streams * rows_ + statistics_text_.tokens());
    states_ = std::make_unique<StateStore>(all, hidden, spill ? scratch : "", BlockForward::kBatchTokens);
    statistics_ = std::make_unique<StateStore>(statistics_text_.lengths(), hidden, spill ? scratch + "-statistics" : "",
                                               BlockForward::kBatchTokens);
  }

  Sensitivity run() {
    const int64_t layers = source_.config().num_hidden_layers;
    embed_sequences(source_, statistics_text_, *statistics_);
    Matrix states;
    embed(source_, text_.flat(), states);
    write(kOriginal, states);
    write(kAll, states);
    for (int64_t layer = 0; layer < layers; ++layer) pass_block(layer);
    statistics_.reset();
    compare();
    out_.sequences = size_.sequences;
    out_.tokens = rows_;
    out_.statistics_tokens = statistics_text_.tokens();
    return std::move(out_);
  }

 private:
  static constexpr int64_t kOriginal = 0;
  static constexpr int64_t kAll = 1;
  static constexpr int64_t kFirstItem = 2;

  Matrix read(int64_t stream) const {
    Matrix m(rows_, states_->hidden());
    states_->read_rows(stream * rows_, rows_, m.data());
    return m;
  }
  void write(int64_t stream, const Matrix& m) { states_->write_rows(stream * rows_, rows_, m.data()); }

  std::array<ActivationStats, kLinearInputs> statistics(int64_t layer, const Block& block) {
    tracker_.enter("sensitivity", layer, source_.config().num_hidden_layers);
    StatsCollector collector(true, recipe_.precision, statistics_text_.lengths());
    BlockForward pass(source_.family(), source_.config(), recipe_.precision);
    for (const auto& batch : statistics_->batches()) {
      Matrix m = statistics_->read(batch);
      pass.run(layer, block, m, batch.lengths, collector.hook());
      statistics_->write(batch, m);
    }
    auto stats = collector.finish();
    for (ActivationStats& s : stats) weigh_first_rows(s, recipe_.first_token_weight);
    return stats;
  }

  void pass_block(int64_t layer) {
    Block block = load_block(source_, layer);
    BlockTask task;
    task.source = &source_;
    task.recipe = &recipe_;
    task.tensors = &layers_[static_cast<size_t>(layer)];
    task.layer = layer;
    take_probe(*statistics_, task);
    if (recipe_.scale_loss == ScaleLoss::kBlock) take_replay(*statistics_, task);
    std::array<ActivationStats, kLinearInputs> stats = statistics(layer, block);
    task.stats = &stats;
    Block folded;
    task.folded = &folded;
    size_t end = next_;
    std::array<std::vector<GridTrial>, kLinearInputs> trials;
    for (; end < out_.items.size() && out_.items[end].layer == layer; ++end) {
      const SensitiveItem& item = out_.items[end];
      if (item.options.size() == 1) continue;
      for (const BitsOption& o : item.options) trials[static_cast<size_t>(item.input)].push_back({o.grid, 0});
    }
    task.trials = &trials;
    quantize_block(task, block, tracker_);
    tracker_.enter("sensitivity", layer, source_.config().num_hidden_layers);
    BlockForward pass(source_.family(), source_.config());
    const Matrix input = read(kOriginal);
    run_stream(pass, layer, block, read(kAll), kAll);
    for (size_t i = next_; i < end; ++i) {
      estimate_options(out_.items[i], trials[static_cast<size_t>(out_.items[i].input)]);
      swap_linears(out_.items[i].input, block, folded);
      run_stream(pass, layer, folded, input.clone(), kFirstItem + static_cast<int64_t>(i));
      swap_linears(out_.items[i].input, block, folded);
    }
    // The original's stream, and the streams whose quantized linears lie in an earlier block.
    const auto prepared = pass.prepare(folded);
    const int64_t streams = kFirstItem + static_cast<int64_t>(next_);
    for (int64_t s = 0; s < streams; ++s) {
      if (s == kAll) continue;
      Matrix m = read(s);
      pass.run(layer, *prepared, m, lengths_);
      write(s, m);
    }
    next_ = end;
    for (const LinearSlot& slot : source_.linears(layer)) source_.release(slot.weight);
  }

  void run_stream(BlockForward& pass, int64_t layer, const Block& block, Matrix states, int64_t stream) {
    pass.run(layer, block, states, lengths_);
    write(stream, states);
  }

  static void swap_linears(LinearInput input, Block& a, Block& b) {
    for (int k = 0; k < kLinears; ++k) {
      const auto kind = static_cast<LinearKind>(k);
      if (input_of(kind) == input) std::swap(a.linear(kind).weight, b.linear(kind).weight);
    }
  }

  // The ratio of the squared output error to that of the recipe's grid. compare() turns it into a KL divergence by
  // multiplying it with the measured one.
  static void estimate_options(SensitiveItem& item, const std::vector<GridTrial>& trials) {
    // The first is the grid that was measured.
    const double usual = trials.empty() ? 0 : trials.front().loss;
    for (size_t i = 0; i < item.options.size(); ++i) {
      BitsOption& o = item.options[i];
      o.kl = i == 0 ? 1 : o.grid.bits == kUnquantizedBits || !(usual > 0) ? 0 : trials[i].loss / usual;
    }
  }

  void compare() {
    const Head head(source_);
    const int64_t vocab = head.vocab_size();
    const int64_t streams = kFirstItem + static_cast<int64_t>(out_.items.size());
    std::vector<double> sums(static_cast<size_t>(streams), 0);
    std::vector<double> squares(static_cast<size_t>(streams), 0);
    Matrix logits(kLogitRows, vocab);
    Matrix states(kLogitRows, states_->hidden());
    std::vector<Divergence> divergence(kLogitRows);
    std::vector<double> kl(kLogitRows);
    for (int64_t at = 0; at < rows_; at += kLogitRows) {
      const int64_t n = std::min(kLogitRows, rows_ - at);
      for (int64_t s = 0; s < streams; ++s) {
        tracker_.enter("sensitivity", at * streams + s, rows_ * streams);
        states_->read_rows(s * rows_ + at, n, states.data());
        head.logits(states.data(), n, logits.data());
        parallel_for(n, [&](int64_t i) {
          const auto row = static_cast<size_t>(i);
          if (s == kOriginal) {
            divergence[row].set_reference(logits.data() + i * vocab, vocab);
          } else {
            kl[row] = divergence[row](logits.data() + i * vocab);
          }
        });
        if (s != kOriginal) {
          for (int64_t i = 0; i < n; ++i) {
            if (!std::isfinite(kl[static_cast<size_t>(i)])) refuse_logits(s, at + i);
            sums[static_cast<size_t>(s)] += kl[static_cast<size_t>(i)];
            squares[static_cast<size_t>(s)] += kl[static_cast<size_t>(i)] * kl[static_cast<size_t>(i)];
          }
        }
      }
    }
    const auto mean = [&](int64_t stream) { return sums[static_cast<size_t>(stream)] / static_cast<double>(rows_); };
    out_.kl_together = mean(kAll);
    for (size_t i = 0; i < out_.items.size(); ++i) {
      SensitiveItem& item = out_.items[i];
      item.kl = mean(kFirstItem + static_cast<int64_t>(i));
      const double square = squares[static_cast<size_t>(kFirstItem) + i] / static_cast<double>(rows_);
      item.kl_standard_error =
          rows_ > 1 ? std::sqrt(std::max(0.0, square - item.kl * item.kl) / static_cast<double>(rows_ - 1)) : 0;
      for (BitsOption& o : item.options) o.kl *= item.kl;
    }
  }

  [[noreturn]] void refuse_logits(int64_t stream, int64_t token) const {
    const std::string what = stream == kAll
                                 ? std::string("all linears")
                                 : escaped(out_.items[static_cast<size_t>(stream - kFirstItem)].names.front()) +
                                       " and the linears with its input";
    throw NumericError(fmt::format(
        "{}: the logits of token {} of the calibration text are NaN or infinite, in the model itself or when "
        "{} are quantized: a weight is damaged, or a value inside the model exceeds float32",
        source_.path(), token + 1, what));
  }

  const ModelSource& source_;
  const Recipe& recipe_;
  const std::vector<LayerTensors>& layers_;
  Tracker& tracker_;
  Size size_;
  TokenSet statistics_text_;
  TokenSet text_;
  std::vector<int64_t> lengths_;
  int64_t rows_ = 0;
  std::unique_ptr<StateStore> states_;  // [streams, rows_]
  std::unique_ptr<StateStore> statistics_;
  size_t next_ = 0;  // first item of the block at hand
  Sensitivity out_;
};

}  // namespace

Sensitivity measure_sensitivity(const ModelSource& source, const QuantizeOptions& options, const Recipe& recipe,
                                const std::vector<LayerTensors>& layers, const TokenSet& calibration,
                                const std::string& scratch, Tracker& tracker) {
  return Measurement(source, options, recipe, layers, calibration, scratch, tracker).run();
}

std::string sensitivity_warning(const QuantizeOptions& options, int64_t available) {
  const Size size = size_of(options, available);
  if (size.statistics + size.sequences <= available) return "";
  const int64_t wanted = std::max<int64_t>(1, options.sensitivity_tokens / size.length);
  return fmt::format(
      "sensitivity: of {} calibration sequences {} are measured on and {} are what statistics are of, so that some are "
      "both: expect larger "
      "divergences than it says; give at least {}, or fewer --sensitivity-tokens",
      available, size.sequences, size.statistics, counted(2 * wanted, "sequence"));
}

uint64_t sensitivity_bytes(const ModelSource& source, const QuantizeOptions& options, uint64_t block_bytes) {
  const Size size = size_of(options, options.calibration.samples);
  const int64_t streams = source.config().num_hidden_layers * kLinearInputs + 2;
  const int64_t tokens = streams * size.sequences * size.length + size.statistics * options.calibration.sequence_length;
  const uint64_t held = states_spill(source, options.machine, tokens) ? 0 : state_bytes(source, tokens);
  const uint64_t probabilities =
      static_cast<uint64_t>(kLogitRows) * static_cast<uint64_t>(source.config().vocab_size) * (8 + 8 + 4 + 4);
  return held + std::max(block_bytes, probabilities) + 4 * state_bytes(source, size.sequences * size.length);
}

}  // namespace metal_marlin
