// Folders in safetensors against the files' own bytes, and what damaged ones end in.
#include "checkpoint/safetensors_source.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "checkpoint/companions.h"
#include "checkpoint/models.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::check_error;
using test::expect;
using test::Shapes;
using test::small_config;
using test::small_shapes;
using test::stored_values;
using test::TemporaryFolder;
using test::tiny_model;
using test::values_of;
using test::write_small_model;

std::vector<std::string> names_of(const ModelSource& source) {
  std::vector<std::string> names;
  for (const CheckpointTensor& t : source.tensors()) names.push_back(t.name);
  return names;
}

void check_folder(const std::string& name, const std::vector<std::string>& files) {
  SCOPED_TRACE(name);
  const auto source = ModelSource::open(tiny_model(name));
  source->check();
  EXPECT_EQ(source->format(), "safetensors");
  size_t count = 0;
  for (const std::string& file : files) {
    const SafetensorsFile raw(tiny_model(name) + "/" + file);
    for (const TensorView& t : raw.tensors()) {
      ++count;
      ASSERT_TRUE(source->has(t.name));
      EXPECT_EQ(values_of(source->load(t.name)), stored_values(t)) << t.name;
      const OwnedTensor stored = source->load_stored(t.name);
      EXPECT_EQ(stored.dtype, t.dtype);
      EXPECT_EQ(stored.shape, t.shape);
      EXPECT_TRUE(std::equal(t.bytes.begin(), t.bytes.end(), stored.bytes.data())) << t.name;
      EXPECT_FALSE(source->load_quantized(t.name).has_value());
      source->release(t.name);
    }
  }
  EXPECT_EQ(source->tensors().size(), count);
  EXPECT_TRUE(source->left_out().empty());
  const auto names = names_of(*source);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
}

TEST(SafetensorsSource, AllFamiliesAndTypes) {
  for (const char* name :
       {"llama", "llama-bias", "llama-dynamic", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"}) {
    check_folder(name, {"model.safetensors"});
  }
}

TEST(SafetensorsSource, Shards) {
  check_folder("llama-linear", {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"});
}

TEST(SafetensorsSource, RowsOfATensor) {
  const auto source = ModelSource::open(tiny_model("llama"));
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  const Matrix all = source->load(name);
  const Matrix some = source->load(name, 5, 3);
  ASSERT_EQ(some.rows(), 3);
  ASSERT_EQ(some.cols(), 32);
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t c = 0; c < 32; ++c) EXPECT_EQ(some(r, c), all(5 + r, c));
  }
  EXPECT_EQ(source->load(name, 30).rows(), 2);
  EXPECT_EQ(source->load(name, 32, 0).rows(), 0);
  EXPECT_EQ(source->load("model.norm.weight").rows(), 1);
  for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{-1, 2}, {31, 2}, {33, -1}, {0, INT64_MAX}}) {
    check_error(expect<ArgumentError>({name}), [&, f = first, r = rows] { source->load(name, f, r); });
  }
  check_error(expect<FormatError>({"nothing.weight", "missing"}), [&] { source->load("nothing.weight"); });
}

