// A stream against float64 loops over the blocks of a tiny model: batches, lanes, hooks, scratch files, saved states.
#include "model/stream.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/interrupt.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "checkpoint/model_source.h"
#include "model/model.h"
#include "model/prepared_block.h"
#include "reference.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {
namespace {

constexpr double kTolerance = 1e-4;  // of the largest state: two blocks of float32 sums
constexpr int64_t kBatchTokens = 8;  // three batches: 3 + 4 | 9 | 1 + 6

Matrix states_of(const Stream& stream, int64_t lane = 0) {
  Matrix m(stream.rows(), stream.hidden());
  stream.read_rows(0, m.rows(), m.data(), lane);
  return m;
}

bool same(const Matrix& a, const Matrix& b) {
  return a.rows() == b.rows() && std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * sizeof(float)) == 0;
}

class StreamTest : public ::testing::TestWithParam<const char*> {
 protected:
  StreamTest() : source_(ModelSource::open(std::string(TEST_DATA) + "/models/" + GetParam())) {
    Random random(3);
    for (const int64_t length : {3, 4, 9, 1, 6}) {
      auto& sequence = set_.sequences.emplace_back();
      for (int64_t i = 0; i < length; ++i)
        sequence.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(source_->config().vocab_size))));
    }
  }
  static StreamOptions options() {
    StreamOptions o;
    o.batch_tokens = kBatchTokens;
    return o;
  }
  Stream embedded(const StreamOptions& o = options()) const {
    Stream stream(*source_, set_.lengths(), o);
    for (int64_t lane = 0; lane < o.lanes; ++lane) stream.embed(set_, lane);
    return stream;
  }
  int64_t layers() const { return source_->config().num_hidden_layers; }

  std::unique_ptr<ModelSource> source_;
  TokenSet set_;
};

// A block of a large model takes seconds: it is left between its tiles, and while it is loaded.
TEST_P(StreamTest, AnInterruptEndsAPassWithinTheBlock) {
  TokenSet many;
  for (int i = 0; i < 4; ++i) many.sequences.emplace_back(300, 1);
  Stream stream(*source_, many.lengths());
  stream.embed(many);
  const Block block = load_block(*source_, 0);
  static std::atomic<int> left;
  set_interrupt_check(+[]() noexcept { return left.fetch_sub(1) <= 0; });
  for (const int asks : {0, 3, 12}) {  // 10 tiles before the attention
    left = asks;
    EXPECT_THROW(stream.pass(0, block), Interrupted) << asks;
  }
  left = 0;
  EXPECT_THROW(load_block(*source_, 0), Interrupted);
  EXPECT_THROW(stream.pass_source(0), Interrupted);
  set_interrupt_check(nullptr);
  stream.embed(many);
  EXPECT_GT(stream.pass_source(0), 0);
}

TEST_P(StreamTest, EqualsFloat64BlockByBlock) {
  Stream stream = embedded();
  std::vector<testing::Rows> expected;
  const Matrix start = states_of(stream);
  int64_t row = 0;
  for (const int64_t length : set_.lengths()) {
    auto& rows = expected.emplace_back();
    for (int64_t i = 0; i < length; ++i, ++row) rows.emplace_back(start.row(row).begin(), start.row(row).end());
  }
  for (int64_t layer = 0; layer < layers(); ++layer) {
    std::array<int64_t, kLinearInputs> seen{};
    stream.pass_source(layer, [&](LinearInput input, const float*, int64_t rows, int64_t) {
      seen[static_cast<size_t>(input)] += rows;
    });
    for (const int64_t rows : seen) EXPECT_EQ(rows, stream.rows());
    testing::TestModel plain;
    plain.family = source_->family();
    plain.config = source_->config();
    plain.block = load_block(*source_, layer);
    const Matrix got = states_of(stream);
    double worst = 0;
    double largest = 0;
    row = 0;
    for (auto& rows : expected) {
      rows = testing::reference_forward(plain, layer, rows).states;
      for (const auto& values : rows) {
        for (size_t c = 0; c < values.size(); ++c) {
          worst = std::max(worst, std::fabs(got(row, static_cast<int64_t>(c)) - values[c]));
          largest = std::max(largest, std::fabs(values[c]));
        }
        ++row;
      }
    }
    EXPECT_LT(worst, kTolerance * largest) << "layer " << layer;
  }
}

