#include "write/checkpoint_writer.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "checkpoint/model_source.h"
#include "core/files/atomic_file.h"
#include "core/half.h"
#include "formats/safetensors.h"
#include "write/model_card.h"
#include "write/tiny_model.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using namespace test;

struct Written {
  TempFolder in;
  TempFolder out;
  std::unique_ptr<ModelSource> source;
  CheckpointPlan plan;
  WriteReport report;

  explicit Written(CheckpointPlan p, const std::map<std::string, std::vector<float>>& replace = {})
      : plan(std::move(p)) {
    write_tiny_model(in.path(), replace);
    source = ModelSource::open(in.path());
  }
  void write(const std::string& format) {
    TinyProvider provider(plan);
    report = CheckpointWriter::of(format).write(*source, plan, provider, out.path());
  }
  json config() const { return json::parse(read_text_file(out / "config.json")); }
};

std::vector<uint32_t> words(const TensorView& t) {
  std::vector<uint32_t> w(t.bytes.size() / 4);
  std::memcpy(w.data(), t.bytes.data(), t.bytes.size());
  return w;
}
std::vector<uint16_t> halves(const TensorView& t) {
  std::vector<uint16_t> h(t.bytes.size() / 2);
  std::memcpy(h.data(), t.bytes.data(), t.bytes.size());
  return h;
}

const std::string kUp = "model.layers.1.mlp.up_proj";
const std::string kK0 = "model.layers.0.self_attn.k_proj";