TEST(SafetensorsSource, LinearsOfALlama) {
  const auto slots = ModelSource::open(tiny_model("llama"))->linears(1);
  ASSERT_EQ(slots.size(), 7U);
  EXPECT_EQ(slots[1].weight, "model.layers.1.self_attn.k_proj.weight");
  EXPECT_EQ(slots[1].rows, 16);
  EXPECT_EQ(slots[1].columns, 32);
  EXPECT_EQ(slots[6].weight, "model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(slots[6].columns, 40);
  for (const LinearSlot& s : slots) {
    EXPECT_EQ(s.first_row, 0);
    EXPECT_FALSE(s.has_bias);
  }
}

// transformers cuts qkv_proj into heads * d, kv * d, kv * d rows, and gate_up_proj in the middle.
TEST(SafetensorsSource, LinearsOfAPhi3AreRowsOfTwoTensors) {
  const auto source = ModelSource::open(tiny_model("phi3"));
  const auto slots = source->linears(0);
  const int64_t first[] = {0, 32, 48, 0, 0, 40, 0};
  const int64_t rows[] = {32, 16, 16, 32, 40, 40, 32};
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(slots[i].first_row, first[i]);
    EXPECT_EQ(slots[i].rows, rows[i]);
  }
  EXPECT_EQ(slots[2].weight, "model.layers.0.self_attn.qkv_proj.weight");
  EXPECT_EQ(slots[5].weight, "model.layers.0.mlp.gate_up_proj.weight");
  const Matrix v = source->load(slots[2].weight, slots[2].first_row, slots[2].rows);
  const SafetensorsFile raw(tiny_model("phi3/model.safetensors"));
  const auto whole = stored_values(raw.get(slots[2].weight));
  EXPECT_EQ(values_of(v), std::vector<float>(whole.begin() + 48 * 32, whole.end()));
}

TEST(SafetensorsSource, BiasesOfQwen2) {
  const auto slots = ModelSource::open(tiny_model("qwen2"))->linears(0);
  const bool biased[] = {true, true, true, false, false, false, false};
  for (size_t i = 0; i < 7; ++i) EXPECT_EQ(slots[i].has_bias, biased[i]);
}

TEST(SafetensorsSource, Norms) {
  const auto gemma = ModelSource::open(tiny_model("gemma3"));
  EXPECT_EQ(gemma->norm_name(2, NormKind::kPreFeedForward), "model.layers.2.pre_feedforward_layernorm.weight");
  EXPECT_EQ(gemma->norm_name(0, NormKind::kQ), "model.layers.0.self_attn.q_norm.weight");
  const auto llama = ModelSource::open(tiny_model("llama"));
  EXPECT_EQ(llama->norm_name(1, NormKind::kPreFeedForward), "model.layers.1.post_attention_layernorm.weight");
  EXPECT_EQ(llama->norm_name(1, NormKind::kQ), "");
}

TEST(SafetensorsSource, OneFileBesideItsConfig) {
  const auto source = ModelSource::open(tiny_model("llama/model.safetensors"));
  source->check();
  EXPECT_EQ(source->tokenizer().vocab_size(), 96);
}

TEST(SafetensorsSource, CompanionsAreTheFilesThemselves) {
  const auto source = ModelSource::open(tiny_model("llama"));
  const auto files = source->companion_files();
  ASSERT_EQ(files.size(), 2U);
  EXPECT_EQ(files[0].name, "tokenizer.json");
  EXPECT_EQ(files[0].content(), test::file_content(tiny_model("llama/tokenizer.json")));
}

// A model's files come from its own folder, whatever its links say, and none of them can make us wait.
TEST(SafetensorsSource, FilesOutsideTheFolderAndPipesAreRefused) {
  TemporaryFolder elsewhere;
  for (const char* name :
       {"config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json",
        "generation_config.json", "chat_template.jinja", "tokenizer.model", "special_tokens_map.json"}) {
    for (const bool pipe : {false, true}) {
      TemporaryFolder folder;
      write_small_model(folder);
      std::filesystem::remove(folder.path(name));
      if (pipe) {
        ASSERT_EQ(mkfifo(folder.path(name).c_str(), 0600), 0);
      } else {
        elsewhere.write("secret", "{}");
        std::filesystem::create_symlink(elsewhere.path("secret"), folder.path(name));
      }
      check_error(expect<SystemError>({name, pipe ? "regular file" : "symbolic link"}), [&] {
        const auto source = ModelSource::open(folder.path(""));
        for (const CompanionFile& file : source->companion_files()) file.content();
      });
    }
  }
}

