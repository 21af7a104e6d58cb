// Contradictory and damaged checkpoints through the operations: what is written, what is refused before that, and what
// is said.
#include <metal_marlin/bench.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/generate.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "commands/model_run_fixture.h"
#include "core/enum_names.h"
#include "core/half.h"
#include "formats/safetensors.h"
#include "infer/batch_sampler.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

using Change = std::function<void(const std::string& name, DType dtype, std::byte* bytes)>;

class CheckpointFaults : public ModelRunTest {
 protected:
  // A copy of a checkpoint with other bytes, names and config.
  std::string changed(const std::string& from, const std::string& name, const Change& change,
                      const std::function<void(json&)>& configure = {}) const {
    const fs::path to = folder_ / name;
    fs::create_directories(to);
    for (const auto& entry : fs::directory_iterator(from)) {
      const std::string file = entry.path().filename().string();
      if (file.ends_with(".json") && file != "report.json") fs::copy(entry.path(), to / file);
    }
    if (configure) {
      std::ifstream in(to / "config.json");
      json config = json::parse(in);
      configure(config);
      std::ofstream(to / "config.json") << config.dump();
    }
    std::string weights;
    for (const auto& entry : fs::directory_iterator(from)) {
      if (entry.path().extension() == ".safetensors" && entry.path().filename().string().starts_with("model"))
        weights = entry.path().string();
    }
    const SafetensorsFile file(weights);
    std::vector<OwnedTensor> tensors;
    for (const TensorView& t : file.tensors()) {
      tensors.push_back({t.name, t.dtype, t.shape, Buffer(t.bytes.size())});
      std::memcpy(tensors.back().bytes.data(), t.bytes.data(), t.bytes.size());
      change(t.name, t.dtype, tensors.back().bytes.data());
    }
    write_safetensors((to / "model.safetensors").string(), tensors, file.metadata());
    return to.string();
  }
  // Element `at` of one tensor, in whatever type it is stored.
  static Change set(const std::string& name, size_t at, float value) {
    return [=](const std::string& tensor, DType dtype, std::byte* bytes) {
      if (tensor != name) return;
      uint32_t wide = 0;
      std::memcpy(&wide, &value, 4);
      const uint16_t half = dtype == DType::kF16 ? f32_to_f16(value) : static_cast<uint16_t>(wide >> 16);
      std::memcpy(bytes + at * dtype_size(dtype), dtype == DType::kF32 ? static_cast<const void*>(&wide) : &half,
                  dtype_size(dtype));
    };
  }
  std::string refused(const std::function<void()>& action) const {
    try {
      action();
    } catch (const NumericError& e) {
      return e.what();
    }
    ADD_FAILURE() << "not refused";
    return "";
  }
  static bool any_with(const json& warnings, const std::string& text) {
    return std::any_of(warnings.begin(), warnings.end(),
                       [&](const json& w) { return w.get<std::string>().find(text) != std::string::npos; });
  }
  QuantizeOptions quick(const std::string& format) const {
    QuantizeOptions o = tiny_options();
    o.method = Method::kRtn;
    o.scheme = Scheme::kSymmetric;
    o.formats = {format};
    o.evaluation.text = "none";
    return o;
  }
};

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST_F(CheckpointFaults, QuantizeRefusesInfinityInWhatItCopiesBeforeItWrites) {
  const std::pair<const char*, size_t> places[] = {{"model.norm.weight", 3},
                                                   {"lm_head.weight", 70},
                                                   {"model.embed_tokens.weight", 40},
                                                   {"model.layers.1.input_layernorm.weight", 0},
                                                   {"model.layers.1.mlp.down_proj.weight", 45}};
  int n = 0;
  for (const auto& [name, element] : places) {
    for (const float bad : {kInf, -kInf, std::nanf("")}) {
      const std::string bad_model = changed(model(), "bad" + std::to_string(n++), set(name, element, bad));
      const std::string message = refused([&] { quantize_model(bad_model, out("refused"), quick("awq")); });
      EXPECT_NE(message.find(name), std::string::npos) << message;
      EXPECT_NE(message.find("element " + std::to_string(element)), std::string::npos) << message;
      EXPECT_FALSE(fs::exists(out("refused")));
    }
  }
}

