// The measured costs of quantized linears, on a tiny model, without a run around them.
#include "mixed/sensitivity.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>

#include "core/half.h"
#include "model/model.h"
#include "stages/block_fixture.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class SensitivityTest : public BlockFixture {
 protected:
  SensitivityTest() : BlockFixture("llama", Method::kRtn) {
    options_.sensitivity_tokens = 64;
    options_.calibration.sequence_length = 32;
    plan();
  }
  Sensitivity measure(Tracker& tracker) {
    const std::string scratch = (fs::temp_directory_path() / ("sensitivity_" + std::to_string(getpid()))).string();
    return measure_sensitivity(*source_, run_options_, recipe_, layers_, calibration_, scratch, tracker);
  }
  Sensitivity measure() { return measure(tracker_); }

  TokenSet calibration_ = tokens(8, 32, 9);
};

// log softmax of the logits of all rows, in float64.
std::vector<std::vector<double>> log_probabilities(const ModelSource& source, const Stream& stream) {
  const Head head(source);
  Matrix states(stream.rows(), stream.hidden());
  stream.read_rows(0, stream.rows(), states.data());
  Matrix logits(stream.rows(), head.vocab_size());
  head.logits(states.data(), states.rows(), logits.data());
  std::vector<std::vector<double>> out;
  for (int64_t r = 0; r < logits.rows(); ++r) {
    double sum = 0;
    for (const float l : logits.row(r)) sum += std::exp(static_cast<double>(l));
    auto& row = out.emplace_back();
    for (const float l : logits.row(r)) row.push_back(static_cast<double>(l) - std::log(sum));
  }
  return out;
}

// Each linear rounded to nearest by a loop of the test, in a model of its own; the divergence summed in float64.
TEST_F(SensitivityTest, IsTheDivergenceOfAModelWithOneQuantizedInput) {
  const Sensitivity found = measure();
  ASSERT_EQ(found.items.size(), layers_.size() * kLinearInputs);
  TokenSet measured;  // the last sequences
  measured.sequences.assign(calibration_.sequences.end() - 2, calibration_.sequences.end());
  ASSERT_EQ(found.tokens, measured.tokens());
  const auto passed = [&](int64_t quantized_layer, std::optional<LinearInput> input) {
    auto stream = this->stream(measured);
    for (int64_t layer = 0; layer < source_->config().num_hidden_layers; ++layer) {
      Block block = load_block(*source_, layer);
      if (layer == quantized_layer) {
        for (const LinearKind kind : linears_of(*input)) {
          Matrix& w = block.linear(kind).weight;
          for (int64_t r = 0; r < w.rows(); ++r) {
            for (int64_t g = 0; g < w.cols(); g += 8) {
              float low = 0, high = 0;
              for (int64_t k = g; k < g + 8; ++k) low = std::min(low, w(r, k)), high = std::max(high, w(r, k));
              const float scale = f16_to_f32(f32_to_f16((high - low) / 15));
              const float zero = std::clamp(std::nearbyint(-low / scale), 0.0f, 15.0f);
              for (int64_t k = g; k < g + 8; ++k)
                w(r, k) = (std::clamp(std::nearbyint(w(r, k) / scale) + zero, 0.0f, 15.0f) - zero) * scale;
            }
          }
        }
      }
      stream->pass(layer, block);
    }
    return log_probabilities(*source_, *stream);
  };
  const auto original = passed(-1, std::nullopt);
  for (const SensitiveItem& item : found.items) {
    const auto other = passed(item.layer, item.input);
    double sum = 0;
    for (size_t r = 0; r < original.size(); ++r) {
      for (size_t v = 0; v < original[r].size(); ++v) sum += std::exp(original[r][v]) * (original[r][v] - other[r][v]);
    }
    const double expected = sum / static_cast<double>(original.size());
    EXPECT_GT(item.kl, 0);
    EXPECT_NEAR(item.kl, expected, 0.05 * expected + 1e-9) << item.names.front();
  }
}

TEST_F(SensitivityTest, ItemsCoverAllLinearsOnceAndMemoryChangesNothing) {
  const Sensitivity found = measure();
  std::set<std::string> names;
  size_t linears = 0;
  for (const SensitiveItem& item : found.items) {
    names.insert(item.names.begin(), item.names.end());
    linears += item.names.size();
  }
  EXPECT_EQ(names.size(), linears);
  EXPECT_EQ(linears, layers_.size() * 7);
  run_options_.machine.memory_bytes = 1;  // the states go into files
  const Sensitivity spilled = measure();
  EXPECT_EQ(spilled.kl_together, found.kl_together);
  for (size_t i = 0; i < found.items.size(); ++i) EXPECT_EQ(spilled.items[i].kl, found.items[i].kl);
}

TEST_F(SensitivityTest, StopsWhenTheObserverSaysSo) {
  Observer observer;
  observer.on_progress = [](const Progress& p) { return p.stage != "sensitivity" || p.done < 1; };
  Tracker tracker(observer);
  EXPECT_THROW(measure(tracker), Interrupted);
}

TEST_F(SensitivityTest, WarnsWhereTextIsUsedTwice) {
  EXPECT_EQ(sensitivity_warning(run_options_, 8), "");
  const std::string few = sensitivity_warning(run_options_, 1);
  EXPECT_NE(few.find("of 1 calibration sequences 1 are measured on"), std::string::npos) << few;
}

}  // namespace
}  // namespace metal_marlin