TEST(CheckpointWriter, AwqLayoutFollowsTheFormula) {
  Written w(tiny_plan(64, false));
  w.write("awq");
  const SafetensorsFile file(w.out / "model.safetensors");
  EXPECT_EQ(file.find(kUp + ".weight"), nullptr);
  const QuantizedTensor q = TinyProvider(w.plan).quantized(kUp + ".weight");
  const TensorView& qweight = file.get(kUp + ".qweight");
  EXPECT_EQ(qweight.dtype, DType::kI32);
  EXPECT_EQ(qweight.shape, (std::vector<int64_t>{kHidden, kIntermediate / 8}));
  constexpr int kInterleave[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  const auto codes = words(qweight);
  for (int64_t k = 0; k < kHidden; ++k) {
    for (int64_t c = 0; c < kIntermediate / 8; ++c) {
      uint32_t expected = 0;
      for (int i = 0; i < 8; ++i)
        expected |= uint32_t{q.codes[static_cast<size_t>((8 * c + kInterleave[i]) * kHidden + k)]} << (4 * i);
      ASSERT_EQ(codes[static_cast<size_t>(k * kIntermediate / 8 + c)], expected) << k << " " << c;
    }
  }
  const auto scales = halves(file.get(kUp + ".scales"));
  for (int64_t n = 0; n < kIntermediate; ++n) {
    for (int64_t g = 0; g < 4; ++g)
      EXPECT_EQ(scales[static_cast<size_t>(g * kIntermediate + n)], q.scales[static_cast<size_t>(n * 4 + g)]);
  }
  EXPECT_EQ(file.get(kUp + ".qzeros").shape, (std::vector<int64_t>{4, kIntermediate / 8}));
}

TEST(CheckpointWriter, AwqEqualsTheBytesOfAutoAwq) {
  const SafetensorsFile golden(std::string(TEST_DATA) + "/formats/awq_asym_g64.safetensors");
  QuantizedTensor q;
  q.out_features = 32;
  q.in_features = 256;
  q.group_size = 64;
  q.symmetric = false;
  const TensorView& codes = golden.get("q.codes");  // [256, 32]
  const TensorView& zeros = golden.get("q.zeros");  // [4, 32]
  const auto scales = halves(golden.get("ref.gemm.scales"));
  for (size_t n = 0; n < 32; ++n) {
    for (size_t k = 0; k < 256; ++k) q.codes.push_back(static_cast<uint8_t>(codes.bytes[k * 32 + n]));
    for (size_t g = 0; g < 4; ++g) q.zeros.push_back(static_cast<uint8_t>(zeros.bytes[g * 32 + n]));
    for (size_t g = 0; g < 4; ++g) q.scales.push_back(scales[g * 32 + n]);
  }
  Written w(tiny_plan(64, false));
  TinyProvider provider(w.plan);
  provider.instead[kK0 + ".weight"] = q;
  CheckpointWriter::of("awq").write(*w.source, w.plan, provider, w.out.path());
  const SafetensorsFile file(w.out / "model.safetensors");
  for (const std::string part : {"qweight", "qzeros", "scales"}) {
    const TensorView& actual = file.get(kK0 + "." + part);
    const TensorView& expected = golden.get("ref.gemm." + part);
    EXPECT_EQ(actual.shape, expected.shape) << part;
    EXPECT_TRUE(std::ranges::equal(actual.bytes, expected.bytes)) << part;
  }
}

TEST(CheckpointWriter, AwqStoresEverythingElseInFloat16) {
  Written w(tiny_plan(64, true, {kUp + ".weight"}));
  w.write("awq");
  const SafetensorsFile in(w.in / "model.safetensors");
  const SafetensorsFile out(w.out / "model.safetensors");
  for (const std::string name :
       {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight"}) {
    const TensorView& t = out.get(name);
    EXPECT_EQ(t.dtype, DType::kF16) << name;
    EXPECT_EQ(t.shape, in.get(name).shape) << name;
    const Matrix expected = w.source->load(name);
    const auto actual = halves(t);
    for (size_t i = 0; i < actual.size(); ++i)
      ASSERT_EQ(actual[i], f32_to_f16(expected.values()[i])) << name << " " << i;
  }
}

TEST(CheckpointWriter, NativeKeepsTypesAndSaysWhatItHolds) {
  CheckpointPlan plan = tiny_plan(64, true);
  plan.quantized[0].folded = "model.layers.0.input_layernorm";
  plan.quantized[1].group_size = 32;
  Written w(plan);
  w.write("native");
  EXPECT_FALSE(std::filesystem::exists(w.out / "model.safetensors"));
  const SafetensorsFile in(w.in / "model.safetensors");
  const SafetensorsFile out(w.out / "model.awq.safetensors");
  for (const std::string name :
       {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight"}) {
    EXPECT_EQ(out.get(name).dtype, in.get(name).dtype);
    EXPECT_TRUE(std::ranges::equal(out.get(name).bytes, in.get(name).bytes)) << name;
  }
  const QuantizedTensor q = TinyProvider(w.plan).quantized(kUp + ".weight");
  const TensorView& weight = out.get(kUp + ".weight");
  EXPECT_EQ(weight.dtype, DType::kU32);
  ASSERT_EQ(weight.shape, (std::vector<int64_t>{kHidden / 8, kIntermediate}));
  const auto codes = words(weight);
  for (int64_t r = 0; r < kHidden / 8; ++r) {
    for (int64_t n = 0; n < kIntermediate; ++n) {
      uint32_t expected = 0;
      for (int i = 0; i < 8; ++i)
        expected |= uint32_t{q.codes[static_cast<size_t>(n * kHidden + 8 * r + i)]} << (4 * i);
      ASSERT_EQ(codes[static_cast<size_t>(r * kIntermediate + n)], expected);
    }
  }
  for (const uint16_t zero : halves(out.get(kUp + ".weight.zeros"))) ASSERT_EQ(zero, 0);

  const auto& metadata = out.metadata();
  const std::map<std::string, std::string> expected = {{"format", "pt"},
                                                       {"quant_type", "awq_int4"},
                                                       {"metal_marlin.version", "1"},
                                                       {"metal_marlin.bits", "4"},
                                                       {"metal_marlin.group_size", "64"},
                                                       {"metal_marlin.symmetric", "true"},
                                                       {"metal_marlin.nibble_offset", "8"},
                                                       {"metal_marlin.q_scale_axis", "in"},
                                                       {"metal_marlin.zeros", "zero_point_minus_8"}};
  for (const auto& [key, value] : expected) EXPECT_EQ(metadata.at(key), value) << key;
  const json tensors = json::parse(metadata.at("metal_marlin.tensors"));
  EXPECT_EQ(tensors.size(), w.plan.quantized.size());
  EXPECT_EQ(tensors.at(w.plan.quantized[0].name).at("q_scale"), "folded:model.layers.0.input_layernorm");
  EXPECT_FALSE(tensors.at(w.plan.quantized[0].name).contains("group_size"));
  EXPECT_EQ(tensors.at(w.plan.quantized[1].name).at("group_size"), 32);
  EXPECT_EQ(tensors.at(kUp + ".weight").at("out_features"), kIntermediate);
}

TEST(CheckpointWriter, ChangedTensorsReplaceTheSources) {
  CheckpointPlan plan = tiny_plan(64, true);
  const std::string norm = "model.layers.0.input_layernorm.weight";
  plan.changed.push_back({norm, DType::kF16});
  for (const std::string format : {"native", "awq"}) {
    Written w(plan);
    w.write(format);
    const SafetensorsFile out(w.out / (format == "native" ? "model.awq.safetensors" : "model.safetensors"));
    const TensorView& t = out.get(norm);
    EXPECT_EQ(t.dtype, DType::kF16);
    const auto values = halves(t);
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(f16_to_f32(values[i]), 1.0f + static_cast<float>(i) / 256.0f);
  }
}

TEST(CheckpointWriter, EveryFormatReadsBackTheSameCodes) {
  for (const std::string format : {"native", "awq", "gptq_v2"}) {
    for (const int64_t group : {int64_t{32}, int64_t{-1}}) {
      for (const bool symmetric : {true, false}) {
        Written w(tiny_plan(group, symmetric));
        w.write(format);
        const auto read = ModelSource::open(w.out.path());
        read->check();
        EXPECT_EQ(read->format(), format);
        TinyProvider provider(w.plan);
        for (const std::string& name : tiny_linears()) {
          const QuantizedTensor expected = provider.quantized(name);
          const auto actual = read->load_quantized(name);
          ASSERT_TRUE(actual.has_value()) << format << " " << name;
          EXPECT_EQ(actual->codes, expected.codes);
          EXPECT_EQ(actual->scales, expected.scales);
          EXPECT_EQ(actual->zeros, expected.zeros);
          EXPECT_EQ(actual->group_size, expected.group_size);
        }
      }
    }
  }
}

TEST(CheckpointWriter, ConfigForOtherEngines) {
  Written w(tiny_plan(64, true, {kUp + ".weight"}));
  w.write("awq");
  json config = w.config();
  EXPECT_EQ(config.at("torch_dtype"), "float16");
  EXPECT_EQ(config.at("dtype"), "float16");
  EXPECT_EQ(config.at("hidden_size"), kHidden);
  EXPECT_EQ(config.at("quantization_config"), (json{{"quant_method", "awq"},
                                                    {"bits", 4},
                                                    {"group_size", 64},
                                                    {"zero_point", true},
                                                    {"version", "gemm"},
                                                    {"modules_to_not_convert", {kUp, "lm_head"}}}));
  w.write("native");
  config = w.config();
  EXPECT_EQ(config.at("torch_dtype"), "bfloat16");
  EXPECT_EQ(config.at("quantization_config"), (json{{"quant_method", "metal_marlin"},
                                                    {"bits", 4},
                                                    {"group_size", 64},
                                                    {"zero_point", false},
                                                    {"version", "native"},
                                                    {"modules_to_not_convert", {kUp, "lm_head"}}}));
}

TEST(CheckpointWriter, ReportCountsBytesAndWeights) {
  Written w(tiny_plan(64, false));
  w.write("awq");
  uint64_t weights = 0;
  for (const std::string& name : tiny_linears())
    weights += static_cast<uint64_t>(tiny_shape(name)[0] * tiny_shape(name)[1]);
  EXPECT_EQ(w.report.quantized_weights, weights);
  // Per group of 64: 32 bytes of codes, 2 of scale, half a byte of zero.
  EXPECT_EQ(w.report.quantized_bytes, weights / 64 * 69 / 2);
  const uint64_t kept = 2 * kVocab * kHidden + (2 * kLayers + 1) * kHidden;
  EXPECT_EQ(w.report.kept_weights, kept);
  EXPECT_EQ(w.report.kept_bytes, 2 * kept);
  EXPECT_DOUBLE_EQ(w.report.bits_per_weight,
                   8.0 * (static_cast<double>(weights) * 34.5 / 64 + 2.0 * static_cast<double>(kept)) /
                       static_cast<double>(weights + kept));
  std::vector<std::string> files;
  for (const WrittenFile& file : w.report.files) {
    files.push_back(file.name);
    EXPECT_EQ(file.bytes, std::filesystem::file_size(w.out / file.name));
  }
  EXPECT_EQ(files.front(), "model.safetensors");
  EXPECT_EQ(files.back(), "config.json");
  EXPECT_TRUE(std::count(files.begin(), files.end(), "tokenizer_config.json"));
  std::sort(files.begin(), files.end());
  EXPECT_EQ(files, names_in(w.out.path()));
}

TEST(CheckpointWriter, ValuesThatFloat16LosesAreListed) {
  std::vector<float> norm(kHidden, 1.0f);
  norm[3] = 1e6f;
  norm[4] = -7e4f;
  norm[5] = 1e-9f;
  Written w(tiny_plan(64, true), {{"model.norm.weight", norm}});
  w.write("awq");
  ASSERT_EQ(w.report.clamped.size(), 1u);
  EXPECT_EQ(w.report.clamped[0].name, "model.norm.weight");
  EXPECT_EQ(w.report.clamped[0].clamped, 2u);
  EXPECT_EQ(w.report.clamped[0].flushed, 1u);
  EXPECT_EQ(w.report.clamped[0].largest, 1e6);
  const SafetensorsFile out(w.out / "model.safetensors");
  const auto values = halves(out.get("model.norm.weight"));
  EXPECT_EQ(f16_to_f32(values[3]), 65504.0f);
  EXPECT_EQ(f16_to_f32(values[4]), -65504.0f);
  w.write("native");
  EXPECT_TRUE(w.report.clamped.empty());
}

TEST(CheckpointWriter, ShardsHoldWholeLinearsAndAreIndexed) {
  CheckpointPlan plan = tiny_plan(64, true);
  plan.max_shard_bytes = 60'000;
  for (const std::string format : {"awq", "native"}) {
    Written w(plan);
    w.write(format);
    const SafetensorsIndex index = read_index(w.out / "model.safetensors.index.json");
    ASSERT_GT(index.files().size(), 2u);
    EXPECT_EQ(index.total_size, w.report.quantized_bytes + w.report.kept_bytes);
    for (const QuantizedLinear& l : plan.quantized) {
      const std::string prefix = module_name(l.name) + ".";
      std::set<std::string> files;
      for (const auto& [name, file] : index.weight_map) {
        if (name.starts_with(prefix)) files.insert(file);
      }
      EXPECT_EQ(files.size(), 1u) << l.name;
    }
    for (const auto& [name, file] : index.weight_map)
      EXPECT_NE(SafetensorsFile(w.out / file).find(name), nullptr) << name;
    const auto read = ModelSource::open(w.out.path());
    EXPECT_EQ(read->load_quantized(kUp + ".weight")->codes, TinyProvider(plan).quantized(kUp + ".weight").codes);

    // Written again as one file, the shards are gone.
    w.plan.max_shard_bytes = 1'000'000'000;
    w.write(format);
    const auto names = names_in(w.out.path());
    EXPECT_EQ(std::count_if(names.begin(), names.end(),
                            [](const std::string& n) { return n.find("safetensors") != std::string::npos; }),
              1);
  }
}

TEST(CheckpointWriter, SameBytesHoweverLittleIsHeld) {
  CheckpointPlan plan = tiny_plan(32, false);
  Written a(plan);
  TinyProvider provider(plan);
  CheckpointWriter::of("native").write(*a.source, plan, provider, a.out.path());
  for (const auto& [name, count] : provider.asked) EXPECT_EQ(count, 1) << name;
  plan.held_bytes = 0;
  plan.whole_bytes = 0;
  Written b(plan);
  b.write("native");
  for (const WrittenFile& file : b.report.files) {
    if (file.name == "README.md") continue;  // names the model by its folder
    EXPECT_EQ(read_text_file(a.out / file.name), read_text_file(b.out / file.name)) << file.name;
  }
}

std::string front_matter(const std::string& card) {
  EXPECT_TRUE(card.starts_with("---\n"));
  return card.substr(4, card.find("\n---\n", 4) - 3);
}

TEST(CheckpointWriter, ModelCardHasFrontMatterAndFigures) {
  CheckpointPlan plan = tiny_plan(64, true, {kUp + ".weight"});
  plan.base_model = "org/tiny-1.5";
  plan.evaluation = "a | \"test\".txt: 32 chunks of 1024 tokens";
  plan.figures.perplexity = {24.190123456789012, 27.5};
  plan.figures.kl_divergence = {0.041234567890123, 0.00061987654321, 0.41876543210987};
  plan.figures.top1_agreement = 0.91234567890123;
  plan.figures.positions = 32736;
  Written w(plan);
  w.write("awq");
  const std::string card = read_text_file(w.out / "README.md");
  const std::string front = front_matter(card);
  for (const char* line :
       {"base_model: org/tiny-1.5\nbase_model_relation: quantized\n", "- awq\n", "figures:\n", "\"reference\": 24.19\n",
        "\"mean\": 0.04123\n", "\"standard_error\": 0.00062\n", "\"p99\": 0.41877\n", "\"top1_agreement\": 0.91235\n",
        "\"text\": \"a | \\\"test\\\".txt: 32 chunks of 1024 tokens\"\n"})
    EXPECT_NE(front.find(line), std::string::npos) << line << front;
  for (const char* line : {"| perplexity, before and after | 24.190, 27.500 |\n", "| 0.04123 ± 0.00062 nats |\n",
                           "| KL divergence, 99 % of positions below | 0.419 nats |\n",
                           "| same top token | 91.23 % |\n", "| positions scored | 32736 |\n",
                           "| evaluated against the source on | a \\| \"test\".txt: 32 chunks of 1024 tokens |\n"})
    EXPECT_NE(card.find(line), std::string::npos) << line << card;
  EXPECT_NE(card.find("| `" + kUp + ".weight` | asked for |"), std::string::npos);
  EXPECT_FALSE(std::regex_search(card, std::regex("[0-9][.][0-9]{6}")))
      << card;  // more digits than the figures can vouch for
}

// Hubs take base_model for the id of a repository: a folder's name is none.
TEST(CheckpointWriter, ModelCardNamesABaseModelOnlyByItsHubId) {
  for (const char* name : {"", "tiny: \"1\"", "org/", "/tiny", "a/b/c", "../tiny", "org/ti ny", "org/tiny: 1"}) {
    CheckpointPlan plan = tiny_plan(64, true);
    plan.base_model = name;
    Written w(plan);
    w.write("native");
    const std::string card = read_text_file(w.out / "README.md");
    EXPECT_EQ(front_matter(card).find("base_model"), std::string::npos) << card;
    EXPECT_NE(
        card.find("# " +
                  (plan.base_model.empty() ? std::filesystem::path(w.in.path()).filename().string() : plan.base_model) +
                  " in 4 bits"),
        std::string::npos)
        << card;
    EXPECT_EQ(card.find("evaluated"), std::string::npos);
  }
  EXPECT_EQ(source_name_of("/cache/models--org--name/snapshots/0123abc"), "org/name");
  EXPECT_EQ(source_name_of("/models/name.Q4_1.gguf"), "name.Q4_1");
  EXPECT_EQ(source_name_of("/models/name/"), "name");
}

TEST(CheckpointWriter, AnErrorLeavesNothingThatLoads) {
  Written w(tiny_plan(64, true));
  w.write("awq");
  TinyProvider provider(w.plan);
  provider.fail_at = kUp + ".weight";
  EXPECT_THROW(CheckpointWriter::of("awq").write(*w.source, w.plan, provider, w.out.path()), Interrupted);
  for (const std::string& name : names_in(w.out.path())) {
    EXPECT_NE(name, "config.json");
    EXPECT_FALSE(name.ends_with(".tmp")) << name;
  }
  w.write("awq");
  EXPECT_EQ(ModelSource::open(w.out.path())->format(), "awq");
}

TEST(CheckpointWriter, FullDiskIsAnErrorAndLeavesNoPart) {
  TempFolder mount_point;
  if (mount("tmpfs", mount_point.path().c_str(), "tmpfs", 0, "size=128k") != 0)
    GTEST_SKIP() << "mounting a tmpfs needs root";
  Written w(tiny_plan(64, true));
  TinyProvider provider(w.plan);
  std::string message;
  try {
    CheckpointWriter::of("awq").write(*w.source, w.plan, provider, mount_point.path());
  } catch (const SystemError& error) {
    message = error.what();
  }
  const auto left = names_in(mount_point.path());
  umount(mount_point.path().c_str());
  EXPECT_NE(message.find("No space left"), std::string::npos) << message;
  EXPECT_TRUE(left.empty());
}

TEST(CheckpointWriter, ReadOnlyFolderIsAnError) {
  TempFolder mount_point;
  Written w(tiny_plan(64, true));
  TinyProvider provider(w.plan);
  std::string folder = mount_point.path();
  const bool root = geteuid() == 0;
  if (root && mount("tmpfs", folder.c_str(), "tmpfs", MS_RDONLY, "size=64k") != 0) GTEST_SKIP() << "cannot mount";
  if (!root)
    std::filesystem::permissions(folder, std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  EXPECT_THROW(CheckpointWriter::of("awq").write(*w.source, w.plan, provider, folder), SystemError);
  EXPECT_TRUE(names_in(folder).empty());
  if (root) umount(folder.c_str());
  if (!root) std::filesystem::permissions(folder, std::filesystem::perms::owner_all);
}

TEST(CheckpointWriter, RefusesPlansThatDoNotFit) {
  const auto attempt = [](CheckpointPlan plan, const std::string& format) {
    Written w(std::move(plan));
    w.write(format);
  };
  CheckpointPlan plan = tiny_plan(64, true);
  plan.quantized[0].name = "model.layers.9.mlp.up_proj.weight";
  EXPECT_THROW(attempt(plan, "awq"), ArgumentError);
  plan = tiny_plan(64, true);
  plan.quantized[0].out_features += 8;
  EXPECT_THROW(attempt(plan, "awq"), ArgumentError);
  plan = tiny_plan(64, true);
  plan.quantized[0].group_size = 32;
  EXPECT_THROW(attempt(plan, "awq"), ArgumentError);
  EXPECT_NO_THROW(attempt(plan, "native"));
  plan = tiny_plan(48, true);
  EXPECT_THROW(attempt(plan, "native"), ArgumentError);
  plan = tiny_plan(64, true);
  plan.quantized.push_back(plan.quantized[0]);
  EXPECT_THROW(attempt(plan, "native"), ArgumentError);
  plan = tiny_plan(64, true);
  plan.changed.push_back({"model.layers.0.nothing.weight", DType::kF16});
  EXPECT_THROW(attempt(plan, "native"), ArgumentError);
  EXPECT_THROW(CheckpointWriter::of("gguf"), ArgumentError);
}

TEST(CheckpointWriter, RefusesDeliveriesUnlikeThePlan) {
  Written w(tiny_plan(64, true));
  TinyProvider provider(w.plan);
  QuantizedTensor q = provider.quantized(kUp + ".weight");
  q.bits = 3;
  for (uint8_t& c : q.codes) c &= 7;
  for (uint8_t& z : q.zeros) z = 4;
  provider.instead[kUp + ".weight"] = q;
  EXPECT_THROW(CheckpointWriter::of("awq").write(*w.source, w.plan, provider, w.out.path()), ArgumentError);
  provider.instead[kUp + ".weight"] = provider.quantized(kK0 + ".weight");
  EXPECT_THROW(CheckpointWriter::of("awq").write(*w.source, w.plan, provider, w.out.path()), ArgumentError);
}

TEST(CheckpointWriter, RefusesTheSourcesOwnFolder) {
  Written w(tiny_plan(64, true));
  TinyProvider provider(w.plan);
  EXPECT_THROW(CheckpointWriter::of("awq").write(*w.source, w.plan, provider, w.in / "."), ArgumentError);
  EXPECT_TRUE(std::filesystem::exists(w.in / "config.json"));
}

TEST(CheckpointWriter, RefusalNamesTheReason) {
  const Layout* awq = &layout_named("awq");
  const Layout* native = &layout_named("native");
  EXPECT_EQ(awq->refusal(64, 128, 64, 4), "");
  EXPECT_NE(awq->refusal(12, 128, 64, 4), "");
  EXPECT_EQ(native->refusal(12, 128, 64, 4), "");
  EXPECT_NE(native->refusal(64, 100, 50, 4), "");
  EXPECT_NE(awq->refusal(64, 96, 64, 4), "");
  EXPECT_EQ(awq->refusal(64, 100, -1, 4), "");
}

}  // namespace
}  // namespace metal_marlin
