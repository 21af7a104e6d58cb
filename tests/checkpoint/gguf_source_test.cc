// GGUF files against the folders they were converted from, and files built by hand.
#include "checkpoint/gguf/gguf_source.h"

#include <cmath>
#include <functional>
#include <numbers>

#include "checkpoint/gguf_hand_made.h"
#include "checkpoint/models.h"
#include "formats/gguf_builder.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

using test::check_error;
using test::expect;
using test::GgufBuilder;
using test::HandMade;
using test::little;
using test::q4_1_value;
using test::TemporaryFolder;
using test::tiny_model;
using test::values_of;
using test::warns;

void expect_equal(const RopeConfig& a, const RopeConfig& b) {
  EXPECT_EQ(a.type, b.type);
  EXPECT_EQ(a.theta, b.theta);
  EXPECT_EQ(a.factor, b.factor);
  EXPECT_EQ(a.partial_rotary_factor, b.partial_rotary_factor);
  EXPECT_EQ(a.original_max_position_embeddings, b.original_max_position_embeddings);
  EXPECT_EQ(a.low_freq_factor, b.low_freq_factor);
  EXPECT_EQ(a.high_freq_factor, b.high_freq_factor);
  EXPECT_EQ(a.beta_fast, b.beta_fast);
  EXPECT_EQ(a.beta_slow, b.beta_slow);
  // The converter writes longrope's factor, which a folder leaves to be derived.
  EXPECT_TRUE(a.type == RopeType::kLongrope || a.attention_factor == b.attention_factor);
  EXPECT_EQ(a.short_factor, b.short_factor);
  EXPECT_EQ(a.long_factor, b.long_factor);
  EXPECT_EQ(a.mscale, b.mscale);
  EXPECT_EQ(a.mscale_all_dim, b.mscale_all_dim);
  EXPECT_EQ(a.truncate, b.truncate);
}

class Twin : public testing::TestWithParam<std::string> {};

TEST_P(Twin, HasTheConfigOfTheFolder) {
  const auto gguf = ModelSource::open(tiny_model("gguf/" + GetParam() + ".gguf"));
  const auto folder = ModelSource::open(tiny_model(GetParam()));
  EXPECT_EQ(gguf->format(), "gguf");
  const ModelConfig& a = gguf->config();
  const ModelConfig& b = folder->config();
  const bool mistral = GetParam() == "mistral";  // "llama" in GGUF, its window lost
  EXPECT_EQ(a.model_type, mistral ? "llama" : b.model_type);
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.intermediate_size, b.intermediate_size);
  EXPECT_EQ(a.num_hidden_layers, b.num_hidden_layers);
  EXPECT_EQ(a.num_attention_heads, b.num_attention_heads);
  EXPECT_EQ(a.num_key_value_heads, b.num_key_value_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);
  EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
  EXPECT_EQ(a.activation, b.activation);
  EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
  EXPECT_EQ(a.attention_bias, b.attention_bias);
  EXPECT_EQ(a.attention_output_bias, b.attention_output_bias);
  EXPECT_EQ(a.mlp_bias, b.mlp_bias);
  EXPECT_EQ(a.embedding_multiplier, b.embedding_multiplier);
  if (GetParam() == "gemma2") {
    EXPECT_DOUBLE_EQ(a.query_scale, 1 / std::sqrt(12.0));  // query_pre_attn_scalar lost: head_dim, as llama.cpp takes
  } else {
    EXPECT_EQ(a.query_scale, b.query_scale);
  }
  // The converter stores the caps as float32: those of the tiny models are whole numbers.
  EXPECT_EQ(a.attention_logit_softcapping, b.attention_logit_softcapping);
  EXPECT_EQ(a.final_logit_softcapping, b.final_logit_softcapping);
  expect_equal(a.rope, b.rope);
  expect_equal(a.local_rope, b.local_rope);
  EXPECT_EQ(a.sliding_window, mistral ? std::vector<int64_t>({0, 0}) : b.sliding_window);
  EXPECT_EQ(a.layer_uses_local_rope, b.layer_uses_local_rope);
  EXPECT_EQ(a.eos_token_ids, b.eos_token_ids);
  EXPECT_EQ(a.torch_dtype, b.torch_dtype);
}