TEST_P(StreamTest, AllWaysThroughABlockAreTheSame) {
  Stream by_source = embedded();
  by_source.pass_source(0);
  const Matrix expected = states_of(by_source);
  const Block block = load_block(*source_, 0);
  {
    Stream stream = embedded();
    stream.pass(0, block);
    EXPECT_TRUE(same(states_of(stream), expected));
  }
  {
    Stream stream = embedded();
    stream.pass(0, *stream.prepare(block));
    EXPECT_TRUE(same(states_of(stream), expected));
  }
  {
    StreamOptions o = options();
    o.codes = true;  // this model has none
    Stream stream = embedded(o);
    stream.pass_source(0);
    EXPECT_TRUE(same(states_of(stream), expected));
  }
  {
    StreamOptions o = options();
    o.scratch = (std::filesystem::temp_directory_path() / ("stream_" + std::to_string(getpid()))).string();
    Stream stream = embedded(o);
    stream.free_scratch();
    stream.pass_source(0);
    EXPECT_TRUE(same(states_of(stream), expected));
  }
  // One batch. Libraries choose the order of a product's sums by its size.
  Stream whole = embedded({});
  whole.pass_source(0);
  const Matrix other = states_of(whole);
  for (int64_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(other.data()[i], expected.data()[i], 1e-4 * (1 + std::abs(expected.data()[i]))) << i;
}

TEST_P(StreamTest, ALaneGoesThroughABlockWithoutTheOthers) {
  Stream plain = embedded();
  const Matrix before = states_of(plain);
  plain.pass_source(0);
  const Matrix after = states_of(plain);
  StreamOptions o = options();
  o.lanes = 3;
  Stream stream = embedded(o);
  const Block block = load_block(*source_, 0);
  stream.pass(0, block, {}, {0, 2});
  EXPECT_TRUE(same(states_of(stream, 0), before));
  EXPECT_TRUE(same(states_of(stream, 1), before));
  EXPECT_TRUE(same(states_of(stream, 2), after));
  stream.pass(0, block, {}, {1, 1});
  EXPECT_TRUE(same(states_of(stream, 1), after));
  EXPECT_TRUE(same(states_of(stream, 0), before));
}

TEST_P(StreamTest, SavedStatesGoOnAsIfNothingHadBeen) {
  Stream whole = embedded();
  for (int64_t layer = 0; layer < layers(); ++layer) whole.pass_source(layer);
  Stream first = embedded();
  first.pass_source(0);
  const TensorView view = first.saved("states");
  EXPECT_EQ(view.shape, (std::vector<int64_t>{first.rows(), first.hidden()}));
  OwnedTensor kept{view.name, view.dtype, view.shape, Buffer(view.bytes.size())};
  std::memcpy(kept.bytes.data(), view.bytes.data(), view.bytes.size());
  for (const bool spilled : {false, true}) {
    StreamOptions o = options();
    if (spilled) o.scratch = (std::filesystem::temp_directory_path() / ("saved_" + std::to_string(getpid()))).string();
    Stream second(*source_, set_.lengths(), o);
    ASSERT_TRUE(second.restore(kept));
    for (int64_t layer = 1; layer < layers(); ++layer) second.pass_source(layer);
    EXPECT_TRUE(same(states_of(second), states_of(whole)));
  }
  OwnedTensor other{"states", DType::kF16, kept.shape, Buffer(kept.bytes.size())};
  EXPECT_FALSE(first.restore(other));
  other.dtype = DType::kF32;
  other.shape = {kept.shape[1], kept.shape[0]};
  EXPECT_FALSE(first.restore(other));
}

TEST_P(StreamTest, RefusesTokensOfOtherSequences) {
  Stream stream(*source_, {3, 5}, options());
  EXPECT_THROW(stream.embed(set_), ArgumentError);
  TokenSet two;
  two.sequences = {{1, 2, 3}, {4, 5, 6, 7, -1}};
  EXPECT_THROW(stream.embed(two), ArgumentError);
  two.sequences[1].back() = 1;
  stream.embed(two);
}

INSTANTIATE_TEST_SUITE_P(TinyModels, StreamTest, ::testing::Values("llama", "gemma2", "phi3"),
                         [](const auto& model) { return std::string(model.param); });

// Two operations for each weight and token, four for each pair of positions and each value of the queries.
TEST(Stream, CountsTheOperationsOfABlock) {
  const auto source = ModelSource::open(std::string(TEST_DATA) + "/models/llama");
  TokenSet set;
  set.sequences = {{1, 2, 3}, {4, 5}};
  Stream stream(*source, set.lengths(), {});
  stream.embed(set);
  double weights = 0;
  for (const LinearSlot& slot : source->linears(0)) weights += static_cast<double>(slot.rows * slot.columns);
  const double width = static_cast<double>(source->config().num_attention_heads * source->config().head_dim);
  EXPECT_DOUBLE_EQ(stream.pass_source(0), 2 * 5 * weights + 4 * (6 + 3) * width);
}

TEST(Stream, NothingToPass) {
  const auto source = ModelSource::open(std::string(TEST_DATA) + "/models/llama");
  Stream stream(*source, {}, {});
  stream.embed({});
  EXPECT_EQ(stream.pass_source(0), 0);
  EXPECT_EQ(stream.rows(), 0);
}

}  // namespace
}  // namespace metal_marlin
