// bench, and a quantized checkpoint that runs as it is stored.
#include <gtest/gtest.h>
#include <metal_marlin/bench.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/generate.h>

#include <nlohmann/json.hpp>

#include "commands/model_run_fixture.h"

namespace metal_marlin {
namespace {

class BenchTest : public ModelRunTest {
 protected:
  std::string quantized(const std::string& format, const std::string& name = "llama") const {
    QuantizeOptions o = tiny_options();
    o.formats = {format};
    o.method = Method::kRtn;
    o.evaluation.text = "none";
    quantize_model(model(name), out(name + "-" + format), o);
    return out(name + "-" + format);
  }
};

TEST_F(BenchTest, MeasuresWhatIsAskedFor) {
  BenchOptions options;
  options.prompt = 20;
  options.generate = 6;
  options.repeat = 2;
  const std::string quantized_model = quantized("native");
  for (const std::optional<Arithmetic> compute : {std::optional<Arithmetic>(), std::optional(Arithmetic::kF32)}) {
    MachineOptions machine;
    machine.threads = 1;
    ComputeOptions wanted;
    wanted.compute = compute;
    const BenchResult result = bench_model(quantized_model, options, machine, {}, wanted);
    EXPECT_EQ(result.compute, compute ? "f32" : "int8");
    EXPECT_EQ(result.head, compute ? "16" : "8");
    EXPECT_EQ(result.threads, 1);
    for (const auto& rate : {result.prompt, result.generate}) {
      const BenchSpeed& speed = rate.value().tokens_per_second;
      EXPECT_GT(speed.lowest, 0);
      EXPECT_GE(speed.median, speed.lowest);
      EXPECT_GE(speed.highest, speed.median);
    }
    const auto j = nlohmann::json::parse(result.to_json());
    EXPECT_EQ(j["prompt"]["tokens"], 20);
    EXPECT_EQ(j["generate"]["tokens"], 6);
    EXPECT_EQ(j["prompt"]["tokens_per_second"]["median"], result.prompt->tokens_per_second.median);
    EXPECT_EQ(j["compute"], result.compute);
  }
  options.generate = 0;
  const auto j = nlohmann::json::parse(bench_model(model(), options).to_json());
  EXPECT_TRUE(j["generate"].is_null());
  EXPECT_EQ(j["compute"], "f32");
  std::vector<std::string> warnings;
  Observer observer;
  observer.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  bench_model(model(), options, {}, observer);
  EXPECT_TRUE(warnings.empty());
  options.batch = {4};
  bench_model(model(), options, {}, observer);
  EXPECT_EQ(warnings, (std::vector<std::string>{"without effect: --batch (--generate 0 generates nothing)"}));
  options.batch = {1};
  options.prompt = 0;
  EXPECT_THROW(bench_model(model(), options), ArgumentError);
  options.prompt = 1;
  options.repeat = 0;
  EXPECT_THROW(bench_model(model(), options), ArgumentError);
}

// The rounding of the activations moves the model far less than the 4 bits have moved it from the original.
TEST_F(BenchTest, EvaluateWithCodes) {
  EvaluationOptions text;
  text.text = (folder_ / "text.txt").string();
  text.chunks = 8;
  text.context = 64;
  const std::string quantized_model = quantized("native");
  const auto evaluate = [&](const std::string& which, const std::string& reference, std::optional<Arithmetic> compute) {
    ComputeOptions options;
    options.compute = compute;
    return evaluate_model(which, reference, text, {}, {}, options);
  };
  const Evaluation floats = evaluate(quantized_model, model(), std::nullopt);
  const Evaluation codes = evaluate(quantized_model, model(), Arithmetic::kInt8);
  EXPECT_NE(codes.model.kl_divergence.mean, floats.model.kl_divergence.mean);
  EXPECT_NEAR(codes.model.kl_divergence.mean.value(), floats.model.kl_divergence.mean.value(),
              0.1 * *floats.model.kl_divergence.mean);
  EXPECT_NEAR(codes.model.perplexity.quantized.value(), floats.model.perplexity.quantized.value(),
              0.01 * floats.model.perplexity.quantized.value());
  EXPECT_EQ(evaluate(quantized_model, model(), Arithmetic::kF32).model.kl_divergence.mean,
            floats.model.kl_divergence.mean);
  EXPECT_THROW(evaluate(model(), "", Arithmetic::kInt8), UnsupportedError);
  EXPECT_THROW(evaluate(model(), "", Arithmetic{9}), ArgumentError);
}

// Layouts and a family with fused linears: the greedy answer is one that float arithmetic gives too, but for ties that
// the tiny models do not have.
TEST_F(BenchTest, GeneratesFromEachLayout) {
  GenerateOptions options;
  options.predict = 8;
  options.temp = 0;
  options.ignore_eos = true;
  for (const auto& [format, name] : {std::pair<const char*, const char*>{"native", "phi3"},
                                     {"awq", "llama"},
                                     {"gptq", "llama"},
                                     {"gptq_v2", "qwen2"}}) {
    const std::string path = quantized(format, name);
    GenerateStats stats;
    TextGenerator(path).generate("the", options, {}, &stats);
    EXPECT_EQ(stats.generated_tokens, 8) << format;
  }
}

}  // namespace
}  // namespace metal_marlin