TEST_P(Twin, HasTheTensorsOfTheFolder) {
  const auto gguf = ModelSource::open(tiny_model("gguf/" + GetParam() + ".gguf"));
  const auto folder = ModelSource::open(tiny_model(GetParam()));
  gguf->check();
  EXPECT_EQ(gguf->family().offset_norm, folder->family().offset_norm);
  EXPECT_TRUE(gguf->left_out().empty());
  const auto expected = folder->tensors();
  ASSERT_EQ(gguf->tensors().size(), expected.size());
  for (const CheckpointTensor& t : expected) {
    SCOPED_TRACE(t.name);
    ASSERT_TRUE(gguf->has(t.name));
    const Matrix a = gguf->load(t.name);
    const Matrix b = folder->load(t.name);
    ASSERT_EQ(a.rows(), b.rows());
    ASSERT_EQ(a.cols(), b.cols());
    // Gemma's norms are stored as 1 + w: half a unit in the last place of a number in [1, 2), twice.
    const float tolerance = gguf->family().offset_norm && t.shape.size() == 1 ? 1.3e-7F : 0;
    for (int64_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a.data()[i], b.data()[i], tolerance) << i;
    if (t.shape.size() < 2) continue;
    const int64_t half = t.shape[0] / 2 - 1;
    const Matrix rows = gguf->load(t.name, half, 3);
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t c = 0; c < b.cols(); ++c) ASSERT_EQ(rows(r, c), a(half + r, c));
    }
    const OwnedTensor stored = gguf->load_stored(t.name);
    EXPECT_EQ(stored.shape, t.shape);
    EXPECT_EQ(test::stored_values(stored.view()), values_of(b));
    EXPECT_EQ(dtype_name(stored.dtype), t.stored_as);
    gguf->release(t.name);
  }
}

INSTANTIATE_TEST_SUITE_P(Gguf, Twin,
                         testing::Values("llama", "llama-bias", "llama-linear", "llama-llama3", "mistral", "qwen2",
                                         "qwen2-yarn", "qwen3", "gemma2", "gemma3", "phi3", "phi3-longrope"),
                         [](const testing::TestParamInfo<std::string>& p) {
                           std::string name = p.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(GgufSource, FolderWithOneFile) {
  TemporaryFolder folder;
  std::filesystem::copy(tiny_model("gguf/qwen2.gguf"), folder.path("a.gguf"));
  ModelSource::open(folder.path(""))->check();
  std::filesystem::copy(tiny_model("gguf/llama.gguf"), folder.path("b.gguf"));
  check_error(expect<FormatError>({"2 .gguf files"}), [&] { ModelSource::open(folder.path("")); });
}

TEST(GgufSource, TokenizerAndCompanions) {
  const auto gguf = ModelSource::open(tiny_model("gguf/llama.gguf"));
  const auto folder = ModelSource::open(tiny_model("llama"));
  EXPECT_EQ(gguf->tokenizer().vocab_size(), 96);
  const std::string text = "the quick brown fox";
  EXPECT_EQ(gguf->tokenizer().encode(text, false), folder->tokenizer().encode(text, false));
  std::vector<std::string> names;
  for (const CompanionFile& file : gguf->companion_files()) {
    names.push_back(file.name);
    EXPECT_TRUE(nlohmann::json::accept(file.content())) << file.name;
  }
  EXPECT_EQ(names, std::vector<std::string>({"tokenizer.json", "tokenizer_config.json", "generation_config.json"}));
}

TEST(GgufSource, Q4_1ComesAsF16OfItsValues) {
  TemporaryFolder folder;
  const auto source = HandMade().open(folder);
  source->check();
  const std::string name = "model.layers.0.self_attn.v_proj.weight";
  const OwnedTensor stored = source->load_stored(name);
  EXPECT_EQ(stored.dtype, DType::kF16);
  const auto values = test::stored_values(stored.view());
  const Matrix m = source->load(name);
  ASSERT_EQ(values.size(), 16U * 32U);
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 32; ++c) {
      EXPECT_EQ(m(r, c), q4_1_value(r, c, 0.25F, -1));
      EXPECT_EQ(values[static_cast<size_t>(r * 32 + c)],
                q4_1_value(r, c, 0.25F, -1));  // multiples of 1/4: exact in f16
    }
  }
  for (const CheckpointTensor& t : source->tensors()) {
    if (t.name == name) {
      EXPECT_EQ(t.stored_as, "Q4_1");
      EXPECT_EQ(t.bytes, 16U * 20U);
    }
  }
  EXPECT_EQ(source->load_stored("model.norm.weight").dtype, DType::kF32);
  EXPECT_EQ(source->config().eos_token_ids.size(), 0U);
}

