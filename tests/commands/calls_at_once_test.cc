// Public functions that run at once in one process, each with a number of threads of its own.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/quantize.h>

#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "commands/model_run_fixture.h"
#include "core/enum_names.h"
#include "core/threads.h"

namespace metal_marlin {
namespace {

class CallsAtOnce : public ModelRunTest {
 protected:
  QuantizeOptions with(const std::string& method, int threads) const {
    QuantizeOptions o = tiny_options();
    o.method = enum_named<Method>(method).value();
    o.machine.threads = threads;
    o.evaluation.text = "none";
    return o;
  }
  std::map<std::string, std::string> weights_of(const std::string& name) const {
    std::map<std::string, std::string> bytes;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(out(name))) {
      if (entry.path().extension() != ".safetensors") continue;
      std::ifstream file(entry.path(), std::ios::binary);
      bytes[entry.path().filename().string()] = {std::istreambuf_iterator<char>(file), {}};
    }
    return bytes;
  }
};

void run_at_once(const std::vector<std::function<void()>>& calls) {
  std::vector<std::exception_ptr> errors(calls.size());
  std::vector<std::thread> started;
  for (size_t i = 0; i < calls.size(); ++i) {
    started.emplace_back([&, i] {
      try {
        calls[i]();
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
  }
  for (auto& t : started) t.join();
  for (const auto& e : errors) {
    if (e) std::rethrow_exception(e);
  }
}

TEST_F(CallsAtOnce, GiveTheBytesOfCallsAlone) {
  quantize_model(model(), out("awq-alone"), with("awq", 1));
  quantize_model(model("qwen2"), out("gptq-alone"), with("gptq", 2));
  EvaluationOptions evaluation;
  evaluation.text = (folder_ / "text.txt").string();
  evaluation.chunks = 4;
  evaluation.context = 64;
  MachineOptions three;
  three.threads = 3;
  const Evaluation alone = evaluate_model(model(), "", evaluation, three);
  Evaluation beside;
  run_at_once({[&] { quantize_model(model(), out("awq-beside"), with("awq", 1)); },
               [&] { quantize_model(model("qwen2"), out("gptq-beside"), with("gptq", 2)); },
               [&] { beside = evaluate_model(model(), "", evaluation, three); }});
  EXPECT_FALSE(weights_of("awq-alone").empty());
  EXPECT_EQ(weights_of("awq-alone"), weights_of("awq-beside"));
  EXPECT_FALSE(weights_of("gptq-alone").empty());
  EXPECT_EQ(weights_of("gptq-alone"), weights_of("gptq-beside"));
  EXPECT_EQ(alone.model.perplexity.quantized, beside.model.perplexity.quantized);
}

// The report states the number of threads that a run had.
int64_t reported_threads(const QuantizeResult& result) {
  return result.report.run.machine.threads;
}

TEST_F(CallsAtOnce, EachHasItsOwnNumberOfThreads) {
  int64_t one = 0;
  int64_t two = 0;
  run_at_once({[&] { one = reported_threads(quantize_model(model(), out("one"), with("rtn", 1))); },
               [&] { two = reported_threads(quantize_model(model(), out("two"), with("rtn", 2))); }});
  EXPECT_EQ(one, 1);
  EXPECT_EQ(two, 2);
}

// Not the number of the call before.
TEST_F(CallsAtOnce, ZeroThreadsAreAllProcessors) {
  const int all = available_threads();
  EXPECT_EQ(reported_threads(quantize_model(model(), out("first"), with("rtn", all + 3))), all + 3);
  EXPECT_EQ(reported_threads(quantize_model(model(), out("second"), with("rtn", 0))), all);
}

TEST_F(CallsAtOnce, ANumberThatIsNoneIsRefused) {
  EXPECT_THROW(quantize_model(model(), out("bad"), with("rtn", -1)), ArgumentError);
  EXPECT_THROW(quantize_model(model(), out("bad"), with("rtn", 5000)), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin
