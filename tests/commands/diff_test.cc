#include <gtest/gtest.h>
#include <metal_marlin/check.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/diff.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "commands/model_run_fixture.h"
#include "formats/safetensors.h"

namespace metal_marlin {
namespace {

class Diff : public ModelRunTest {
 protected:
  // Plain rounding in the formats that are asked for.
  void quantize(const std::string& name, const std::vector<std::string>& formats) {
    QuantizeOptions o = tiny_options();
    o.formats = formats;
    o.method = Method::kRtn;
    o.scheme = Scheme::kSymmetric;
    o.evaluation.text = "none";
    quantize_model(model(), out(name), o);
  }
  // Changes bytes of one tensor of a checkpoint in a single file.
  void change(const std::string& folder, const std::string& tensor,
              const std::function<void(std::byte*, size_t)>& how) {
    std::string weights;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors") weights = entry.path().string();
    }
    size_t at = 0;
    size_t size = 0;
    {
      const SafetensorsFile file(weights);
      const TensorView& view = file.get(tensor);
      at = static_cast<size_t>(view.bytes.data() - file.mapped().bytes().data());
      size = view.bytes.size();
    }
    std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
    std::vector<std::byte> bytes(size);
    file.seekg(static_cast<std::streamoff>(at));
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
    how(bytes.data(), size);
    file.seekp(static_cast<std::streamoff>(at));
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(size));
  }
  void copy(const std::string& from, const std::string& to) {
    std::filesystem::copy(out(from), out(to), std::filesystem::copy_options::recursive);
  }
};

const std::string kDown = "model.layers.1.mlp.down_proj";

TEST_F(Diff, NamesTheLayerThatWasChangedAndNoOther) {
  quantize("a", {"gptq"});
  EXPECT_TRUE(diff_models(out("a"), out("a")).equal);
  copy("a", "codes");
  change(out("codes"), kDown + ".qweight", [](std::byte* bytes, size_t) { bytes[0] ^= std::byte{1}; });
  DiffResult r = diff_models(out("a"), out("codes"));
  EXPECT_FALSE(r.equal);
  ASSERT_EQ(r.linear_changes.size(), 1U);
  EXPECT_EQ(r.changed_linears, 1U);
  EXPECT_EQ(r.changed_others, 0U);
  const DiffTensor& t = r.linear_changes[0];
  EXPECT_EQ(t.name, kDown + ".weight");
  ASSERT_TRUE(t.codes && t.scales && t.zeros);
  EXPECT_DOUBLE_EQ(*t.codes, 1.0 / static_cast<double>(t.shape[0] * t.shape[1]));  // one code of all
  EXPECT_EQ(*t.scales, 0);
  EXPECT_EQ(*t.zeros, 0);
  EXPECT_GT(t.relative_difference, 0);
  EXPECT_EQ(t.a.stored_as, "gptq");
  EXPECT_EQ(t.a.bits, 4);

  copy("a", "scales");  // the first scale doubled: its exponent plus one
  change(out("scales"), kDown + ".scales", [](std::byte* bytes, size_t) {
    uint16_t half = 0;
    std::memcpy(&half, bytes, 2);
    half = static_cast<uint16_t>(half + 0x400);
    std::memcpy(bytes, &half, 2);
  });
  change(out("scales"), "model.norm.weight", [](std::byte* bytes, size_t) { bytes[0] ^= std::byte{1}; });
  r = diff_models(out("a"), out("scales"));
  ASSERT_EQ(r.linear_changes.size(), 1U);
  EXPECT_EQ(r.linear_changes[0].codes, 0);
  EXPECT_EQ(r.linear_changes[0].scales, 1);
  ASSERT_EQ(r.other_changes.size(), 1U);
  EXPECT_EQ(r.other_changes[0].name, "model.norm.weight");
  EXPECT_FALSE(r.other_changes[0].codes);
  EXPECT_NE(render_diff(r).find("1 of 14 linears and 1 of"), std::string::npos) << render_diff(r);
  EXPECT_EQ(nlohmann::json::parse(r.to_json())["linear_changes"][0]["scales"], 1.0);
}

// The same codes in every layout are equal, whatever their order of bits. Native alone keeps other tensors in 32 bits.
TEST_F(Diff, FormatsOfTheSameCodesAreEqual) {
  quantize("all", {"native", "awq", "gptq", "compressed-tensors"});
  for (const char* format : {"awq", "gptq", "compressed-tensors"}) {
    const DiffResult r = diff_models(out("all/native"), out(std::string("all/") + format));
    EXPECT_EQ(r.linears, 14U);
    EXPECT_EQ(r.changed_linears, 0U) << format << "\n" << render_diff(r);
    EXPECT_EQ(r.changed_others, 7U);
    EXPECT_TRUE(diff_models(out("all/awq"), out(std::string("all/") + format)).equal) << format;
  }
}

TEST_F(Diff, AgainstFloatsWeightsAloneAreCompared) {
  quantize("a", {"awq"});
  DiffResult r = diff_models(model(), out("a"), {.limit = 2, .machine = {}});
  EXPECT_EQ(r.changed_linears, r.linears);
  EXPECT_EQ(r.linear_changes.size(), 2U);
  EXPECT_FALSE(r.linear_changes[0].codes);
  EXPECT_TRUE(r.linear_changes[0].b.bits);
  EXPECT_GT(r.linear_changes[0].relative_difference, 0.01);
  const std::string gguf = model("gguf") + "/llama.gguf";
  r = diff_models(gguf, gguf);
  EXPECT_TRUE(r.equal);
}

TEST_F(Diff, RefusesTwoModels) {
  EXPECT_THROW(diff_models(model("llama"), model("phi3")), Error);
  EXPECT_THROW(diff_models(model(), model(), {.limit = -1, .machine = {}}), ArgumentError);
}

// The commands that are public, on checkpoints that the program wrote itself.
TEST_F(Diff, CheckKnowsOurOwnCheckpoints) {
  quantize("all", {"awq", "gptq", "compressed-tensors", "native"});
  for (const std::string target : {"vllm", "sglang", "transformers"}) {
    const CheckResult r = check_model(out("all/native"), {.target = target, .tensor_parallel = 1});
    EXPECT_EQ(r.verdict, "does not load") << render_check(r);
  }
  EXPECT_EQ(check_model(out("all/awq"), {.target = "transformers", .tensor_parallel = 1}).verdict, "loads");
  EXPECT_EQ(check_model(out("all/compressed-tensors"), {.target = "transformers", .tensor_parallel = 1}).verdict,
            "loads");
  EXPECT_EQ(check_model(out("all/gptq"), {.target = "mlx", .tensor_parallel = 1}).verdict, "does not load");
  EXPECT_THROW(check_model(out("all/awq"), {.target = "vlm", .tensor_parallel = 1}), ArgumentError);
  EXPECT_THROW(check_model(out("all/awq"), {.target = "mlx", .tensor_parallel = 2}), ArgumentError);
  EXPECT_THROW(check_model(out("none"), {.target = "mlx", .tensor_parallel = 1}), Error);
}

}  // namespace
}  // namespace metal_marlin
