// Conversions between 4-bit formats: the same codes, zeros and scales, refusals that name the tensor, and nothing half
// done.
#include <gtest/gtest.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/model_source.h"
#include "core/files/atomic_file.h"
#include "core/half.h"
#include "core/random.h"
#include "formats/safetensors.h"
#include "formats/support.h"
#include "pack/native.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::TemporaryFolder;

struct Sizes {
  int64_t hidden = 16;
  int64_t intermediate = 24;
  int64_t kv = 8;
};

// Random codes for each linear of a one-layer Llama.
struct Model : TensorProvider {
  Sizes sizes;
  CheckpointPlan plan;
  std::map<std::string, QuantizedTensor> codes;

  Model(Sizes s, int64_t group, bool symmetric, uint64_t seed, uint8_t least_zero = 0) : sizes(s) {
    plan.group_size = group;
    plan.symmetric = symmetric;
    Random random(seed);
    for (const auto& [name, shape] : shapes()) {
      if (!name.ends_with("_proj.weight")) continue;
      QuantizedTensor t{.out_features = shape[0],
                        .in_features = shape[1],
                        .group_size = group < 0 ? shape[1] : group,
                        .bits = 4,
                        .symmetric = symmetric};
      t.codes.resize(static_cast<size_t>(shape[0] * shape[1]));
      for (uint8_t& code : t.codes) code = static_cast<uint8_t>(random.below(16));
      t.scales.resize(static_cast<size_t>(shape[0] * t.groups()));
      for (uint16_t& scale : t.scales) scale = f32_to_f16(static_cast<float>(0.1 * random.normal()));
      t.zeros.resize(t.scales.size());
      for (uint8_t& zero : t.zeros) zero = symmetric ? 8 : std::max(least_zero, static_cast<uint8_t>(random.below(16)));
      if (!symmetric) t.zeros[0] = 5;
      plan.quantized.push_back({name, shape[0], shape[1], t.group_size, "", 4, symmetric});
      codes.emplace(name, std::move(t));
    }
  }
  std::map<std::string, std::vector<int64_t>> shapes() const {
    const std::string layer = "model.layers.0.";
    const auto [h, i, kv] = sizes;
    return {{"model.embed_tokens.weight", {12, h}},
            {"lm_head.weight", {12, h}},
            {"model.norm.weight", {h}},
            {layer + "input_layernorm.weight", {h}},
            {layer + "post_attention_layernorm.weight", {h}},
            {layer + "self_attn.q_proj.weight", {h, h}},
            {layer + "self_attn.q_proj.bias", {h}},
            {layer + "self_attn.k_proj.weight", {kv, h}},
            {layer + "self_attn.k_proj.bias", {kv}},
            {layer + "self_attn.v_proj.weight", {kv, h}},
            {layer + "self_attn.v_proj.bias", {kv}},
            {layer + "self_attn.o_proj.weight", {h, h}},
            {layer + "self_attn.o_proj.bias", {h}},
            {layer + "mlp.gate_proj.weight", {i, h}},
            {layer + "mlp.up_proj.weight", {i, h}},
            {layer + "mlp.down_proj.weight", {h, i}}};
  }
  QuantizedTensor quantized(const std::string& name) override { return codes.at(name); }
  OwnedTensor changed(const std::string&) override { throw std::runtime_error("none"); }