// Whoever meets logits that are not finite names the weight and what to do, or says that all weights are finite.
TEST_F(CheckpointFaults, LogitsThatAreNotFiniteNameTheWeight) {
  const std::string infinite = changed(model(), "infinite", set("lm_head.weight", 5, kInf));
  const int64_t elements = SafetensorsFile(model() + "/model.safetensors").get("lm_head.weight").elements();
  const std::string large = changed(model(), "large", [&](const std::string& name, DType dtype, std::byte* bytes) {
    for (int64_t i = 0; i < elements; ++i) set("lm_head.weight", static_cast<size_t>(i), 3e38F)(name, dtype, bytes);
  });
  const std::pair<std::string, std::vector<std::string>> cases[] = {
      {infinite, {infinite, "tensor lm_head.weight", "found inf at element 5", "fetch it again"}},
      {large, {large, "although all weights are finite", "--compute f32"}}};
  for (const auto& [folder, parts] : cases) {
    BenchOptions prompt;
    prompt.prompt = 4;
    prompt.generate = 0;
    prompt.repeat = 1;
    BenchOptions generate = prompt;
    generate.prompt = 0;
    generate.generate = 2;
    const auto source = ModelSource::open(folder);
    SelfTextOptions self;
    self.count = 2;
    self.length = 8;
    for (const std::string& message :
         {refused([&] { bench_model(folder, prompt); }), refused([&] { bench_model(folder, generate); }),
          refused([&] { TextGenerator(folder).generate("the cat", {}); }),
          refused([&] { sample_sequences(*source, source->tokenizer(), self); })}) {
      for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  }
}

// Norms take no pass over the weights, so the plan looks at them too and ends as the run does.
TEST_F(CheckpointFaults, APlanFindsInfinityInNorms) {
  const std::string bad = changed(model(), "bad", set("model.layers.1.input_layernorm.weight", 3, kInf));
  const Plan plan = plan_quantization(bad, out("q"), quick("awq"));
  EXPECT_EQ(plan.exit_code, 1);
  EXPECT_EQ(plan.stops, refused([&] { quantize_model(bad, out("q"), quick("awq")); }));
  EXPECT_NE(plan.stops.find("found inf at element 3"), std::string::npos) << plan.stops;
}

// Scales are folded into norms of float32, which the run writes in float16: the plan's sizes are those of the run.
TEST_F(CheckpointFaults, APlanCountsFoldedNormsInFloat16) {
  for (const std::string method : {"rtn", "awq-paper"}) {
    QuantizeOptions o = quick("native");
    o.method = enum_named<Method>(method).value();
    const Plan plan = plan_quantization(model(), out(method), o);
    const QuantizeResult result = quantize_model(model(), out(method), o);
    const json report = json::parse(result.report.to_json());
    EXPECT_EQ(plan.sizes.at(0).bytes, report["model"]["bytes"].get<uint64_t>()) << method;
  }
}

TEST_F(CheckpointFaults, ConvertRefusesInfinityInWhatItCopiesBeforeItWrites) {
  int n = 0;
  for (const std::string from : {"native", "gptq", "awq"}) {
    quantize_model(model(), out(from), quick(from));
    for (const char* name : {"model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"}) {
      const std::string bad = changed(out(from), "bad" + std::to_string(n++), set(name, 5, kInf));
      ConvertOptions o;
      o.to = from == "gptq" ? "gptq_v2" : "gptq";
      const std::string message = refused([&] { convert_model(bad, out("refused"), o); });
      EXPECT_NE(message.find(std::string(name) + ": expected finite values, found inf at element 5"), std::string::npos)
          << message;
      EXPECT_FALSE(fs::exists(out("refused")));
    }
  }
}

TEST_F(CheckpointFaults, EvaluateNamesRowAndColumn) {
  EvaluationOptions e;
  e.text = (folder_ / "text.txt").string();
  e.context = 32;
  e.chunks = 1;
  for (const char* name : {"model.layers.1.mlp.down_proj.weight", "lm_head.weight"}) {
    const bool head = std::string(name) == "lm_head.weight";
    const std::string bad = changed(model(), head ? "bad_head" : "bad_block", set(name, head ? 37 : 45, kInf));
    const std::string message = refused([&] { evaluate_model(bad, "", e, {}); });
    EXPECT_NE(message.find(name), std::string::npos) << message;
    EXPECT_NE(message.find(head ? "element 37 (row 1, column 5)" : "element 45 (row 1, column 5)"), std::string::npos)
        << message;
  }
}

TEST_F(CheckpointFaults, AStoredHeadStaysInTheOutputAndItsConfigSaysSo) {
  const std::string tied = changed(
      model(), "tied", [](const std::string&, DType, std::byte*) {},
      [](json& config) { config["tie_word_embeddings"] = true; });
  EvaluationOptions e;
  e.text = (folder_ / "text.txt").string();
  e.chunks = 4;
  e.context = 64;
  // The same weights, whatever the config says.
  EXPECT_EQ(evaluate_model(tied, "", e, {}).model.perplexity.quantized,
            evaluate_model(model(), "", e, {}).model.perplexity.quantized);
  for (const std::string format : {"native", "awq", "gptq", "gptq_v2"}) {
    const json report = json::parse(quantize_model(tied, out(format), quick(format)).report.to_json());
    EXPECT_TRUE(any_with(report["warnings"], "tie_word_embeddings")) << format;
    std::ifstream in(out(format) + "/config.json");
    EXPECT_EQ(json::parse(in)["tie_word_embeddings"], false) << format;
  }
  const Inspection inspected = inspect_model(tied);
  EXPECT_FALSE(inspected.config.tie_word_embeddings);
  EXPECT_TRUE(any_with(inspected.warnings, "lm_head.weight"));
  EXPECT_NE(render_inspection(inspected).find("tie_word_embeddings"), std::string::npos);
  std::vector<std::string> said;
  GenerateOptions g;
  g.predict = 1;
  g.on_warning = [&](const std::string& text) { said.push_back(text); };
  TextGenerator generator(tied);
  generator.generate("the model", g);
  generator.generate("the model", g);
  EXPECT_EQ(std::count_if(said.begin(), said.end(),
                          [](const std::string& s) { return s.find("tie_word_embeddings") != std::string::npos; }),
            1);
}

// AutoGPTQ writes a bias of zeros beside every linear.
TEST_F(CheckpointFaults, BiasesOfZerosAreConvertedAway) {
  quantize_model(model(), out("gptq"), quick("gptq"));
  const SafetensorsFile plain(out("gptq") + "/model.safetensors");
  std::vector<OwnedTensor> tensors;
  for (const TensorView& t : plain.tensors()) {
    tensors.push_back({t.name, t.dtype, t.shape, Buffer(t.bytes.size())});
    std::memcpy(tensors.back().bytes.data(), t.bytes.data(), t.bytes.size());
    if (!t.name.ends_with(".scales")) continue;
    const auto bytes = static_cast<size_t>(t.shape[1]) * 2;
    tensors.push_back({t.name.substr(0, t.name.size() - 6) + "bias", DType::kF16, {t.shape[1]}, Buffer(bytes)});
    std::memset(tensors.back().bytes.data(), 0, bytes);
  }
  const std::string biased = changed(out("gptq"), "biased", [](const std::string&, DType, std::byte*) {});
  write_safetensors(biased + "/model.safetensors", tensors, plain.metadata());
  ConvertOptions o;
  o.to = "awq";
  EXPECT_TRUE(any_with(convert_model(biased, out("awq"), o).warnings, "14 biases"));
  convert_model(out("gptq"), out("same"), o);
  const auto a = ModelSource::open(out("awq"));
  const auto b = ModelSource::open(out("same"));
  ASSERT_EQ(a->tensors().size(), b->tensors().size());
  for (const CheckpointTensor& t : b->tensors()) {
    const Matrix x = a->load(t.name);
    const Matrix y = b->load(t.name);
    EXPECT_TRUE(std::ranges::equal(x.values(), y.values())) << t.name;
  }
}

TEST_F(CheckpointFaults, CompareNamesModelTensorAndElement) {
  for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"}) {
    const std::string bad = changed(model(), std::string("bad_") + name, set(name, 5, kInf));
    for (const auto& [a, b] : {std::pair{bad, model()}, {model(), bad}}) {
      try {
        compare_models(a, b);
        ADD_FAILURE() << name << " was compared";
      } catch (const NumericError& error) {
        const std::string text = error.what();
        EXPECT_NE(text.find(bad), std::string::npos) << text;
        EXPECT_NE(text.find(name), std::string::npos) << text;
        EXPECT_NE(text.find("element 5"), std::string::npos) << text;
      }
    }
  }
}