// The converter writes rows 0, d/2, 1, d/2 + 1, ... of a head of d rows one after another.
TEST(GgufSource, RowsOfQAndKAreUnpermuted) {
  TemporaryFolder folder;
  const auto source = HandMade().open(folder);
  const auto file_row_of = [](int r) { return r / 16 * 16 + (r % 16 < 8 ? 2 * (r % 16) : 2 * (r % 16 - 8) + 1); };
  for (const auto& [name, rows] : {std::pair<std::string, int>{"q_proj", 32}, {"k_proj", 16}}) {
    const Matrix m = source->load("model.layers.0.self_attn." + name + ".weight");
    for (int r = 0; r < rows; ++r) EXPECT_EQ(m(r, 5), q4_1_value(file_row_of(r), 5, 0.25F, -1)) << r;
  }
}

TEST(GgufSource, ValuesBeyondF16AreCounted) {
  TemporaryFolder folder;
  HandMade model;
  model.scale = 5000;  // codes 14 and 15 exceed 65504: 2 of 16 codes, 4 of the 32 columns of every row
  const auto source = model.open(folder);
  check_error(expect<NumericError>({"model.gguf: tensor blk.0.attn_v.weight", "64 of 512", "69999"}),
              [&] { source->load_stored("model.layers.0.self_attn.v_proj.weight"); });
}

TEST(GgufSource, ShortDecimalsComeBack) {
  TemporaryFolder folder;
  HandMade model;
  model.pairs["llama.rope.freq_base"] = HandMade::f32(500000.1F);
  const auto source = model.open(folder);
  EXPECT_EQ(source->config().rms_norm_eps, 1e-5);
  EXPECT_EQ(source->config().rope.theta, 500000.1);
  model.pairs["llama.attention.layer_norm_rms_epsilon"] = HandMade::f64(1e-310);
  EXPECT_EQ(model.open(folder)->config().rms_norm_eps, 1e-310);
}

TEST(GgufSource, Llama3FactorsOfThePublishedModels) {
  TemporaryFolder folder;
  HandMade model;
  model.pairs["llama.rope.freq_base"] = HandMade::f32(500000);
  model.pairs["llama.attention.key_length"] = HandMade::u32(64);
  std::string bytes;
  // transformers: _compute_llama3_parameters with factor 32, low 1, high 4, original 8192 (Llama 3.2)
  for (int i = 0; i < 32; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(500000.0, i / 32.0);
    double factor = 1;
    if (wavelength > 8192) {
      factor = 32;
    } else if (wavelength > 2048) {
      const double smooth = (8192 / wavelength - 1) / 3;
      factor = 1 / ((1 - smooth) / 32 + smooth);
    }
    bytes += little(static_cast<float>(factor));
  }
  const std::string whole = [&] {
    GgufBuilder b;
    for (const auto& [key, value] : model.pairs) b.pairs.push_back(GgufBuilder::text(key) + value);
    b.infos = {GgufBuilder::info("token_embd.weight", {32, 3}, 0, 0),
               GgufBuilder::info("rope_freqs.weight", {32}, 0, 384)};
    b.data = std::string(384, '\0') + bytes;
    return b.bytes();
  }();
  const auto source = ModelSource::open(folder.write("m.gguf", whole));
  EXPECT_EQ(source->config().rope.type, RopeType::kLlama3);
  EXPECT_EQ(source->config().rope.factor, 32);
  EXPECT_EQ(source->config().rope.low_freq_factor, 1);
  EXPECT_EQ(source->config().rope.high_freq_factor, 4);
  EXPECT_EQ(source->config().rope.original_max_position_embeddings, 8192);
}

// ---- damaged metadata and tensors ----

struct Damage {
  std::string name;
  std::function<void(HandMade&)> change;
  test::Expected expected;
};
void PrintTo(const Damage& d, std::ostream* out) {
  *out << d.name;
}
class DamagedGguf : public testing::TestWithParam<Damage> {};