  // The model in `format`; floats of type `type`.
  void write(const TemporaryFolder& folder, const std::string& format, DType type = DType::kF16) {
    const std::string floats = folder.path("floats");
    fs::create_directories(floats);
    const json config = {{"model_type", "llama"},
                         {"architectures", {"LlamaForCausalLM"}},
                         {"vocab_size", 12},
                         {"hidden_size", sizes.hidden},
                         {"intermediate_size", sizes.intermediate},
                         {"num_hidden_layers", 1},
                         {"num_attention_heads", sizes.hidden / 8},
                         {"num_key_value_heads", sizes.kv / 8},
                         {"head_dim", 8},
                         {"max_position_embeddings", 32},
                         {"rms_norm_eps", 1e-5},
                         {"hidden_act", "silu"},
                         {"attention_bias", true},
                         {"tie_word_embeddings", false},
                         {"torch_dtype", type == DType::kF16 ? "float16" : "bfloat16"}};
    write_text_file(floats + "/config.json", config.dump());
    write_text_file(floats + "/tokenizer.json", R"({"version": "1.0", "note": "any"})");
    write_text_file(floats + "/generation_config.json", R"({"eos_token_id": 3})");
    write_text_file(floats + "/chat_template.jinja", "{{ messages }}");
    std::vector<OwnedTensor> tensors;
    Random random(9);
    for (const auto& [name, shape] : shapes()) {
      OwnedTensor t{name, type, shape, Buffer()};
      t.bytes = Buffer(static_cast<size_t>(t.view().elements()) * 2);
      for (int64_t i = 0; i < t.view().elements(); ++i) {
        const auto value = static_cast<float>(1e-3 * random.normal());
        reinterpret_cast<uint16_t*>(t.bytes.data())[i] = type == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
      }
      tensors.push_back(std::move(t));
    }
    write_safetensors(floats + "/model.safetensors", std::span<const OwnedTensor>(tensors), {{"format", "pt"}});
    const auto source = ModelSource::open(floats);
    CheckpointWriter::of(format).write(*source, plan, *this, folder.path(format));
  }
};

std::string weights(const std::string& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") return read_text_file(entry.path().string());
  }
  return "";
}
json config_of(const std::string& folder) {
  return json::parse(read_text_file(folder + "/config.json"));
}
std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

void expect_codes(const std::string& folder, const Model& model) {
  const auto source = ModelSource::open(folder);
  source->check();
  for (const auto& [name, t] : model.codes) {
    const auto stored = source->load_codes(name);
    ASSERT_TRUE(stored.has_value()) << name;
    EXPECT_TRUE(stored->tensor.codes == t.codes) << name;
    EXPECT_TRUE(stored->tensor.zeros == t.zeros) << name;
    EXPECT_TRUE(stored->tensor.scales == t.scales) << name;
    EXPECT_TRUE(stored->tensor.group_index == t.group_index) << name;
    EXPECT_EQ(stored->tensor.group_size, t.group_size) << name;
  }
}

json convert(const std::string& from, const std::string& to_folder, const std::string& to, bool overwrite = false) {
  return json::parse(convert_model(from, to_folder, {.to = to, .overwrite = overwrite}).to_json());
}

// A -> B -> A: codes as they were made, and the last file equal to the first byte by byte.
void round_trip(Model& model, const std::string& a, const std::string& b) {
  SCOPED_TRACE(a + " -> " + b);
  TemporaryFolder folder;
  model.write(folder, a);
  const json report = convert(folder.path(a), folder.path("b"), b);
  EXPECT_EQ(report["from"], a);
  EXPECT_EQ(report["to"], b);
  EXPECT_EQ(report["linears"], 7);
  EXPECT_EQ(report["kept"], 9);
  expect_codes(folder.path("b"), model);
  convert(folder.path("b"), folder.path("c"), a);
  expect_codes(folder.path("c"), model);
  EXPECT_EQ(weights(folder.path("c")), weights(folder.path(a)));
  EXPECT_EQ(config_of(folder.path("c"))["quantization_config"], config_of(folder.path(a))["quantization_config"]);
  for (const char* name : {"tokenizer.json", "generation_config.json", "chat_template.jinja"}) {
    EXPECT_EQ(read_text_file(folder.path("b") + "/" + name), read_text_file(folder.path("floats") + "/" + name));
  }
}