TEST(SafetensorsSource, AFileThatChangesIsTold) {
  TemporaryFolder folder;
  write_small_model(folder);
  folder.write("tokenizer.json", "{}");
  const std::string weights = folder.path("model.safetensors");
  const auto size = std::filesystem::file_size(weights);
  const auto source = ModelSource::open(folder.path(""));
  const std::string name = source->tensors().front().name;
  source->load(name);
  std::filesystem::resize_file(weights, size - 1);
  const auto told = expect<SystemError>({"model.safetensors", "changed while it was read"});
  check_error(told, [&] { source->load(name); });
  check_error(told, [&] { source->load_stored(name); });
  check_error(told, [&] { source->digest(); });
  check_error(told, [&] { source->check_unchanged(); });
  folder.write("tokenizer.json", "{ }");
  check_error(expect<SystemError>({"tokenizer.json", "changed since"}), [&] {
    for (const CompanionFile& file : source->companion_files()) file.content();
  });
}

TEST(SafetensorsSource, CompanionsAreAllButWeightsQuantizationAndHiddenFiles) {
  TemporaryFolder folder;
  write_small_model(folder);
  const std::vector<std::string> along = {
      "tokenizer.json", "generation_config.json", "chat_template.jinja", "LICENSE", "Notice.txt", "modeling_own.py",
      "notes.md"};
  for (const std::string& name : along) folder.write(name, "{}");
  for (const char* name :
       {"README.md", "hf_quant_config.json", "quant_log.csv", "report.json", "report.html", "pytorch_model.bin",
        "pytorch_model.bin.index.json", "training.pt", "model.gguf", ".gitattributes", "x.tmp",
        "preprocessor_config.json", "-rf", "a\nb.md", "\x1b]0;x\x07.md", "\u202egnp.md"}) {
    folder.write(name, "{}");
  }
  std::filesystem::create_directory(folder.path("onnx"));
  TemporaryFolder elsewhere;
  elsewhere.write("secret", "s");
  std::filesystem::create_symlink(elsewhere.path("secret"), folder.path("stolen.txt"));
  std::filesystem::create_symlink("LICENSE", folder.path("COPYING"));
  const auto source = ModelSource::open(folder.path(""));
  std::map<std::string, std::string> files;
  for (const CompanionFile& file : source->companion_files()) files[file.name] = file.content();
  std::set<std::string> expected(along.begin(), along.end());
  expected.insert("COPYING");
  std::set<std::string> found;
  for (const auto& [name, content] : files) found.insert(name);
  EXPECT_EQ(found, expected);
  // What else lies there does not make it another model.
  const Digest before = source->digest();
  folder.write("notes.md", "changed");
  EXPECT_EQ(ModelSource::open(folder.path(""))->digest(), before);
  folder.write("generation_config.json", "{ }");
  EXPECT_NE(ModelSource::open(folder.path(""))->digest(), before);
  // A file between others takes the licence along, nothing else that happens to lie there.
  std::set<std::string> beside;
  for (const CompanionFile& file : ModelSource::open(folder.path("model.safetensors"))->companion_files())
    beside.insert(file.name);
  EXPECT_EQ(beside, (std::set<std::string>{"tokenizer.json", "generation_config.json", "chat_template.jinja", "LICENSE",
                                           "Notice.txt", "COPYING"}));
}

// Sparse files take no room where they come from, and all of it where they are written.
TEST(SafetensorsSource, WhatGoesAlongIsBounded) {
  TemporaryFolder folder;
  write_small_model(folder);
  const auto before = companion_bytes(*ModelSource::open(folder.path("")));
  for (int i = 0; i < 16; ++i) {
    const std::string name = "notes" + std::to_string(i) + ".md";
    folder.write(name, "");
    std::filesystem::resize_file(folder.path(name), 16U << 20);
  }
  EXPECT_EQ(companion_bytes(*ModelSource::open(folder.path(""))), before + (256U << 20));
  folder.write("more.md", "x");
  check_error(expect<FormatError>({folder.path(""), "17 files of 256 MiB", "expected at most 1000 of 256 MiB"}),
              [&] { companion_bytes(*ModelSource::open(folder.path(""))); });
  for (int i = 0; i < 16; ++i) std::filesystem::remove(folder.path("notes" + std::to_string(i) + ".md"));
  for (int i = 0; i < 1000; ++i) folder.write(std::to_string(i) + ".txt", "");
  check_error(expect<FormatError>({"1001 files of 0 MiB"}),
              [&] { companion_bytes(*ModelSource::open(folder.path(""))); });
}