TEST_P(DamagedGguf, IsRefused) {
  TemporaryFolder folder;
  HandMade model;
  GetParam().change(model);
  test::Expected expected = GetParam().expected;
  expected.texts.push_back("model.gguf");
  check_error(expected, [&] { model.open(folder)->check(); });
}

Damage pair(const std::string& name, const std::string& key, const std::string& value, test::Expected expected) {
  return {name, [key, value](HandMade& m) { m.pairs[key] = value; }, std::move(expected)};
}
Damage without(const std::string& key) {
  std::string name = "missing_" + key;
  for (char& c : name) c = c == '.' ? '_' : c;
  return {name, [key](HandMade& m) { m.pairs.erase(key); }, expect<FormatError>({key})};
}
Damage tensor(const std::string& name, const std::string& which, int64_t rows, uint32_t type, test::Expected expected) {
  return {name,
          [which, rows, type](HandMade& m) {
            for (auto& [tensor_name, what] : m.tensors) {
              if (tensor_name == which) what = {rows, type};
            }
          },
          std::move(expected)};
}
Damage lacking(const std::string& name, const std::string& which, std::vector<std::string> texts) {
  return {name, [which](HandMade& m) { std::erase_if(m.tensors, [&](const auto& t) { return t.first == which; }); },
          expect<FormatError>(std::move(texts))};
}
using H = HandMade;