TEST(Convert, ThereAndBackIsTheIdentity) {
  Random random(21);
  const std::vector<std::string> formats = {"native", "awq", "gptq", "gptq_v2", "compressed-tensors"};
  for (const std::string& a : formats) {
    for (const std::string& b : formats) {
      if (a == b) continue;
      for (int i = 0; i < 3; ++i) {
        const auto size = [&](int64_t most) {
          return 8 * static_cast<int64_t>(1 + random.below(static_cast<uint64_t>(most)));
        };
        Sizes sizes{size(9), size(17), 8};
        const bool v1 = a == "gptq" || b == "gptq";
        Model model(sizes, i == 1 ? -1 : 8, i == 2, random.below(1000), v1 ? 1 : 0);
        round_trip(model, a, b);
      }
    }
  }
}

TEST(Convert, MarlinThereAndBackIsTheIdentity) {
  for (const std::string other : {"native", "awq", "gptq", "gptq_v2", "compressed-tensors", "mlx"}) {
    for (const int64_t group : {int64_t{128}, int64_t{-1}}) {
      if (group < 0 && other == "mlx") continue;  // it has no whole rows
      Model model({256, 256, 256}, group, true, 5);
      if (group > 0) round_trip(model, "marlin", other);
      if (group < 0) round_trip(model, other, "marlin");
    }
  }
}

// Into the format that it has: what reading mends stays mended.
TEST(Convert, IntoItsOwnFormatIsACleanRewrite) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.method = Method::kRtn;
  options.formats = {"native", "awq", "gptq", "gptq_v2", "compressed-tensors"};
  options.scheme = Scheme::kSymmetric;
  options.group_size = 8;
  options.evaluation.text = "none";
  quantize_model(std::string(TEST_DATA) + "/models/llama", folder.path("q"), options);
  for (const std::string& format : options.formats) {
    SCOPED_TRACE(format);
    const fs::path made = fs::path(folder.path("q")) / format;
    const fs::path out = folder.path("again-" + format);
    const json report = json::parse(convert_model(made.string(), out.string(), {.to = format}).to_json());
    EXPECT_EQ(report["from"], format);
    EXPECT_EQ(report["to"], format);
    const std::string weights = format == "native" ? "model.awq.safetensors" : "model.safetensors";
    EXPECT_EQ(read_text_file((out / weights).string()), read_text_file((made / weights).string()));
  }
  // The label is wrong, and the rewritten one right.
  const fs::path wrong = folder.path("wrong");
  fs::copy(fs::path(folder.path("q")) / "gptq", wrong);
  json config = json::parse(read_text_file((wrong / "config.json").string()));
  for (const char* key : {"checkpoint_format", "format"}) config["quantization_config"][key] = "gptq_v2";
  write_text_file((wrong / "config.json").string(), config.dump());
  convert_model(wrong.string(), folder.path("cured"), {.to = "gptq"});
  const auto cured = ModelSource::open(folder.path("cured"));
  EXPECT_EQ(cured->format(), "gptq");
  EXPECT_TRUE(cured->warnings().empty()) << cured->warnings().front();
}

TEST(Convert, BetweenGptqVersionsEverythingElseStays) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.plan.keep_types = true;
  model.write(folder, "gptq", DType::kBF16);
  convert(folder.path("gptq"), folder.path("v2"), "gptq_v2");
  const SafetensorsFile a(folder.path("gptq/model.safetensors"));
  const SafetensorsFile b(folder.path("v2/model.safetensors"));
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const TensorView& t : a.tensors()) {
    const TensorView& other = b.get(t.name);
    EXPECT_EQ(other.dtype, t.dtype) << t.name;
    const bool same = std::ranges::equal(other.bytes, t.bytes);
    EXPECT_TRUE(same || t.name.ends_with(".qzeros")) << t.name;
  }
  EXPECT_EQ(config_of(folder.path("v2"))["torch_dtype"], "bfloat16");
  // Elsewhere floats become float16: engines allocate the scales in the model's type.
  convert(folder.path("gptq"), folder.path("awq"), "awq");
  EXPECT_EQ(SafetensorsFile(folder.path("awq/model.safetensors")).get("model.norm.weight").dtype, DType::kF16);
  EXPECT_EQ(config_of(folder.path("awq"))["torch_dtype"], "float16");
}

