// GGUF files written from the tiny models, against those that llama.cpp's converter made of the same folders.
#include "checkpoint/gguf/gguf_output.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "checkpoint/gguf/gguf_metadata.h"
#include "checkpoint/gguf/gguf_names.h"
#include "checkpoint/models.h"
#include "formats/gguf/gguf_set.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary/gguf_vocabulary.h"

namespace metal_marlin {
namespace {

using test::check_error;
using test::expect;
using test::TemporaryFolder;
using test::tiny_model;
using test::values_of;

// A copy of a tiny model with changes to its config.
std::string changed_model(const TemporaryFolder& folder, const std::string& name, const nlohmann::json& changes) {
  const std::string copy = folder.path(name);
  std::filesystem::copy(tiny_model(name), copy);
  std::ifstream in(copy + "/config.json");
  nlohmann::json config = nlohmann::json::parse(in);
  config.merge_patch(changes);
  std::ofstream(copy + "/config.json") << config.dump();
  return copy;
}

// The folder of a tiny model as its GGUF file says it: the converter drops Gemma 2's query_pre_attn_scalar.
std::string folder_of_twin(const TemporaryFolder& folder, const std::string& name) {
  return name == "gemma2" ? changed_model(folder, name, {{"query_pre_attn_scalar", 12}}) : tiny_model(name);
}

std::string written(const ModelSource& source, GgmlType type, const TemporaryFolder& folder, uint64_t most_bytes = 0) {
  GgufPlan plan;
  plan.pairs = gguf_metadata(source, {.file_type = 0, .name = "tiny"}).pairs;
  plan.parts = gguf_parts(source);
  plan.types = gguf_types(plan.parts, type);
  plan.most_bytes = most_bytes;
  const WrittenGguf out = write_gguf(source, plan, nullptr, folder.path("out.gguf"));
  uint64_t bytes = 0;
  for (const std::string& name : out.files) bytes += std::filesystem::file_size(folder.path(name));
  EXPECT_EQ(out.bytes, bytes);
  uint64_t planned = 0;
  for (const GgufFilePlan& file : gguf_files(plan, "out")) planned += file.bytes;
  EXPECT_EQ(out.bytes, planned);
  return folder.path(out.files.front());
}

GgmlType weights_of(const GgufFile& file) {
  return file.get("token_embd.weight").type;
}

class ConverterTwin : public testing::TestWithParam<std::string> {};

TEST_P(ConverterTwin, HasItsTensors) {
  const TemporaryFolder folder;
  const GgufFile expected(tiny_model("gguf/" + GetParam() + ".gguf"));
  const auto source = ModelSource::open(folder_of_twin(folder, GetParam()));
  const GgufFile file(written(*source, weights_of(expected), folder));
  ASSERT_EQ(file.tensors().size(), expected.tensors().size());
  for (const GgufTensor& e : expected.tensors()) {
    SCOPED_TRACE(e.name);
    const GgufTensor& t = file.get(e.name);
    EXPECT_EQ(t.shape, e.shape);
    EXPECT_EQ(t.type, e.type);
    if (e.name == "rope_freqs.weight") {
      // The converter computes in float32.
      for (int64_t i = 0; i < t.elements(); ++i) {
        float a = 0;
        float b = 0;
        std::memcpy(&a, t.bytes.data() + i * 4, 4);
        std::memcpy(&b, e.bytes.data() + i * 4, 4);
        EXPECT_NEAR(a / b, 1, 1e-6) << i;
      }
    } else {
      EXPECT_TRUE(std::equal(t.bytes.begin(), t.bytes.end(), e.bytes.begin(), e.bytes.end()));
    }
  }
}

// Keys that the two have for different reasons.
bool differs_by_design(const std::string& key) {
  static const std::set<std::string> kKeys = {
      "general.name",  // given by the caller
      "general.file_type",
      "tokenizer.ggml.scores",  // the converter has those of tokenizer.model; here they follow from the merges
  };
  return kKeys.contains(key);
}

TEST_P(ConverterTwin, HasItsKeys) {
  const TemporaryFolder folder;
  const GgufFile expected(tiny_model("gguf/" + GetParam() + ".gguf"));
  const auto source = ModelSource::open(folder_of_twin(folder, GetParam()));
  const GgufFile file(written(*source, weights_of(expected), folder));
  for (const auto& [key, value] : expected.metadata().pairs()) {
    if (differs_by_design(key)) continue;
    const GgufValue* own = file.metadata().find(key);
    if (own == nullptr) {
      ADD_FAILURE() << key << " is missing";
      continue;
    }
    EXPECT_EQ(own->type_name(), value.type_name()) << key;
    EXPECT_EQ(gguf_copy(key, *own).value, gguf_copy(key, value).value) << key;
  }
}

TEST_P(ConverterTwin, ReadsAsTheFolder) {
  const TemporaryFolder folder;
  const GgufFile expected(tiny_model("gguf/" + GetParam() + ".gguf"));
  const auto source = ModelSource::open(folder_of_twin(folder, GetParam()));
  const auto again = ModelSource::open(written(*source, weights_of(expected), folder));
  again->check();
  EXPECT_TRUE(again->warnings().empty());
  EXPECT_EQ(again->config().rope, ModelSource::open(tiny_model("gguf/" + GetParam() + ".gguf"))->config().rope);
  EXPECT_EQ(again->config().layer_uses_local_rope, source->config().layer_uses_local_rope);
  for (const CheckpointTensor& t : source->tensors()) {
    const Matrix a = again->load(t.name);
    const Matrix b = source->load(t.name);
    // Gemma's norms are stored as 1 + w: half a unit in the last place of a number in [1, 2), twice.
    const float tolerance = source->family().offset_norm && t.shape.size() == 1 ? 1.3e-7F : 0;
    for (int64_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a.data()[i], b.data()[i], tolerance) << t.name << " " << i;
  }
  for (const std::string_view text : texts_hard_to_cut())
    EXPECT_EQ(again->tokenizer().encode(text, true), source->tokenizer().encode(text, true)) << text;
  EXPECT_EQ(again->tokenizer().eos_id(), source->tokenizer().eos_id());
  EXPECT_EQ(again->tokenizer().chat_template(), source->tokenizer().chat_template());
}

INSTANTIATE_TEST_SUITE_P(Gguf, ConverterTwin,
                         testing::Values("llama", "llama-bias", "llama-linear", "llama-llama3", "mistral", "qwen2",
                                         "qwen2-yarn", "qwen3", "gemma2", "gemma3", "phi3", "phi3-longrope"),
                         [](const testing::TestParamInfo<std::string>& p) {
                           std::string name = p.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(GgufNames, RowOrderIsThatOfThePermutation) {
  // reshape(heads, 2, d / 2).swapaxes(1, 2) of 2 heads of 6 rows.
  EXPECT_EQ(gguf_row_order(12, 2), (std::vector<int64_t>{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}));
  EXPECT_EQ(gguf_row_order(3, 0), (std::vector<int64_t>{0, 1, 2}));
}

// Rows asked for one by one are those of the whole, also of permuted tensors.
TEST(GgufParts, RowsOfAPart) {
  const auto source = ModelSource::open(tiny_model("llama-bias"));
  size_t permuted = 0;
  for (const GgufPart& part : gguf_parts(*source)) {
    permuted += part.heads > 0 ? 1 : 0;
    const int64_t rows = part.shape.size() == 1 ? 1 : part.shape[0];
    const Matrix all = gguf_values(*source, part, 0, rows);
    for (int64_t r = 0; r < rows; ++r) {
      const Matrix one = gguf_values(*source, part, r, 1);
      for (int64_t c = 0; c < all.cols(); ++c) ASSERT_EQ(one(0, c), all(r, c)) << part.gguf;
    }
  }
  EXPECT_EQ(permuted, 8u);  // weights and biases of q and k in two layers
}

// A GGUF model is written again as it is: its keys, its blocks.
TEST(GgufOutput, AGgufModelStaysItself) {
  const TemporaryFolder folder;
  for (const char* name : {"llama", "gemma3", "llama-llama3", "phi3-longrope"}) {
    const GgufFile before(tiny_model(std::string("gguf/") + name + ".gguf"));
    const auto source = ModelSource::open(before.path());
    const GgufFile file(written(*source, weights_of(before), folder));
    for (const auto& [key, value] : before.metadata().pairs()) {
      if (key == "general.name" || key == "general.file_type") continue;
      ASSERT_TRUE(file.metadata().contains(key)) << key;
      EXPECT_EQ(gguf_copy(key, *file.metadata().find(key)).value, gguf_copy(key, value).value) << key;
    }
    EXPECT_EQ(file.metadata().get_string("general.name"), "tiny");
    ASSERT_EQ(file.tensors().size(), before.tensors().size());
    for (const GgufTensor& t : before.tensors())
      EXPECT_TRUE(std::equal(t.bytes.begin(), t.bytes.end(), file.get(t.name).bytes.begin())) << t.name;
  }
}

TEST(GgufOutput, SplitFilesHoldTheWhole) {
  const TemporaryFolder one;
  const TemporaryFolder many;
  const auto source = ModelSource::open(tiny_model("llama"));
  written(*source, GgmlType::kF16, one);
  written(*source, GgmlType::kF16, many, 30000);
  EXPECT_FALSE(std::filesystem::exists(many.path("out.gguf")));
  const auto whole = ModelSource::open(one.path(""));
  const auto split = ModelSource::open(many.path(""));
  EXPECT_GT(split->gguf()->files().size(), 1u);
  split->check();
  for (const CheckpointTensor& t : whole->tensors())
    EXPECT_EQ(values_of(split->load(t.name)), values_of(whole->load(t.name)));
}

TEST(GgufOutput, TheProviderComesFirst) {
  const TemporaryFolder folder;
  const auto source = ModelSource::open(tiny_model("llama"));
  GgufPlan plan{{gguf_pair<uint32_t>("n", 1)}, gguf_parts(*source), {}, 0};
  plan.types = gguf_types(plan.parts, GgmlType::kF32);
  const auto embedding = std::find_if(plan.parts.begin(), plan.parts.end(),
                                      [](const GgufPart& p) { return p.gguf == "token_embd.weight"; });
  plan.types[static_cast<size_t>(embedding - plan.parts.begin())] = GgmlType::kQ8_0;
  // Rows of 32: blocks of 34 bytes.
  const std::string row(34, '\1');
  const auto provider = [&](const GgufPart& part, GgmlType type, const GgufPut& put) {
    if (part.name != "model.embed_tokens.weight") return false;
    EXPECT_EQ(type, GgmlType::kQ8_0);
    for (int64_t r = 0; r < part.shape[0]; ++r) put(test::as_bytes(row));
    return true;
  };
  write_gguf(*source, plan, provider, folder.path("out.gguf"));
  const GgufFile file(folder.path("out.gguf"));
  EXPECT_EQ(file.get("token_embd.weight").type, GgmlType::kQ8_0);
  EXPECT_EQ(file.get("token_embd.weight").bytes[100], std::byte{1});
  check_error(expect<ArgumentError>({"token_embd.weight", "Q8_0"}),
              [&] { write_gguf(*source, plan, nullptr, folder.path("other.gguf")); });
  EXPECT_FALSE(std::filesystem::exists(folder.path("other.gguf")));
}

struct Refusal {
  std::string name;
  std::string model;
  nlohmann::json changes;
  std::vector<std::string> texts;
};

class NotInGguf : public testing::TestWithParam<Refusal> {};

TEST_P(NotInGguf, IsRefusedWithTheReason) {
  const TemporaryFolder folder;
  const auto source = ModelSource::open(changed_model(folder, GetParam().model, GetParam().changes));
  check_error(expect<UnsupportedError>(GetParam().texts), [&] { gguf_metadata(*source, {}); });
}

INSTANTIATE_TEST_SUITE_P(
    Gguf, NotInGguf,
    testing::Values(Refusal{"dynamic", "llama-dynamic", nlohmann::json::object(), {"rope type", "dynamic"}},
                    Refusal{"yarn_mscale", "llama-yarn-mscale", nlohmann::json::object(), {"mscale"}},
                    Refusal{"yarn_attention_factor",
                            "llama-yarn-attention-factor",
                            nlohmann::json::object(),
                            {"attention_factor", "1.4"}},
                    Refusal{"query_scale", "gemma2", nlohmann::json::object(), {"query_pre_attn_scalar", "12", "24"}},
                    Refusal{"activation", "llama", {{"hidden_act", "gelu"}}, {"hidden_act", "silu"}}),
    [](const testing::TestParamInfo<Refusal>& p) { return p.param.name; });

TEST(GgufMetadata, WindowsThatLlamaCppLacksAreSaid) {
  for (const char* name : {"mistral", "qwen2-window", "phi3"}) {
    const GgufKeys keys = gguf_metadata(*ModelSource::open(tiny_model(name)), {});
    ASSERT_EQ(keys.warnings.size(), 1u) << name;
    EXPECT_NE(keys.warnings[0].find("sliding_window"), std::string::npos);
  }
}

// Gemma 3 with another pattern than every sixth layer: the file says it, and the reader reads it.
TEST(GgufMetadata, LayersThatSlideAreNamed) {
  const TemporaryFolder folder;
  const auto source = ModelSource::open(changed_model(folder, "gemma3",
                                                      {{"layer_types",
                                                        {"full_attention", "sliding_attention", "sliding_attention",
                                                         "full_attention", "sliding_attention", "full_attention"}}}));
  const auto again = ModelSource::open(written(*source, GgmlType::kF32, folder));
  EXPECT_EQ(again->config().sliding_window, source->config().sliding_window);
  const GgufValue* pattern = again->gguf()->metadata().find("gemma3.attention.sliding_window_pattern");
  ASSERT_NE(pattern, nullptr);
  EXPECT_EQ(pattern->type_name(), "array of bool");
}

}  // namespace
}  // namespace metal_marlin