INSTANTIATE_TEST_SUITE_P(
    Gguf, DamagedGguf,
    testing::Values(
        without("general.architecture"), without("llama.embedding_length"), without("llama.feed_forward_length"),
        without("llama.block_count"), without("llama.attention.head_count"), without("llama.context_length"),
        without("llama.attention.layer_norm_rms_epsilon"),
        pair("architecture_unknown", "general.architecture", H::text("mamba"),
             expect<UnsupportedError>({"mamba", "llama, mistral"})),
        pair("architecture_is_a_number", "general.architecture", H::u32(1),
             expect<FormatError>({"general.architecture"})),
        pair("hidden_zero", "llama.embedding_length", H::u32(0), expect<FormatError>({"embedding_length", "found 0"})),
        pair("hidden_huge", "llama.embedding_length", H::u32(UINT32_MAX),
             expect<FormatError>({"embedding_length", "4294967295"})),
        pair("hidden_is_text", "llama.embedding_length", H::text("32"),
             expect<FormatError>({"embedding_length", "string"})),
        pair("heads_beyond_hidden", "llama.attention.head_count", H::u32(64),
             expect<FormatError>({"llama.embedding_length 32 over llama.attention.head_count 64", "found 0"})),
        pair("kv_heads_do_not_divide", "llama.attention.head_count_kv", H::u32(3),
             expect<FormatError>({"llama.attention.head_count_kv"})),
        pair("layers_too_many", "llama.block_count", H::u32(2000000000), expect<FormatError>({"llama.block_count"})),
        pair("layers_more_than_there_are", "llama.block_count", H::u32(2), expect<FormatError>({"blk.1.", "missing"})),
        pair("eps_nan", "llama.attention.layer_norm_rms_epsilon", H::f32(NAN),
             expect<FormatError>({"llama.attention.layer_norm_rms_epsilon"})),
        pair("theta_infinite", "llama.rope.freq_base", H::f32(INFINITY), expect<FormatError>({"llama.rope.freq_base"})),
        pair("values_of_other_size", "llama.attention.value_length", H::u32(8),
             expect<UnsupportedError>({"keys of 16 and values of 8"})),
        pair("scaling_unknown", "llama.rope.scaling.type", H::text("ntk\x1b[31m"),
             expect<UnsupportedError>({"\"ntk\\x1b[31m\"", "yarn"})),
        pair("longrope_without_factors", "llama.rope.scaling.type", H::text("longrope"),
             expect<FormatError>({"longrope", "rope_factors_long.weight"})),
        Damage{"linear_factor_nan",
               [](H& m) {
                 m.pairs["llama.rope.scaling.type"] = H::text("linear");
                 m.pairs["llama.rope.scaling.factor"] = H::f32(NAN);
               },
               expect<FormatError>({"llama.rope.scaling.factor", "found nan"})},
        Damage{"yarn_factor_negative",
               [](H& m) {
                 m.pairs["llama.rope.scaling.type"] = H::text("yarn");
                 m.pairs["llama.rope.scaling.factor"] = H::f32(-2);
               },
               expect<FormatError>({"llama.rope.scaling.factor", "found -2"})},
        Damage{"rope_factors_nan",
               [](H& m) {
                 m.tensors.push_back({"rope_freqs.weight", {0, 0}});
                 m.pairs["llama.attention.key_length"] = H::u32(64);
                 for (int i = 0; i < 32; ++i) m.data["rope_freqs.weight"] += little(i == 9 ? NAN : 1.0F);
               },
               expect<FormatError>({"rope_freqs.weight", "nan at element 9"})},
        pair("adapter", "general.type", H::text("adapter"), expect<FormatError>({"LoRA", "llama-export-lora"})),
        Damage{"lora_tensors", [](H& m) { m.tensors.push_back({"blk.0.attn_q.weight.lora_a", {2, 0}}); },
               expect<FormatError>({"lora_a", "merge"})},
        Damage{"norm_with_a_bias", [](H& m) { m.tensors.push_back({"blk.0.attn_norm.bias", {0, 0}}); },
               expect<FormatError>({"blk.0.attn_norm.bias", "no bias"})},
        pair("scaling_without_factor", "llama.rope.scaling.type", H::text("linear"),
             expect<FormatError>({"rope.scaling.factor"})),
        Damage{"one_part_of_three",
               [](H& m) {
                 m.pairs["split.count"] = H::u32(3);
                 std::erase_if(m.tensors, [](const auto& t) { return t.first == "output_norm.weight"; });
               },
               expect<FormatError>({"3 parts", "NAME-00001-of-00003.gguf", "--merge"})},
        lacking("embedding_missing", "token_embd.weight", {"token_embd.weight", "no such tensor"}),
        lacking("linear_missing", "blk.0.ffn_up.weight", {"blk.0.ffn_up.weight", "missing"}),
        lacking("norm_missing", "blk.0.ffn_norm.weight", {"blk.0.ffn_norm.weight", "missing"}),
        tensor("linear_too_short", "blk.0.ffn_up.weight", 31, 3,
               expect<FormatError>({"blk.0.ffn_up.weight", "[32, 32]", "[31, 32]"})),
        tensor("heads_of_odd_size", "blk.0.attn_q.weight", 31, 3,
               expect<FormatError>({"blk.0.attn_q.weight", "2 heads", "[31, 32]"})),
        tensor("embedding_flat", "token_embd.weight", 0, 0,
               expect<FormatError>({"token_embd.weight", "two dimensions", "[32]"})),
        tensor("norm_of_two_dimensions", "output_norm.weight", 2, 0,
               expect<FormatError>({"output_norm.weight", "[32]", "[2, 32]"})),
        Damage{"output_bias_alone", [](H& m) { m.tensors.push_back({"blk.0.attn_output.bias", {0, 0}}); },
               expect<FormatError>({"blk.0.attn_output.bias", "no bias"})},
        Damage{"rope_factors_of_wrong_length", [](H& m) { m.tensors.push_back({"rope_freqs.weight", {0, 0}}); },
               expect<FormatError>({"rope_freqs.weight", "[8]", "[32]"})},
        Damage{"rope_factors_of_no_rule",
               [](H& m) {
                 m.pairs["llama.attention.key_length"] = H::u32(64);
                 m.tensors.push_back({"rope_freqs.weight", {0, 0}});  // 1, 2, 3, ...
               },
               expect<UnsupportedError>({"rope_freqs.weight", "llama3"})}),
    [](const testing::TestParamInfo<Damage>& p) { return p.param.name; });

TEST(GgufSource, TensorsThatNobodyReadsAreListed) {
  TemporaryFolder folder;
  HandMade model;
  model.tensors.push_back({"v.patch_embd.weight", {4, 0}});
  const auto source = model.open(folder);
  source->check();
  ASSERT_EQ(source->left_out().size(), 1U);
  EXPECT_EQ(source->left_out()[0].name, "v.patch_embd.weight");
}

TEST(GgufSource, StaleKeysOfASplitAreSaid) {
  TemporaryFolder folder;
  HandMade model;
  EXPECT_TRUE(model.open(folder)->warnings().empty());
  model.pairs["split.count"] = HandMade::u32(3);
  const auto source = model.open(folder);
  source->check();
  EXPECT_TRUE(warns(*source, {"split.", "whole model"}));
}