TEST(Convert, OtherFilesGoAlong) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.write(folder, "gptq");
  for (const char* name : {"LICENSE", "NOTICE.txt", "quant_log.csv", ".gitattributes", "pytorch_model.bin"})
    folder.write(std::string("gptq/") + name, "text\n");
  convert(folder.path("gptq"), folder.path("awq"), "awq");
  EXPECT_EQ(names_in(folder.path("awq")),
            (std::set<std::string>{"model.safetensors", "config.json", "tokenizer.json", "generation_config.json",
                                   "chat_template.jinja", "README.md", "LICENSE", "NOTICE.txt", ".metal-marlin.json"}));
  EXPECT_EQ(read_text_file(folder.path("awq/LICENSE")), "text\n");
  convert(folder.path("gptq"), folder.path("awq"), "awq", true);  // a folder with a licence is a checkpoint's still
}

TEST(Convert, ConfigsOfEachFormat) {
  TemporaryFolder folder;
  Model model({256, 256, 256}, 128, true, 1);
  // gate and up in 16 bits
  std::erase_if(model.plan.quantized, [](const QuantizedLinear& l) {
    return l.name.find("gate") != std::string::npos || l.name.find("up_") != std::string::npos;
  });
  model.write(folder, "native");
  for (const std::string to : {"awq", "gptq", "gptq_v2", "marlin"}) convert(folder.path("native"), folder.path(to), to);
  const std::string gate = "model.layers.0.mlp.gate_proj";
  const std::string up = "model.layers.0.mlp.up_proj";
  for (const std::string to : {"gptq", "gptq_v2"}) {
    const json q = config_of(folder.path(to))["quantization_config"];
    EXPECT_EQ(q, json::parse(read_text_file(folder.path(to) + "/quantize_config.json")));
    EXPECT_EQ(q["quant_method"], "gptq");
    EXPECT_EQ(q["checkpoint_format"], to);
    EXPECT_EQ(q["bits"], 4);
    EXPECT_EQ(q["group_size"], 128);
    EXPECT_EQ(q["desc_act"], false);
    EXPECT_EQ(q["sym"], true);
    EXPECT_EQ(q["lm_head"], false);
    EXPECT_EQ(q["pack_dtype"], "int32");
    // For readers that do not know "dynamic": what is quantized, by whole names.
    EXPECT_EQ(q["modules_in_block_to_quantize"].size(), 1u);
    EXPECT_EQ(q["modules_in_block_to_quantize"][0].size(), 5u);
    for (const json& name : q["modules_in_block_to_quantize"][0])
      EXPECT_TRUE(model.codes.count(name.get<std::string>() + ".weight") > 0 && name != gate && name != up);
    EXPECT_EQ(
        q["dynamic"],
        json::parse(
            R"x({"-:^model\\.layers\\.0\\.mlp\\.gate_proj$": {}, "-:^model\\.layers\\.0\\.mlp\\.gate_up_proj$": {}, "-:^model\\.layers\\.0\\.mlp\\.up_proj$": {}})x"));
  }
  const json awq = config_of(folder.path("awq"))["quantization_config"];
  EXPECT_EQ(awq["modules_to_not_convert"], json({gate, up, "lm_head"}));
  const json marlin = config_of(folder.path("marlin"))["quantization_config"];
  EXPECT_EQ(marlin["quant_method"], "marlin");
  EXPECT_EQ(marlin["group_size"], 128);
  // What is left in 16 bits is read so.
  for (const std::string to : {"awq", "gptq", "marlin"}) {
    const auto source = ModelSource::open(folder.path(to));
    source->check();
    EXPECT_FALSE(source->load_codes(up + ".weight").has_value());
    EXPECT_TRUE(source->load_codes("model.layers.0.mlp.down_proj.weight").has_value());
  }
}

