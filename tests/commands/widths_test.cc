// quantize with 3 and 8 bits on tiny models: every method, what is written and what the report says of it, and blocks
// whose linears have different grids.
#include <gtest/gtest.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "commands/model_run_fixture.h"
#include "core/enum_names.h"
#include "core/files/atomic_file.h"
#include "core/files/digest.h"
#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "recipe/make_recipe.h"
#include "recipe/tensor_plan.h"
#include "run/journal/journal.h"
#include "stages/quantize_block.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class WidthsTest : public ModelRunTest {
 protected:
  QuantizeOptions options(const std::string& method, int bits) const {
    QuantizeOptions o = tiny_options();
    o.method = enum_named<Method>(method).value();
    o.bits = bits;
    evaluate_on_text(o);
    return o;
  }
  json quantize(const QuantizeOptions& o, const std::string& to) const {
    return json::parse(quantize_model(model(), out(to), o).report.to_json());
  }
  static double kl(const json& report) { return report["model"]["kl_divergence"]["mean"].get<double>(); }
};

class EveryWidth : public WidthsTest, public testing::WithParamInterface<std::tuple<const char*, const char*, int>> {};

TEST_P(EveryWidth, TheReportSpeaksOfTheFileThatWasWritten) {
  const auto [method, scheme, bits] = GetParam();
  QuantizeOptions o = options(method, bits);
  o.scheme = enum_named<Scheme>(scheme).value();
  // At 3 bits GPTQ wants 32 outputs as well, which few of these linears have.
  o.formats = {"native"};
  if (bits == 8) o.formats.push_back("gptq_v2");
  const json report = quantize(o, "q");
  const json& m = report["model"];
  for (const std::string& format : o.formats) {
    EvaluationOptions e;
    e.text = o.evaluation.text;
    e.chunks = 8;
    e.context = 64;
    const std::string folder = o.formats.size() == 1 ? out("q") : out("q/" + format);
    const Evaluation read = evaluate_model(folder, model(), e, {});
    EXPECT_NEAR(read.model.perplexity.quantized.value() / m["perplexity"]["quantized"].get<double>(), 1, 2e-3)
        << format;
    EXPECT_NEAR(read.model.kl_divergence.mean.value(), m["kl_divergence"]["mean"].get<double>(),
                0.02 * *read.model.kl_divergence.mean + 1e-5)
        << format;
    EXPECT_EQ(json::parse(inspect_model(folder).quantization.value().text)["bits"], bits);
  }
  EXPECT_EQ(report["options"]["bits"], bits);
  for (const json& l : report["linears"]) EXPECT_EQ(l["bits"], bits);
  // At 3 bits 40 inputs are no whole words: the down projections stay as they are.
  for (const json& s : report["skipped"]) {
    EXPECT_NE(s["name"].get<std::string>().find("down_proj"), std::string::npos);
    EXPECT_NE(s["reason"].get<std::string>().find("40 is not a multiple of 32"), std::string::npos) << s["reason"];
  }
  EXPECT_EQ(report["skipped"].size(), bits == 3 ? 2U : 0U);
  // Groups of 8: a scale and a zero of f16 each beside eight codes.
  EXPECT_NEAR(m["linears_bits_per_weight"].get<double>(), bits + 4, bits == 3 ? 0.5 : 1e-9);
  EXPECT_NE(render_report_text(report_from_json(report.dump())).find(std::to_string(bits) + " bits"),
            std::string::npos);
  const json plan = json::parse(plan_quantization(model(), out("plan"), o).to_json());
  EXPECT_EQ(plan["quantized"].size(), report["linears"].size());
  for (const json& w : plan["quantized"]) EXPECT_EQ(w["bits"], bits);
}

INSTANTIATE_TEST_SUITE_P(All, EveryWidth,
                         testing::Combine(testing::Values("rtn", "awq", "awq-paper", "awq-salient", "gptq"),
                                          testing::Values("sym", "asym"), testing::Values(3, 8)));