TEST_F(CheckpointFaults, LostActOrderIsNeverConvertedAway) {
  quantize_model(model(), out("gptq"), quick("gptq"));
  const std::string lost = changed(
      out("gptq"), "lost",
      [](const std::string& name, DType, std::byte* bytes) {
        if (name.ends_with(".g_idx")) std::memset(bytes, 0, 32 * 4);
      },
      [](json& config) { config["quantization_config"]["desc_act"] = true; });
  ConvertOptions o;
  for (const char* to : {"awq", "native", "gptq_v2"}) {
    o.to = to;
    EXPECT_THROW(convert_model(lost, out("no"), o), FormatError);
    EXPECT_FALSE(fs::exists(out("no")));
  }
}

TEST_F(CheckpointFaults, WhatLosesBitsOrIsClampedIsAmongTheWarnings) {
  const std::string clamped = changed(model(), "clamped", set("model.embed_tokens.weight", 7, 1e6F));
  QuantizeOptions o = quick("awq");
  evaluate_on_text(o);
  const json report = json::parse(quantize_model(clamped, out("awq"), o).report.to_json());
  EXPECT_TRUE(any_with(report["warnings"], "model.embed_tokens.weight: 1 value exceeds float16 and was clamped"));
  EXPECT_TRUE(any_with(report["warnings"], "measured before that"));
  // The native format keeps 16 bits too; a source of 16 bits loses nothing.
  const json again = json::parse(quantize_model(out("awq"), out("again"), o).report.to_json());
  EXPECT_FALSE(any_with(again["warnings"], "measured before that"));
}

// The element is counted in the whole embedding, not within the row of its token.
TEST_F(CheckpointFaults, EvaluateNamesTheElementOfTheEmbedding) {
  const std::string bad = changed(model(), "bad", [](const std::string& name, DType, std::byte* bytes) {
    if (name != "model.embed_tokens.weight") return;
    const float nan = std::nanf("");
    for (size_t row = 1; row < 96; ++row) std::memcpy(bytes + (row * 32 + 3) * 4, &nan, 4);
  });
  EvaluationOptions e;
  e.text = (folder_ / "text.txt").string();
  e.chunks = 1;
  e.context = 64;
  const std::string message = refused([&] { evaluate_model(bad, "", e, {}); });
  const size_t at = message.find("element ");
  ASSERT_NE(at, std::string::npos) << message;
  const int element = std::stoi(message.substr(at + 8));
  EXPECT_EQ(element % 32, 3);
  EXPECT_GT(element, 32);
}

}  // namespace
}  // namespace metal_marlin