template <typename E>
void expect_refused(const TemporaryFolder& folder, const std::string& from, const std::string& to,
                    const std::vector<std::string>& texts) {
  const auto before = names_in(folder.path(""));
  test::check_error(test::expect<E>(texts), [&] { convert(folder.path(from), folder.path("refused"), to); });
  EXPECT_EQ(names_in(folder.path("")), before);
}

TEST(ConvertRefuses, WhatTheTargetCannotHold) {
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  {
    TemporaryFolder folder;
    Model model({256, 256, 256}, 128, true, 1);
    model.codes.at(down).zeros[3] = 7;
    model.write(folder, "awq");
    expect_refused<UnsupportedError>(folder, "awq", "marlin", {down, "zero points"});
  }
  {
    TemporaryFolder folder;
    Model model({16, 24, 8}, 8, false, 1, 1);
    model.codes.at(down).zeros[7] = 0;  // output channel 2, group 1
    model.write(folder, "gptq_v2");
    expect_refused<UnsupportedError>(folder, "gptq_v2", "gptq", {down, "channel 2, group 1 is 0", "gptq_v2"});
  }
  {
    TemporaryFolder folder;
    Model model({256, 256, 256}, 64, true, 1);
    model.write(folder, "awq");
    expect_refused<UnsupportedError>(folder, "awq", "marlin", {"_proj.weight", "groups of 128", "64"});
  }
  {
    TemporaryFolder folder;
    Model model({128, 256, 128}, 128, true, 1);
    model.write(folder, "awq");
    expect_refused<UnsupportedError>(folder, "awq", "marlin", {"_proj.weight", "128", "256"});
  }
  {
    TemporaryFolder folder;
    Model model({16, 24, 8}, 8, true, 1);
    for (QuantizedLinear& l : model.plan.quantized) {
      if (l.name == down) l.group_size = 24;
    }
    QuantizedTensor& t = model.codes.at(down);
    t.group_size = 24;
    t.scales.resize(16);
    t.zeros.resize(16);
    model.write(folder, "native");
    expect_refused<UnsupportedError>(folder, "native", "awq", {down, "groups of 24", "8"});
  }
}

TEST(ConvertRefuses, ActOrderWhereThereIsNoGroupIndex) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, false, 1, 1);
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  for (int32_t k = 0; k < 24; ++k) model.codes.at(down).group_index.push_back((k * 5 + 2) % 3);
  model.plan.act_order = true;
  model.write(folder, "gptq");
  EXPECT_EQ(config_of(folder.path("gptq"))["quantization_config"]["desc_act"], true);
  expect_refused<UnsupportedError>(folder, "gptq", "awq", {down, "act order"});
  expect_refused<UnsupportedError>(folder, "gptq", "native", {down, "act order"});
  convert(folder.path("gptq"), folder.path("v2"), "gptq_v2");
  expect_codes(folder.path("v2"), model);
  EXPECT_EQ(config_of(folder.path("v2"))["quantization_config"]["desc_act"], true);
  // Dequantized by their groups, and never handed out as consecutive ones.
  const auto source = ModelSource::open(folder.path("v2"));
  EXPECT_FALSE(source->load_quantized(down).has_value());
  const QuantizedTensor& t = model.codes.at(down);
  const Matrix w = source->load(down);
  for (int64_t n = 0; n < 16; ++n) {
    for (int64_t k = 0; k < 24; ++k) {
      const auto at = static_cast<size_t>(n * 3 + (k * 5 + 2) % 3);
      ASSERT_EQ(w(n, k),
                static_cast<float>(t.codes[static_cast<size_t>(n * 24 + k)] - t.zeros[at]) * f16_to_f32(t.scales[at]));
    }
  }
}