TEST_F(WidthsTest, TheErrorFallsWithTheBits) {
  for (const char* method : {"rtn", "gptq", "awq"}) {
    for (const char* scheme : {"sym", "asym"}) {
      double kl_of[3];
      for (size_t i = 0; i < 3; ++i) {
        const int bits = (std::array{3, 4, 8})[i];
        QuantizeOptions o = options(method, bits);
        o.scheme = enum_named<Scheme>(scheme).value();
        o.group_size = 32;
        o.skip = {"*down_proj*"};  // the same linears at each width
        kl_of[i] = kl(quantize(o, std::string(method) + scheme + std::to_string(bits)));
      }
      // Each bit less is a step of twice the size: four times the squared error, by which KL goes.
      EXPECT_GT(kl_of[0], 2 * kl_of[1]) << method << " " << scheme;
      EXPECT_GT(kl_of[1], 20 * kl_of[2]) << method << " " << scheme;
    }
  }
}

TEST_F(WidthsTest, WholeRowsAsWell) {
  for (const int bits : {3, 8}) {
    QuantizeOptions o = options("awq", bits);
    o.group_size = -1;
    const json report = quantize(o, "row" + std::to_string(bits));
    for (const json& l : report["linears"]) EXPECT_EQ(l["group_size"], l["shape"][1]);
  }
}

TEST_F(WidthsTest, ConvertsWithTheSameCodes) {
  for (const int bits : {3, 8}) {
    const std::string name = std::to_string(bits);
    QuantizeOptions o = options("rtn", bits);
    if (bits == 3) o.skip = {"*k_proj*", "*mlp*"};  // what has no 32 outputs or inputs
    quantize(o, "native" + name);
    EXPECT_EQ(convert_model(out("native" + name), out("gptq" + name), {.to = "gptq_v2"}).bits, bits);
    convert_model(out("gptq" + name), out("back" + name), {.to = "native"});
    const auto a = ModelSource::open(out("native" + name));
    const auto b = ModelSource::open(out("back" + name));
    int linears = 0;
    for (const CheckpointTensor& t : a->tensors()) {
      const auto codes = a->load_quantized(t.name);
      if (!codes) continue;
      const auto other = b->load_quantized(t.name);
      ASSERT_TRUE(other.has_value());
      EXPECT_EQ(other->bits, bits);
      EXPECT_TRUE(codes->codes == other->codes && codes->zeros == other->zeros && codes->scales == other->scales)
          << t.name;
      ++linears;
    }
    EXPECT_EQ(linears, bits == 3 ? 2 : 14);
    EXPECT_LT(compare_models(out("native" + name), out("back" + name)).relative_error, 1e-3);  // norms in f16
    for (const char* format : {"awq", "marlin"}) {
      try {
        convert_model(out("native" + name), out("no"), {.to = format});
        ADD_FAILURE() << format;
      } catch (const UnsupportedError& e) {
        EXPECT_NE(std::string(e.what()).find("holds 4 bits, not " + name), std::string::npos) << e.what();
      }
    }
  }
}