// As llama.cpp, whose default for the type is linear.
TEST(GgufSource, AFactorWithoutATypeIsLinear) {
  TemporaryFolder folder;
  HandMade model;
  model.pairs["llama.rope.scaling.factor"] = HandMade::f32(4);
  const auto source = model.open(folder);
  EXPECT_EQ(source->config().rope.type, RopeType::kLinear);
  EXPECT_EQ(source->config().rope.factor, 4);
  EXPECT_TRUE(warns(*source, {"rope.scaling.type", "linear"}));
  model.pairs["llama.rope.scaling.type"] = HandMade::text("none");
  EXPECT_EQ(model.open(folder)->config().rope.type, RopeType::kDefault);
}

TEST(GgufSource, ATiedFamilyWithAHeadOfItsOwn) {
  TemporaryFolder folder;
  std::string bytes = test::file_content(tiny_model("gguf/gemma3.gguf"));
  const auto tied = ModelSource::open(folder.write("tied.gguf", bytes));
  EXPECT_TRUE(tied->config().tie_word_embeddings);
  HandMade llama;  // Llama: the head that is there counts anyway
  llama.tensors.push_back({"output.weight", {3, 3}});
  EXPECT_FALSE(llama.open(folder)->config().tie_word_embeddings);
}

TEST(GgufSource, TheWarningOfAHeadOfItsOwnNamesWhatTheFileHas) {
  TemporaryFolder folder;
  HandMade model;
  for (const auto& [key, value] : std::map(model.pairs)) {
    if (!key.starts_with("llama.")) continue;
    model.pairs.erase(key);
    model.pairs["gemma2." + key.substr(6)] = value;
  }
  model.pairs["general.architecture"] = HandMade::text("gemma2");
  model.tensors.push_back({"output.weight", {3, 3}});
  model.scale = 0.5F;
  for (int r = 0; r < 3; ++r) model.data["output.weight"] += test::q4_1_row(r, 0.125F, -1);
  const auto source = model.open(folder);
  EXPECT_FALSE(source->config().tie_word_embeddings);
  EXPECT_TRUE(warns(*source, {"token_embd.weight is the head too", "another output.weight", "general.architecture"}));
  for (const char* foreign : {"lm_head", "embed_tokens", "the config"})
    EXPECT_FALSE(warns(*source, {foreign, "is the head too"})) << foreign;
}

// What is missing is said with its cure, in one form for every key.
TEST(GgufSource, ATokenizerWithoutItsKeysNamesTheCure) {
  for (const char* key : {"tokenizer.ggml.model", "tokenizer.ggml.tokens"}) {
    TemporaryFolder folder;
    HandMade model;
    model.pairs["tokenizer.ggml.model"] = HandMade::text("llama");
    if (std::string(key) == "tokenizer.ggml.model") model.pairs.erase(key);
    const auto source = model.open(folder);
    check_error(expect<FormatError>({"model.gguf", key, "missing", "convert_hf_to_gguf.py"}),
                [&] { source->tokenizer(); });
    check_error(expect<FormatError>({"model.gguf", key, "missing", "convert_hf_to_gguf.py"}),
                [&] { source->companion_files(); });
  }
}

TEST(GgufSource, BiasesOfZerosAreLeftOut) {
  TemporaryFolder folder;
  HandMade model;
  for (const char* name : {"blk.0.attn_output.bias", "blk.0.ffn_norm.bias", "output_norm.bias"}) {
    model.tensors.push_back({name, {0, 0}});
    model.data[name] = std::string(128, '\0');
  }
  const auto source = model.open(folder);
  source->check();
  EXPECT_EQ(source->left_out().size(), 3U);
  EXPECT_FALSE(source->has("model.layers.0.self_attn.o_proj.bias"));
  EXPECT_TRUE(warns(*source, {"3 biases", "zeros"}));
}