TEST(ConvertRefuses, AStoredQScale) {
  for (const bool ones : {true, false}) {
    TemporaryFolder folder;
    Model model({16, 24, 8}, 8, true, 1);
    model.write(folder, "native");
    const std::string path = folder.path("native/model.awq.safetensors");
    std::vector<OwnedTensor> tensors;
    std::map<std::string, std::string> metadata;
    {
      const SafetensorsFile file(path);
      metadata = file.metadata();
      for (const TensorView& t : file.tensors()) {
        tensors.push_back({t.name, t.dtype, t.shape, Buffer(t.bytes.size())});
        std::memcpy(tensors.back().bytes.data(), t.bytes.data(), t.bytes.size());
      }
    }
    OwnedTensor scale{"model.layers.0.self_attn.k_proj.weight.q_scale", DType::kF16, {16}, Buffer(32)};
    for (size_t k = 0; k < 16; ++k)
      reinterpret_cast<uint16_t*>(scale.bytes.data())[k] = f32_to_f16(ones || k != 9 ? 1.0F : 2.0F);
    tensors.push_back(std::move(scale));
    write_safetensors(path, std::span<const OwnedTensor>(tensors), metadata);
    if (ones) {
      convert(folder.path("native"), folder.path("out"), "awq");
      expect_codes(folder.path("out"), model);
    } else {
      expect_refused<UnsupportedError>(folder, "native", "awq", {"k_proj.weight", "q_scale"});
    }
  }
}

TEST(ConvertRefuses, SourcesAndTargetsThatMakeNoSense) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.write(folder, "awq");
  expect_refused<UnsupportedError>(folder, "floats", "awq", {"quantized checkpoint", "safetensors", "quantize"});
  expect_refused<ArgumentError>(folder, "awq", "gguf", {"gguf", "native"});
  EXPECT_THROW(convert(folder.path("awq"), folder.path("awq"), "native", true), ArgumentError);
  EXPECT_THROW(convert(folder.path("awq"), "", "native"), ArgumentError);
  folder.write("file", "x");
  EXPECT_THROW(convert(folder.path("awq"), folder.path("file"), "native", true), ArgumentError);
  EXPECT_THROW(convert(folder.path("nothing"), folder.path("out"), "native"), SystemError);
}

TEST(ConvertOutput, IsReplacedOnlyWhenAskedAndOnlyACheckpoint) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.write(folder, "awq");
  convert(folder.path("awq"), folder.path("out"), "native");
  EXPECT_THROW(convert(folder.path("awq"), folder.path("out"), "gptq_v2"), ArgumentError);
  convert(folder.path("awq"), folder.path("out"), "gptq_v2", true);
  EXPECT_EQ(
      names_in(folder.path("out")),
      (std::set<std::string>{".metal-marlin.json", "README.md", "chat_template.jinja", "config.json",
                             "generation_config.json", "model.safetensors", "quantize_config.json", "tokenizer.json"}));
  expect_codes(folder.path("out"), model);
  folder.write("out/thesis.txt", "years of work");
  test::check_error(test::expect<SystemError>({"thesis.txt"}),
                    [&] { convert(folder.path("awq"), folder.path("out"), "native", true); });
  EXPECT_EQ(read_text_file(folder.path("out/thesis.txt")), "years of work");
  fs::create_directories(folder.path("empty"));
  convert(folder.path("awq"), folder.path("empty"), "native");
  expect_codes(folder.path("empty"), model);
  EXPECT_EQ(names_in(folder.path("")), (std::set<std::string>{"awq", "empty", "floats", "out"}));
}

TEST(ConvertOutput, AnInterruptionLeavesNothingOrTheOld) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.write(folder, "awq");
  int writes = 0;
  convert_model(folder.path("awq"), folder.path("old"), {.to = "native"}, {.on_progress = [&](const Progress& p) {
                  writes += p.stage == "write" ? 1 : 0;
                  return true;
                }});
  ASSERT_GT(writes, 10);
  const std::string old = weights(folder.path("old"));
  const auto before = names_in(folder.path(""));
  for (const int stop : {0, 1, writes / 2, writes - 1}) {
    for (const std::string out : {"new", "old"}) {
      int seen = 0;
      Observer observer;
      observer.on_progress = [&](const Progress& p) { return p.stage != "write" || seen++ != stop; };
      EXPECT_THROW(convert_model(folder.path("awq"), folder.path(out), {.to = "gptq", .overwrite = true}, observer),
                   Interrupted);
    }
    EXPECT_EQ(names_in(folder.path("")), before);
    EXPECT_EQ(weights(folder.path("old")), old);
  }
}