TEST_F(WidthsTest, FormatsThatCannotHoldThemRefuseBeforeAnyWork) {
  const auto message = [&](const std::string& format, int bits) {
    QuantizeOptions o = options("rtn", bits);
    o.formats = {format};
    try {
      quantize_model(model(), out("x"), o);
    } catch (const ArgumentError& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message("awq", 8).find("--format awq: awq holds 4 bits, not 8; use --bits 4, or another format"),
            std::string::npos)
      << message("awq", 8);
  EXPECT_NE(message("marlin", 3).find("holds 4 bits, not 3"), std::string::npos);
  EXPECT_NE(message("gptq", 3).find("holds 2, 4 or 8 bits, not 3"), std::string::npos);
  EXPECT_NE(message("native", 5).find("holds 3, 4 or 8 bits, not 5"), std::string::npos) << message("native", 5);
  EXPECT_NE(message("mlx", 7).find("holds 2, 3, 4, 5, 6 or 8 bits, not 7"), std::string::npos) << message("mlx", 7);
  EXPECT_NE(message("mlx", 9).find("--bits: expected 2 to 8, found 9"), std::string::npos) << message("mlx", 9);
  EXPECT_FALSE(fs::exists(out("x")));
}

// Version 1 of GPTQ holds no zero of 0: it is lifted at 8 bits as at 4.
TEST_F(WidthsTest, ZerosAreLiftedForVersion1OfGptq) {
  QuantizeOptions o = options("rtn", 8);
  o.formats = {"gptq"};
  const json report = quantize(o, "v1");
  const auto read = ModelSource::open(out("v1"));
  for (const CheckpointTensor& t : read->tensors()) {
    const auto codes = read->load_quantized(t.name);
    if (!codes) continue;
    EXPECT_EQ(codes->bits, 8);
    for (const uint8_t zero : codes->zeros) ASSERT_GE(zero, 1);
  }
}

TEST_F(WidthsTest, SameBytesForAnyThreadsAndAfterAnInterruption) {
  const auto bytes = [&](const std::string& folder) { return read_text_file(out(folder) + "/model.awq.safetensors"); };
  QuantizeOptions o = options("awq", 3);
  quantize(o, "whole");
  o.machine.threads = 1;
  quantize(o, "one");
  EXPECT_EQ(bytes("one"), bytes("whole"));
  Observer observer;
  bool stop = true;
  observer.on_progress = [&](const Progress& p) { return !(stop && p.done == 1 && p.stage == "round"); };
  EXPECT_THROW(quantize_model(model(), out("cut"), o, observer), Interrupted);
  stop = false;
  quantize_model(model(), out("cut"), o, observer);
  EXPECT_EQ(bytes("cut"), bytes("whole"));
}

// Linears of one block on grids of their own; the journal keeps each.
TEST_F(WidthsTest, AGridPerLinear) {
  const auto source = ModelSource::open(model());
  QuantizeOptions o = options("rtn", 4);
  o.scheme = Scheme::kSymmetric;
  const Recipe recipe = make_recipe(o, *source);
  LayerTensors tensors = planned_tensors(*source, 0, o, recipe);
  const auto bits_of = [](const std::string& name) {
    return name.find("_proj") == std::string::npos     ? 0
           : name.find("v_proj") != std::string::npos  ? 8
           : name.find("up_proj") != std::string::npos ? 3
                                                       : 4;
  };
  for (QuantizedWeight& w : tensors.quantized) w.grid.bits = bits_of(w.name);
  const Observer observer;
  Tracker tracker(observer);
  const BlockResult result = quantize_block({*source, recipe, tensors, 0}, load_block(*source, 0), {}, {}, tracker);
  Journal journal(out("j"));
  journal.begin(std::string(Digest::kDigits, '1'));
  journal.write_block(0, result.finished, result.record);
  const FinishedBlock read = journal.read_block(0);
  ASSERT_EQ(read.quantized.size(), 7U);
  for (const auto& [name, q] : read.quantized) {
    EXPECT_EQ(q.bits, bits_of(name)) << name;
    EXPECT_TRUE(q.codes == result.finished.quantized.at(name).codes) << name;
    if (q.bits < 8) continue;
    // absmax / 127 reaches half a step of it
    const Matrix weight = source->load(name);
    const Matrix back = dequantize(q);
    for (int64_t i = 0; i < weight.size(); ++i) {
      const auto at = static_cast<size_t>(i / weight.cols() * q.groups() + i % weight.cols() / q.group_size);
      ASSERT_LE(std::fabs(back.data()[i] - weight.data()[i]), 0.501F * f16_to_f32(q.scales[at]));
    }
  }
  for (const LinearRecord& l : result.record.linears) EXPECT_EQ(l.bits, bits_of(l.name));
}

}  // namespace
}  // namespace metal_marlin