// A scale that is not finite spoils its whole block: the first value of it is named.
TEST(GgufSource, ScalesOfBlocksThatAreNotFinite) {
  TemporaryFolder folder;
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    HandMade model;
    std::string rows;
    for (int r = 0; r < 3; ++r) rows += test::q4_1_row(r, r == 2 ? bad : 0.25F, -1);
    model.data["token_embd.weight"] = rows;
    const auto source = model.open(folder);
    source->check();
    check_error(expect<NumericError>({"model.gguf", "token_embd.weight", "row 2"}),
                [&] { source->check_finite("model.embed_tokens.weight"); });
    source->check_finite("model.layers.0.self_attn.q_proj.weight");
  }
  HandMade norm;
  for (int i = 0; i < 32; ++i) norm.data["output_norm.weight"] += little(i == 5 ? INFINITY : 1.0F);
  const auto source = norm.open(folder);
  check_error(expect<NumericError>({"output_norm.weight", "element 5"}),
              [&] { source->check_finite("model.norm.weight"); });
}

// A figure beside a key is the one that the file has under it, not one that was computed from it.
TEST(GgufSource, MessagesShowTheValuesOfTheFile) {
  const auto message = [](const HandMade& model) {
    TemporaryFolder folder;
    try {
      model.open(folder)->check();
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  const auto expect_in = [&](const HandMade& model, const std::string& text) {
    const std::string found = message(model);
    EXPECT_NE(found.find(text), std::string::npos) << found;
  };
  HandMade half;
  half.pairs["llama.rope.dimension_count"] = HandMade::u32(8);
  TemporaryFolder folder;
  EXPECT_TRUE(warns(*half.open(folder), {"llama.rope.dimension_count: turns 8 of the 16 dimensions"}));
  EXPECT_FALSE(warns(*half.open(folder), {"0.5"}));
  for (const uint32_t bad : {0U, 5U}) {
    half.pairs["llama.rope.dimension_count"] = HandMade::u32(bad);
    expect_in(half,
              "llama.rope.dimension_count: expected an even number of dimensions from 2, found " + std::to_string(bad));
  }
  HandMade old;
  old.pairs["llama.rope.scale_linear"] = HandMade::f32(-2);
  expect_in(old, "llama.rope.scale_linear: expected a number from 1e-06 to 1e+06, found -2");
  HandMade odd;
  odd.pairs["llama.attention.key_length"] = HandMade::u32(17);
  expect_in(odd, "llama.attention.key_length: expected an even number of dimensions of a head, found 17");
  odd.pairs.erase("llama.attention.key_length");
  odd.pairs["llama.attention.head_count"] = HandMade::u32(6);
  expect_in(odd, "llama.embedding_length 32 over llama.attention.head_count 6");
}

// Who reads a message looks for the name in the file.
TEST(GgufSource, MessagesNameTensorsAndKeysOfTheFile) {
  const auto message = [](HandMade model, const std::function<void(const ModelSource&)>& use) {
    TemporaryFolder folder;
    try {
      const auto source = model.open(folder);
      use(*source);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  const auto expect_names = [](const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << text;
    for (const char* foreign : {"model.norm", "model.layers", "model.embed", "lm_head", "num_", "config.json"})
      EXPECT_EQ(text.find(foreign), std::string::npos) << text;
  };
  const auto check = [](const ModelSource& s) { s.check(); };
  HandMade nan;
  for (int i = 0; i < 32; ++i) nan.data["output_norm.weight"] += little(i == 5 ? std::nanf("") : 1.0F);
  expect_names(message(nan, [](const ModelSource& s) { s.check_finite("model.norm.weight"); }),
               {"tensor output_norm.weight", "nan at element 5"});
  HandMade lacking;
  std::erase_if(lacking.tensors, [](const auto& t) { return t.first == "blk.0.ffn_norm.weight"; });
  expect_names(message(lacking, check), {"tensor blk.0.ffn_norm.weight is missing"});
  HandMade shape;
  for (auto& [name, what] : shape.tensors) {
    if (name == "blk.0.attn_v.weight") what.first = 8;
  }
  expect_names(message(shape, check), {"tensor blk.0.attn_v.weight: expected the shape"});
  HandMade heads;
  heads.pairs["llama.attention.head_count_kv"] = HandMade::u32(3);
  expect_names(message(heads, check), {"llama.attention.head_count_kv"});
  HandMade eps;
  eps.pairs["llama.attention.layer_norm_rms_epsilon"] = HandMade::f32(-1);
  expect_names(message(eps, check), {"llama.attention.layer_norm_rms_epsilon"});
}

}  // namespace
}  // namespace metal_marlin