TEST(ConvertOutput, WhatAKilledRunLeftIsRemoved) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.write(folder, "awq");
  fs::create_directories(folder.path("out/.metal-marlin/result"));
  folder.write("out/.metal-marlin/result/model.safetensors", "half");
  folder.write("out/.metal-marlin/result/.metal-marlin-0123456789abcdef.tmp", "half");
  // The old content of a folder that was exchanged: its marker names the folder itself.
  const std::string old = ".out.metal-marlin.0123456789abcdef";
  fs::create_directories(folder.path(old + "/.metal-marlin"));
  folder.write(old + "/.metal-marlin/place.json", "{\"folder\": \"" + old + "\"}");
  convert(folder.path("awq"), folder.path("out"), "native");
  expect_codes(folder.path("out"), model);
  EXPECT_EQ(names_in(folder.path("")), (std::set<std::string>{"awq", "floats", "out"}));
}

// Names that a run may use are no invitation: links lead nowhere, folders of others stay as they are.
TEST(ConvertOutput, WhatOthersPutBesideItIsLeftAlone) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.write(folder, "awq");
  fs::create_directories(folder.path("victim"));
  folder.write("victim/thesis", "precious");
  fs::create_directory_symlink(folder.path("victim"), folder.path(".out.incomplete"));
  fs::create_directory_symlink(folder.path("victim"), folder.path(".out.metal-marlin.0123456789abcdef"));
  fs::create_directories(folder.path(".out.metal-marlin.fedcba9876543210"));
  folder.write(".out.metal-marlin.fedcba9876543210/thesis", "precious");
  convert(folder.path("awq"), folder.path("out"), "native");
  convert(folder.path("awq"), folder.path("out"), "gptq_v2", true);
  expect_codes(folder.path("out"), model);
  EXPECT_FALSE(fs::is_symlink(folder.path("out")));
  EXPECT_EQ(names_in(folder.path("victim")), (std::set<std::string>{"thesis"}));
  EXPECT_EQ(read_text_file(folder.path(".out.metal-marlin.fedcba9876543210/thesis")), "precious");
  fs::remove_all(folder.path("out"));
  fs::create_directories(folder.path("out"));
  fs::create_directory_symlink(folder.path("victim"), folder.path("out/.metal-marlin"));
  EXPECT_THROW(convert(folder.path("awq"), folder.path("out"), "native", true), Error);
  EXPECT_EQ(read_text_file(folder.path("victim/thesis")), "precious");
}

// What looks like a part of a checkpoint, and a whole checkpoint that this program did not make, are not replaced.
TEST(ConvertOutput, WhatThisProgramDidNotWriteIsNotReplaced) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.write(folder, "awq");
  fs::create_directories(folder.path("out"));
  folder.write("out/secrets.json", "{}");
  test::check_error(test::expect<SystemError>({"secrets.json"}),
                    [&] { convert(folder.path("awq"), folder.path("out"), "native", true); });
  EXPECT_EQ(names_in(folder.path("out")), (std::set<std::string>{"secrets.json"}));
  const auto floats = names_in(folder.path("floats"));
  test::check_error(test::expect<SystemError>({"floats", "model.safetensors"}),
                    [&] { convert(folder.path("awq"), folder.path("floats"), "native", true); });
  EXPECT_EQ(names_in(folder.path("floats")), floats);
  // A list that names files elsewhere reaches none of them.
  fs::create_directories(folder.path("forged"));
  folder.write("thesis", "precious");
  folder.write("forged/.metal-marlin.json",
               R"({"program": "metal-marlin", "files": ["../thesis", "..", "/etc/passwd", "awq/config.json", 3]})");
  convert(folder.path("awq"), folder.path("forged"), "native", true);
  EXPECT_EQ(read_text_file(folder.path("thesis")), "precious");
  EXPECT_TRUE(fs::exists(folder.path("awq/config.json")));
  // A listed file in whose place stands a link.
  fs::remove(folder.path("forged/README.md"));
  fs::create_symlink(folder.path("thesis"), folder.path("forged/README.md"));
  test::check_error(test::expect<SystemError>({"README.md", "symbolic link"}),
                    [&] { convert(folder.path("awq"), folder.path("forged"), "gptq_v2", true); });
  // The model is in the folder that would be replaced.
  fs::remove(folder.path("forged/README.md"));
  EXPECT_THROW(convert(folder.path("forged"), folder.path("forged"), "gptq_v2", true), ArgumentError);
}

