// One run, several formats: the same integers in each; refusals before any work.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "checkpoint/model_source.h"
#include "core/enum_names.h"
#include "core/half.h"
#include "core/random.h"
#include "formats/safetensors.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;

class Formats : public testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    Random random(11);
    const char* words[] = {"the", "model", "of", "weights", "is", "small", "and", "a", "test"};
    for (int i = 0; i < 3000; ++i) text += std::string(words[random.below(9)]) + " ";
    folder_.write("text.txt", text);
  }
  QuantizeOptions options(std::vector<std::string> formats) const {
    QuantizeOptions o;
    o.formats = std::move(formats);
    o.method = Method::kRtn;
    o.group_size = 8;
    o.calibration.calibration = {folder_.path("text.txt")};
    o.calibration.samples = 4;
    o.calibration.sequence_length = 32;
    o.evaluation.text = "none";
    return o;
  }
  std::string message(const std::string& model, const QuantizeOptions& o) const {
    try {
      quantize_model(model, folder_.path("refused"), o);
    } catch (const ArgumentError& error) {
      EXPECT_FALSE(fs::exists(folder_.path("refused")) && !fs::is_empty(folder_.path("refused")));
      EXPECT_THROW(plan_quantization(model, folder_.path("refused"), o), ArgumentError);
      return error.what();
    }
    return "";
  }
  static std::string llama() { return std::string(TEST_DATA) + "/models/llama"; }
  TemporaryFolder folder_;
};

TEST_F(Formats, HoldTheSameIntegers) {
  const std::vector<std::string> formats = {"native", "awq", "gptq", "gptq_v2", "compressed-tensors"};
  for (const std::string scheme : {"asym", "sym"}) {
    QuantizeOptions o = options(formats);
    o.scheme = enum_named<Scheme>(scheme).value();
    const std::string out = folder_.path(scheme);
    quantize_model(llama(), out, o);
    const auto first = ModelSource::open(out + "/native");
    for (const std::string& format : formats) {
      const auto other = ModelSource::open(out + "/" + format);
      other->check();
      EXPECT_EQ(other->format(), format);
      for (const LinearSlot& slot : first->linears(1)) {
        const QuantizedTensor a = *first->load_quantized(slot.weight);
        const QuantizedTensor b = *other->load_quantized(slot.weight);
        EXPECT_TRUE(a.codes == b.codes && a.zeros == b.zeros && a.scales == b.scales) << format << " " << slot.weight;
      }
    }
    EXPECT_TRUE(fs::exists(out + "/gptq/quantize_config.json"));
  }
}

// MLX stores minima: an asymmetric run chooses them, a symmetric one holds the integers of the other formats.
TEST_F(Formats, MlxHoldsMinimaOrTheSameIntegers) {
  QuantizeOptions o = options({"native", "mlx"});
  o.group_size = 32;
  o.scheme = Scheme::kSymmetric;
  quantize_model(llama(), folder_.path("sym"), o);
  const auto native = ModelSource::open(folder_.path("sym") + "/native");
  const auto mlx = ModelSource::open(folder_.path("sym") + "/mlx");
  mlx->check();
  EXPECT_EQ(mlx->format(), "mlx");
  int held = 0;
  for (const CheckpointTensor& t : native->tensors()) {
    if (t.bits == 0) continue;
    const QuantizedTensor a = *native->load_quantized(t.name);
    const QuantizedTensor b = *mlx->load_quantized(t.name);
    EXPECT_TRUE(a.codes == b.codes && a.zeros == b.zeros && a.scales == b.scales && b.minima.empty()) << t.name;
    ++held;
  }
  EXPECT_GT(held, 0);
  o.scheme = Scheme::kAsymmetric;
  EXPECT_NE(message(llama(), o).find("minima in 16 bits"), std::string::npos) << message(llama(), o);
  o.formats = {"mlx"};
  quantize_model(llama(), folder_.path("asym"), o);
  const auto minima = ModelSource::open(folder_.path("asym"));
  minima->check();
  const auto original = ModelSource::open(llama());
  for (const CheckpointTensor& t : minima->tensors()) {
    if (t.bits == 0) continue;
    const QuantizedTensor q = *minima->load_quantized(t.name);
    ASSERT_FALSE(q.minima.empty()) << t.name;
    // Each weight lies within half a step of its value, in float64.
    const Matrix w = original->load(t.name);
    for (int64_t n = 0; n < w.rows(); ++n) {
      for (int64_t k = 0; k < w.cols(); ++k) {
        const auto at = static_cast<size_t>(n * q.groups() + k / q.group_size);
        const double value = double{q.scale(at)} * q.codes[static_cast<size_t>(n * w.cols() + k)] + q.minimum(at);
        ASSERT_LE(std::abs(value - w(n, k)), 0.51 * std::abs(q.scale(at)) + 1e-3 * std::abs(w(n, k)) + 1e-6) << t.name;
      }
    }
  }
  EXPECT_TRUE(fs::exists(folder_.path("asym") + "/model.safetensors.index.json"));
}