TEST(SafetensorsSource, OtherFilesInTheFolderAreLeftAlone) {
  TemporaryFolder folder;
  write_small_model(folder);
  write_safetensors(folder.path("adapter_model.safetensors"), test::f32_tensors({{"lora", {2, 2}}}));
  folder.write("consolidated.safetensors.index.json", "{}");
  const auto source = ModelSource::open(folder.path(""));
  source->check();
  EXPECT_EQ(source->tensors().size(), small_shapes().size());
}

TEST(SafetensorsSource, ShardsWithoutIndexAreAllRead) {
  TemporaryFolder folder;
  folder.write("config.json", small_config().dump());
  Shapes a = small_shapes();
  Shapes b;
  b.insert(a.extract("lm_head.weight"));
  write_safetensors(folder.path("model-00001-of-00002.safetensors"), test::f32_tensors(a));
  write_safetensors(folder.path("model-00002-of-00002.safetensors"), test::f32_tensors(b));
  const auto source = ModelSource::open(folder.path(""));
  source->check();
  EXPECT_EQ(values_of(source->load("lm_head.weight")), test::small_values("lm_head.weight", 12 * 16));
}

TEST(SafetensorsSource, ShardsWithoutIndexMayStandBesideOtherFiles) {
  TemporaryFolder folder;
  folder.write("config.json", small_config().dump());
  write_safetensors(folder.path("model-00001-of-00001.safetensors"), test::f32_tensors(small_shapes()));
  write_safetensors(folder.path("adapter_model.safetensors"), test::f32_tensors({{"lora", {2, 2}}}));
  write_safetensors(folder.path("consolidated.safetensors"), test::f32_tensors(small_shapes()));
  const auto source = ModelSource::open(folder.path(""));
  source->check();
  EXPECT_EQ(source->tensors().size(), small_shapes().size());
}

TEST(SafetensorsSource, OneFileOfAnyNameIsTheModel) {
  TemporaryFolder folder;
  folder.write("config.json", small_config().dump());
  write_safetensors(folder.path("weights.safetensors"), test::f32_tensors(small_shapes()));
  ModelSource::open(folder.path(""))->check();
}

TEST(SafetensorsSource, GenerationConfigAddsEndTokens) {
  TemporaryFolder folder;
  json config = small_config();
  config["eos_token_id"] = 3;
  write_small_model(folder, config);
  folder.write("generation_config.json", R"({"eos_token_id": [7, 3]})");
  EXPECT_EQ(ModelSource::open(folder.path(""))->config().eos_token_ids, std::vector<int32_t>({3, 7}));
  folder.write("generation_config.json", R"({"eos_token_id": "x"})");
  check_error(expect<FormatError>({"generation_config.json", "eos_token_id"}),
              [&] { ModelSource::open(folder.path("")); });
}

