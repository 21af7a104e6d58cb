// Logits, hidden states and linears' inputs of tiny random models of all families against transformers' (float32), from
// safetensors folders and from the GGUF files that llama.cpp's converter makes of them. See
// tests/data/models/README.md.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "checkpoint/model_source.h"
#include "formats/safetensors.h"
#include "model/kv_cache.h"
#include "model/model.h"

namespace metal_marlin {
namespace {

constexpr double kTolerance = 2e-4;  // of the largest value; transformers' own float32 differs by 4e-6 from float64

struct Golden {
  std::string model;   // folder or .gguf file below tests/data/models
  std::string values;  // the safetensors file with the expected numbers
  bool has_states;     // GGUF twins that lose a trait have logits of their own and no hidden states
};
void PrintTo(const Golden& g, std::ostream* out) {
  *out << g.model;
}

std::vector<Golden> all_models() {
  std::vector<Golden> out;
  const std::filesystem::path root = std::filesystem::path(TEST_DATA) / "models";
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const auto name = entry.path().filename().string();
    if (std::filesystem::exists(entry.path() / "golden.safetensors")) {
      out.push_back({name, (entry.path() / "golden.safetensors").string(), true});
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(root / "gguf")) {
    const auto stem = entry.path().stem().string();
    if (entry.path().extension() != ".gguf") continue;
    const auto own = root / "gguf" / (stem + ".golden.safetensors");
    const bool has_own = std::filesystem::exists(own);
    out.push_back({"gguf/" + stem + ".gguf", (has_own ? own : root / stem / "golden.safetensors").string(), !has_own});
  }
  std::sort(out.begin(), out.end(), [](const Golden& a, const Golden& b) { return a.model < b.model; });
  return out;
}

std::span<const float> floats(const TensorView& t) {
  return {reinterpret_cast<const float*>(t.bytes.data()), t.bytes.size() / 4};
}

void expect_close(std::span<const float> got, std::span<const float> want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double largest = 0;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::fabs(static_cast<double>(want[i])));
    const double difference = std::fabs(static_cast<double>(got[i]) - want[i]);
    worst = std::max(worst, std::isnan(difference) ? INFINITY : difference);
  }
  EXPECT_LE(worst, kTolerance * largest) << what << ": largest " << largest;
}

class GoldenTest : public ::testing::TestWithParam<Golden> {
 protected:
  GoldenTest()
      : source_(ModelSource::open(std::string(TEST_DATA) + "/models/" + GetParam().model)),
        values_(GetParam().values) {}

  std::vector<int32_t> ids(const std::string& name) const {
    const TensorView& t = values_.get(name);
    const auto* p = reinterpret_cast<const int32_t*>(t.bytes.data());
    return {p, p + t.bytes.size() / 4};
  }
  Matrix logits(const Matrix& states) const {
    const Head head(*source_);
    Matrix out(states.rows(), head.vocab_size());
    head.logits(states.data(), states.rows(), out.data());
    return out;
  }

  std::unique_ptr<ModelSource> source_;
  SafetensorsFile values_;
};

TEST_P(GoldenTest, EqualsTransformers) {
  const auto& config = source_->config();
  for (const std::string prefix : {"", "short."}) {
    if (values_.find(prefix + "input_ids") == nullptr) continue;
    const auto tokens = ids(prefix + "input_ids");
    const std::vector<int64_t> lengths(2, static_cast<int64_t>(tokens.size()) / 2);
    Matrix states;
    embed(*source_, tokens, states);
    const auto check = [&](int64_t layer) {
      const TensorView* t = values_.find(prefix + "hidden." + std::to_string(layer));
      if (t != nullptr && GetParam().has_states) expect_close(states.values(), floats(*t), t->name);
    };
    check(0);
    BlockForward forward(source_->family(), config);
    for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      forward.run(
          layer, load_block(*source_, layer), states, lengths,
          [&](LinearInput input, const float* x, int64_t rows, int64_t features) {
            constexpr const char* kNames[] = {"self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"};
            const TensorView* t =
                values_.find("tap.model.layers." + std::to_string(layer) + "." + kNames[static_cast<size_t>(input)]);
            if (t != nullptr) expect_close({x, static_cast<size_t>(rows * features)}, floats(*t), t->name);
          });
      check(layer + 1);
    }
    expect_close(logits(states).values(), floats(values_.get(prefix + "logits")), prefix + "logits");
  }
}

TEST_P(GoldenTest, TokenByTokenWithACacheEqualsTransformers) {
  const auto& config = source_->config();
  const auto tokens = ids("input_ids");
  const auto length = static_cast<int64_t>(tokens.size()) / 2;
  // Frequencies that depend on the sequence's length turn earlier keys otherwise than one whole run does.
  if (config.rope.type == RopeType::kDynamic || values_.find("short.input_ids") != nullptr) return;
  BlockForward forward(source_->family(), config);
  std::vector<std::shared_ptr<const PreparedBlock>> blocks;
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) blocks.push_back(forward.prepare(load_block(*source_, l)));
  KvCache cache(config, 2, length, KvType::kF32);
  Matrix got(2 * length, config.vocab_size);
  for (int64_t done = 0; done < length;) {
    const int64_t count = done == 0 ? 3 : 1;
    std::vector<int32_t> part;
    for (int64_t s = 0; s < 2; ++s) {
      const auto first = tokens.begin() + s * length + done;
      part.insert(part.end(), first, first + count);
    }
    Matrix states;
    embed(*source_, part, states);
    for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
      forward.run(l, *blocks[static_cast<size_t>(l)], states, std::vector<int64_t>{count, count}, {}, &cache);
    }
    const Matrix rows = logits(states);
    for (int64_t s = 0; s < 2; ++s) {
      std::copy_n(rows.row(s * count).data(), count * config.vocab_size, got.row(s * length + done).data());
    }
    done += count;
  }
  expect_close(got.values(), floats(values_.get("logits")), "logits");
}

TEST(Golden, EmbeddingRefusesTokensOutsideTheVocabulary) {
  const auto source = ModelSource::open(std::string(TEST_DATA) + "/models/llama");
  Matrix states;
  EXPECT_THROW(embed(*source, std::vector<int32_t>{0, 96}, states), ArgumentError);
  EXPECT_THROW(embed(*source, std::vector<int32_t>{-1}, states), ArgumentError);
  embed(*source, std::vector<int32_t>{}, states);
  EXPECT_EQ(states.rows(), 0);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, ::testing::ValuesIn(all_models()), [](const auto& golden) {
  std::string name = golden.param.model;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
});

}  // namespace
}  // namespace metal_marlin