// A group without a negative weight gets zero 1 where version 1 of GPTQ is among the formats, and still reaches its
// largest weight.
TEST_F(Formats, Version1LiftsZeros) {
  // All weights of the linears positive.
  const std::string model = folder_.path("positive");
  fs::copy(llama(), model);
  std::vector<OwnedTensor> tensors;
  {
    const auto source = ModelSource::open(llama());
    for (const CheckpointTensor& t : source->tensors()) {
      OwnedTensor stored = source->load_stored(t.name);
      const Matrix values = source->load(t.name);
      OwnedTensor f32{t.name, DType::kF32, t.shape, Buffer(static_cast<size_t>(values.size()) * 4)};
      auto* to = reinterpret_cast<float*>(f32.bytes.data());
      for (int64_t i = 0; i < values.size(); ++i)
        to[i] = t.name.find("_proj.") != std::string::npos ? std::fabs(values.data()[i]) + 0.01F : values.data()[i];
      tensors.push_back(std::move(f32));
    }
  }
  for (const auto& entry : fs::directory_iterator(model)) {
    if (entry.path().string().find(".safetensors") != std::string::npos) fs::remove(entry.path());
  }
  write_safetensors(model + "/model.safetensors", std::span<const OwnedTensor>(tensors), {{"format", "pt"}});
  quantize_model(model, folder_.path("v2"), options({"gptq_v2"}));
  quantize_model(model, folder_.path("v1"), options({"gptq"}));
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto floats = ModelSource::open(model);
  const auto v2 = ModelSource::open(folder_.path("v2"))->load_quantized(name);
  const auto v1 = ModelSource::open(folder_.path("v1"))->load_quantized(name);
  EXPECT_EQ(std::count(v2->zeros.begin(), v2->zeros.end(), 0), static_cast<int64_t>(v2->zeros.size()));
  EXPECT_EQ(std::count(v1->zeros.begin(), v1->zeros.end(), 1), static_cast<int64_t>(v1->zeros.size()));
  // Fourteen steps instead of fifteen: the error of a weight stays within half of such a step (and f16's rounding of
  // it).
  constexpr float kRounding = 1.001F;
  const Matrix w = floats->load(name);
  const Matrix q = dequantize(*v1);
  for (int64_t n = 0; n < w.rows(); ++n) {
    for (int64_t k = 0; k < w.cols(); ++k) {
      const float scale = f16_to_f32(v1->scales[static_cast<size_t>(n * v1->groups() + k / 8)]);
      ASSERT_LE(std::fabs(w(n, k) - q(n, k)), scale * 0.5F * kRounding + 15 * scale * 0x1p-11F) << n << "," << k;
    }
  }
}

TEST_F(Formats, MarlinNamesWhatItCannotHold) {
  QuantizeOptions o = options({"awq", "marlin"});
  o.group_size = -1;
  EXPECT_NE(message(llama(), o).find("--scheme sym"), std::string::npos) << message(llama(), o);
  o.scheme = Scheme::kSymmetric;
  const std::string shapes = message(llama(), o);  // in_features of 32 and 40
  EXPECT_NE(shapes.find("model.layers.0."), std::string::npos) << shapes;
  EXPECT_NE(shapes.find("multiple of 128"), std::string::npos) << shapes;
  EXPECT_NE(shapes.find("--skip"), std::string::npos) << shapes;
  o.group_size = 8;
  EXPECT_NE(message(llama(), o).find("--group-size 128 or -1"), std::string::npos) << message(llama(), o);
}

}  // namespace
}  // namespace metal_marlin