TEST(SafetensorsSource, DigestSeesConfigWeightsAndTokenizer) {
  TemporaryFolder folder;
  write_small_model(folder);
  const auto digest = [&] { return ModelSource::open(folder.path(""))->digest(); };
  const Digest first = digest();
  EXPECT_EQ(digest(), first);
  folder.write("tokenizer_config.json", "{}");
  const Digest second = digest();
  EXPECT_NE(second, first);
  json config = small_config();
  config["rms_norm_eps"] = 1e-6;
  folder.write("config.json", config.dump());
  const Digest third = digest();
  EXPECT_NE(third, second);
  // One flipped bit, same size, same time of change.
  const std::string path = folder.path("model.safetensors");
  const auto time = std::filesystem::last_write_time(path);
  std::string bytes = test::file_content(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  folder.write("model.safetensors", bytes);
  std::filesystem::last_write_time(path, time);
  const Digest fourth = digest();
  EXPECT_NE(fourth, third);
  // A copy or a touched file is the same model.
  std::filesystem::last_write_time(path, time + std::chrono::milliseconds(5));
  EXPECT_EQ(digest(), fourth);
}

// A multimodal Gemma 3 as it is published (both namings): the text model inside it, the rest left out.
TEST(SafetensorsSource, TextModelOfAMultimodalGemma3) {
  const SafetensorsFile raw(tiny_model("gemma3-pattern/model.safetensors"));
  json text = json::parse(test::file_content(tiny_model("gemma3-pattern/config.json")));
  for (const char* key : {"architectures", "eos_token_id", "bos_token_id", "torch_dtype", "num_key_value_heads",
                          "max_position_embeddings"})
    text.erase(key);
  text["num_key_value_heads"] = 2;
  const json config = {{"model_type", "gemma3"},   {"architectures", {"Gemma3ForConditionalGeneration"}},
                       {"text_config", text},      {"vision_config", {{"hidden_size", 8}}},
                       {"eos_token_id", {1, 106}}, {"torch_dtype", "bfloat16"}};
  for (const bool old : {true, false}) {
    TemporaryFolder folder;
    folder.write("config.json", config.dump());
    std::vector<TensorView> tensors(raw.tensors().begin(), raw.tensors().end());
    for (TensorView& t : tensors)
      t.name = old ? "language_model." + t.name : "model.language_model." + t.name.substr(6);
    const OwnedTensor vision = test::f32_tensor(old ? "vision_tower.weight" : "model.vision_tower.weight", {4, 4});
    const OwnedTensor projector =
        test::f32_tensor(old ? "multi_modal_projector.weight" : "model.multi_modal_projector.weight", {4});
    tensors.push_back(vision.view());
    tensors.push_back(projector.view());
    write_safetensors(folder.path("model.safetensors"), tensors);
    const auto source = ModelSource::open(folder.path(""));
    source->check();
    EXPECT_EQ(source->family().name, "gemma3");
    EXPECT_EQ(source->config().eos_token_ids, std::vector<int32_t>({1, 106}));
    EXPECT_EQ(source->config_json()["model_type"], "gemma3_text");
    EXPECT_EQ(source->config_json()["architectures"], json::array({"Gemma3ForCausalLM"}));
    EXPECT_EQ(source->config_json()["max_position_embeddings"], 131072);
    EXPECT_EQ(source->tensors().size(), raw.tensors().size());
    const auto left = source->left_out();
    ASSERT_EQ(left.size(), 2U);
    EXPECT_EQ(left[1].name, vision.name);
    for (const TensorView& t : raw.tensors()) EXPECT_EQ(values_of(source->load(t.name)), stored_values(t)) << t.name;
  }
}

// ---- damaged checkpoints: what is written, what it must end in (at opening or in check()) ----

struct Damage {
  std::string name;
  std::function<void(const TemporaryFolder&)> write;
  test::Expected expected;
};
void PrintTo(const Damage& d, std::ostream* out) {
  *out << d.name;
}

class DamagedCheckpoint : public testing::TestWithParam<Damage> {};

TEST_P(DamagedCheckpoint, IsRefused) {
  TemporaryFolder folder;
  GetParam().write(folder);
  check_error(GetParam().expected, [&] { ModelSource::open(folder.path(""))->check(); });
}

Damage shapes(const std::string& name, const std::function<void(Shapes&)>& change, std::vector<std::string> texts) {
  return {name,
          [change](const TemporaryFolder& f) {
            Shapes s = small_shapes();
            change(s);
            write_small_model(f, small_config(), s);
          },
          expect<FormatError>(std::move(texts))};
}
Damage raw_config(const std::string& name, const std::string& content, std::vector<std::string> texts) {
  return {name,
          [content](const TemporaryFolder& f) {
            write_small_model(f);
            f.write("config.json", content);
          },
          expect<FormatError>(std::move(texts))};
}
Damage index(const std::string& name, const std::string& content, test::Expected expected) {
  return {name,
          [content](const TemporaryFolder& f) {
            f.write("config.json", small_config().dump());
            write_safetensors(f.path("model-00001-of-00001.safetensors"), test::f32_tensors(small_shapes()));
            f.write("model.safetensors.index.json", content);
          },
          std::move(expected)};
}
Damage quantization(const std::string& name, const json& value, test::Expected expected) {
  return {name,
          [value](const TemporaryFolder& f) {
            json c = small_config();
            c["quantization_config"] = value;
            write_small_model(f, c);
          },
          std::move(expected)};
}
// The small model in shards of these names, without an index: the head in the last, the rest in all others.
Damage files(const std::string& name, const std::vector<std::string>& names, std::vector<std::string> texts) {
  return {name,
          [names](const TemporaryFolder& f) {
            f.write("config.json", small_config().dump());
            Shapes rest = small_shapes();
            Shapes head;
            head.insert(rest.extract("lm_head.weight"));
            for (const std::string& n : names)
              write_safetensors(f.path(n), test::f32_tensors(n == names.back() ? head : rest));
          },
          expect<FormatError>(std::move(texts))};
}
std::string index_of_small(const std::function<void(json&)>& change) {
  json map = json::object();
  for (const auto& [name, shape] : small_shapes()) map[name] = "model-00001-of-00001.safetensors";
  change(map);
  return json{{"weight_map", map}}.dump();
}

const std::string kQ = "model.layers.0.self_attn.q_proj.weight";

INSTANTIATE_TEST_SUITE_P(
    Checkpoint, DamagedCheckpoint,
    testing::Values(
        Damage{"empty_folder", [](const TemporaryFolder&) {}, expect<FormatError>({"config.json", "neither"})},
        Damage{"no_config",
               [](const TemporaryFolder& f) {
                 write_safetensors(f.path("model.safetensors"), test::f32_tensors(small_shapes()));
               },
               expect<FormatError>({"without a config.json", "copy it"})},
        Damage{"no_weights", [](const TemporaryFolder& f) { f.write("config.json", small_config().dump()); },
               expect<FormatError>({"*.safetensors", "found none"})},
        files("two_files_and_no_index", {"a.safetensors", "b.safetensors"},
              {"index.json", "single *.safetensors", "a.safetensors, b.safetensors", "download"}),
        files("shards_and_another_file",
              {"part-00001-of-00002.safetensors", "part-00002-of-00002.safetensors", "z.safetensors"},
              {"z.safetensors", "belong together"}),
        files("shard_missing_without_index", {"model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"},
              {"model-00002-of-00003.safetensors is missing", "3 shards", "download"}),
        files("shards_of_two_sets",
              {"model-00001-of-00001.safetensors", "model-00001-of-00002.safetensors",
               "model-00002-of-00002.safetensors"},
              {"several sets"}),
        Damage{"tensor_in_two_shards_that_differs",
               [](const TemporaryFolder& f) {
                 f.write("config.json", small_config().dump());
                 write_safetensors(f.path("model-00001-of-00002.safetensors"), test::f32_tensors(small_shapes()));
                 OwnedTensor norm = test::f32_tensor("model.norm.weight", {16});
                 norm.bytes.data()[63] ^= std::byte{1};
                 write_safetensors(f.path("model-00002-of-00002.safetensors"), std::vector<TensorView>{norm.view()});
               },
               expect<FormatError>({"stands in", "model-00001-of-00002.safetensors", "model.norm.weight", "differ"})},
        raw_config("config_is_cut", small_config().dump().substr(0, 60), {"config.json", "no valid JSON"}),
        raw_config("config_is_empty", "", {"config.json", "the file is empty"}),
        raw_config("config_is_an_array", "[1]", {"config.json", "object", "array"}),
        raw_config("config_is_html", "<!DOCTYPE html>", {"config.json", "no valid JSON"}),
        raw_config("config_is_not_utf8", "{\"model_type\": \"\xff\xfe\"}", {"config.json"}),
        raw_config("config_is_nested_endlessly",
                   R"({"model_type": "llama", "hidden_size": )" + std::string(200000, '['), {"config.json", "nesting"}),
        raw_config("wrapper_of_a_string", R"({"model_type": "gemma3", "text_config": "x"})",
                   {"text_config", "an object"}),
        shapes("tensor_missing", [](Shapes& s) { s.erase(kQ); }, {kQ, "missing", "[16, 16]"}),
        shapes("norm_missing", [](Shapes& s) { s.erase("model.norm.weight"); }, {"model.norm.weight", "missing"}),
        shapes("head_missing", [](Shapes& s) { s.erase("lm_head.weight"); }, {"lm_head.weight", "missing"}),
        shapes("linear_transposed", [](Shapes& s) { s["model.layers.0.mlp.down_proj.weight"] = {24, 16}; },
               {"down_proj", "expected the shape [16, 24]", "found [24, 16]"}),
        shapes("linear_flat", [](Shapes& s) { s[kQ] = {256}; }, {kQ, "[16, 16]", "[256]"}),
        shapes("linear_of_three_dimensions", [](Shapes& s) { s[kQ] = {1, 16, 16}; }, {kQ, "[1, 16, 16]"}),
        shapes("linear_empty", [](Shapes& s) { s[kQ] = {0, 16}; }, {kQ, "[0, 16]"}),
        shapes("embedding_too_short", [](Shapes& s) { s["model.embed_tokens.weight"] = {11, 16}; },
               {"embed_tokens", "[12, 16]", "[11, 16]"}),
        shapes("norm_too_long", [](Shapes& s) { s["model.norm.weight"] = {17}; },
               {"model.norm.weight", "[16]", "[17]"}),
        shapes("bias_that_the_config_denies", [](Shapes& s) { s["model.layers.0.mlp.up_proj.bias"] = {24}; },
               {"up_proj.bias", "no bias"}),
        Damage{"bias_missing",
               [](const TemporaryFolder& f) {
                 json c = small_config();
                 c["mlp_bias"] = true;
                 write_small_model(f, c);
               },
               expect<FormatError>({"down_proj.bias", "missing", "[16]"})},
        Damage{"layer_missing",
               [](const TemporaryFolder& f) {
                 json c = small_config();
                 c["num_hidden_layers"] = 2;
                 write_small_model(f, c);
               },
               expect<FormatError>({"model.layers.1.", "missing"})},
        Damage{"weights_of_integers",
               [](const TemporaryFolder& f) {
                 write_small_model(f);
                 auto tensors = test::f32_tensors(small_shapes());
                 for (OwnedTensor& tensor : tensors) {
                   if (tensor.name == kQ) tensor.dtype = DType::kI32;
                 }
                 write_safetensors(f.path("model.safetensors"), tensors);
               },
               expect<UnsupportedError>({kQ, "F32, F16 or BF16", "I32"})},
        Damage{"weights_cut",
               [](const TemporaryFolder& f) {
                 write_small_model(f);
                 const std::string all = test::file_content(f.path("model.safetensors"));
                 f.write("model.safetensors", all.substr(0, all.size() - 5));
               },
               expect<FormatError>({"model.safetensors"})},
        Damage{"weights_of_a_pointer_file",
               [](const TemporaryFolder& f) {
                 write_small_model(f);
                 f.write("model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
               },
               expect<FormatError>({"model.safetensors", "git lfs pull"})},
        Damage{"index_names_a_missing_shard",
               [](const TemporaryFolder& f) {
                 Shapes here = small_shapes();
                 here.erase(kQ);
                 f.write("config.json", small_config().dump());
                 write_safetensors(f.path("model-00001-of-00001.safetensors"), test::f32_tensors(here));
                 f.write("model.safetensors.index.json",
                         index_of_small([](json& m) { m[kQ] = "model-00002-of-00002.safetensors"; }));
               },
               expect<SystemError>({"model-00002-of-00002.safetensors"})},
        index("index_leaves_the_folder", index_of_small([](json& m) { m[kQ] = "../other.safetensors"; }),
              expect<FormatError>({"../other.safetensors"})),
        index("index_without_map", "{}", expect<FormatError>({"weight_map"})),
        index("index_is_no_json", "x", expect<FormatError>({"index.json"})),
        quantization("quantized_by_an_unknown_method", {{"quant_method", "quip"}, {"bits", 4}, {"group_size", 128}},
                     expect<UnsupportedError>({"quip", "awq", "gptq", "metal_marlin"})),
        quantization("gptq_of_an_unknown_format",
                     {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}, {"checkpoint_format", "bitblas"}},
                     expect<UnsupportedError>({"bitblas", "gptq_v2"})),
        quantization("gptq_of_five_bits", {{"quant_method", "gptq"}, {"bits", 5}, {"group_size", 128}},
                     expect<UnsupportedError>({"5 bits", "2, 4 or 8"})),
        quantization("gptq_version_1_of_three_bits", {{"quant_method", "gptq"}, {"bits", 3}, {"group_size", 128}},
                     expect<UnsupportedError>({"3 bits", "2, 4 or 8"})),
        quantization(
            "gptq_with_six_bits_in_places",
            {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 8}, {"dynamic", {{"+:.*down.*", {{"bits", 6}}}}}},
            expect<UnsupportedError>({"down", "6 bits", "2, 4 or 8"})),
        quantization("gptq_of_wide_words",
                     {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 8}, {"pack_dtype", "int64"}},
                     expect<UnsupportedError>({"pack_dtype", "int64"})),
        quantization("gptq_of_a_rotated_model",
                     {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 8}, {"rotation", "hadamard"}},
                     expect<UnsupportedError>({"rotation", "hadamard"})),
        quantization("quantized_to_fp8_of_another_kind", {{"quant_method", "fp8"}, {"fmt", "e5m2"}},
                     expect<UnsupportedError>({"fp8", "e5m2", "e4m3"})),
        quantization("fp8_in_blocks_of_three_sizes", {{"quant_method", "fp8"}, {"weight_block_size", {128, 128, 128}}},
                     expect<FormatError>({"weight_block_size", "two numbers"})),
        quantization("quantization_is_a_string", "awq", expect<FormatError>({"quantization_config", "an object"})),
        quantization("awq_marlin", {{"quant_method", "awq"}, {"version", "marlin"}, {"bits", 4}, {"group_size", 8}},
                     expect<UnsupportedError>({"marlin", "gemm, gemv, gemv_fast and llm-awq"})),
        quantization("awq_of_eight_bits", {{"quant_method", "awq"}, {"bits", 8}, {"group_size", 8}},
                     expect<UnsupportedError>({"8 bits"})),
        quantization("awq_without_group_size", {{"quant_method", "awq"}, {"bits", 4}},
                     expect<FormatError>({"quantization_config.group_size"})),
        quantization("awq_group_size_zero", {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 0}},
                     expect<FormatError>({"quantization_config.group_size"}))),
    [](const testing::TestParamInfo<Damage>& p) { return p.param.name; });

TEST(SafetensorsSource, MissingTokenizerIsNamed) {
  TemporaryFolder folder;
  write_small_model(folder);
  const auto source = ModelSource::open(folder.path(""));
  check_error(expect<SystemError>({"tokenizer.json"}), [&] { source->tokenizer(); });
}

}  // namespace
}  // namespace metal_marlin