TEST(ConvertOutput, TwoAtOnceAreRefused) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.write(folder, "awq");
  bool tried = false;
  Observer observer;
  observer.on_progress = [&](const Progress& p) {
    if (p.stage == "write" && !tried) {
      tried = true;
      EXPECT_THROW(convert(folder.path("awq"), folder.path("out"), "gptq"), SystemError);
    }
    return true;
  };
  convert_model(folder.path("awq"), folder.path("out"), {.to = "native"}, observer);
  EXPECT_TRUE(tried);
  expect_codes(folder.path("out"), model);
}

// A weights file that ends early, found while reading: nothing is left of the output.
TEST(ConvertOutput, ADamagedSourceLeavesNothing) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, true, 1);
  model.write(folder, "gptq_v2");
  const std::string path = folder.path("gptq_v2/model.safetensors");
  std::string bytes = read_text_file(path);
  const SafetensorsFile file(path);
  const TensorView& g_idx = file.get("model.layers.0.mlp.up_proj.g_idx");
  const auto at = static_cast<size_t>(g_idx.bytes.data() - file.tensors().front().bytes.data());
  const size_t data = bytes.size() - [&] {
    size_t all = 0;
    for (const TensorView& t : file.tensors()) all += t.bytes.size();
    return all;
  }();
  bytes[data + at + 2] = '\x7f';
  write_text_file(path, bytes);
  expect_refused<FormatError>(folder, "gptq_v2", "awq", {"up_proj", "g_idx"});
}

// Configs as AutoGPTQ and older tools leave them.
TEST(GptqVariants, AreRead) {
  TemporaryFolder folder;
  Model model({16, 24, 8}, 8, false, 1, 1);
  model.write(folder, "gptq");
  const json config = config_of(folder.path("gptq"));
  const auto with = [&](json q, bool beside) {
    json changed = config;
    changed.erase("quantization_config");
    fs::remove(folder.path("gptq/quantize_config.json"));
    if (beside) {
      folder.write("gptq/quantize_config.json", q.dump());
    } else {
      changed["quantization_config"] = q;
    }
    folder.write("gptq/config.json", changed.dump());
    const auto source = ModelSource::open(folder.path("gptq"));
    EXPECT_EQ(source->format(), "gptq");
    EXPECT_TRUE(source->config_json().contains("quantization_config"));
    expect_codes(folder.path("gptq"), model);
  };
  const json least = {{"bits", 4}, {"group_size", 8}, {"desc_act", false}, {"sym", false}};
  with(least, true);  // AutoGPTQ: no quant_method, no checkpoint_format: version 1
  json q = least;
  q["quant_method"] = "gptq";
  with(q, false);
  q["format"] = "gptq";
  with(q, false);
  q["dynamic"] = json{{"-:^lm_head$", json::object()}, {"+:.*up_proj.*", {{"group_size", 8}}}};
  q["rotation"] = nullptr;
  with(q, false);
}

}  // namespace
}  // namespace metal_marlin
