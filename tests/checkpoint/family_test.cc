#include "families/family.h"

#include <set>

#include "checkpoint/models.h"
#include "families/registry.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::check_error;
using test::expect;

TEST(Family, ModelTypesOfTransformersAreKnown) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {"llama", "llama"},   {"mistral", "mistral"},    {"qwen2", "qwen2"}, {"qwen3", "qwen3"},
      {"gemma2", "gemma2"}, {"gemma3_text", "gemma3"}, {"phi3", "phi3"}};
  for (const auto& [type, family] : table) EXPECT_EQ(find_family(json{{"model_type", type}}, "f").name, family);
  EXPECT_EQ(families().size(), table.size());
}

TEST(Family, ArchitecturesCountOnlyWithoutModelType) {
  EXPECT_EQ(find_family(json{{"architectures", {"Qwen3ForCausalLM"}}}, "f").name, "qwen3");
  check_error(expect<UnsupportedError>({"f", "minicpm", "llama, mistral"}),
              [] { find_family(json{{"model_type", "minicpm"}, {"architectures", {"LlamaForCausalLM"}}}, "f"); });
}

TEST(Family, UnknownOnesAreNamed) {
  check_error(expect<UnsupportedError>({"f", "mamba", "gemma3, phi3"}),
              [] { find_family(json{{"model_type", "mamba"}}, "f"); });
  check_error(expect<UnsupportedError>({"MambaForCausalLM"}),
              [] { find_family(json{{"architectures", {"MambaForCausalLM"}}}, "f"); });
  check_error(expect<FormatError>({"f", "model_type"}), [] { find_family(json::object(), "f"); });
  check_error(expect<FormatError>({"model_type"}),
              [] { find_family(json{{"model_type", 3}, {"architectures", {7}}}, "f"); });
  check_error(expect<UnsupportedError>({"f", "rwkv7"}), [] { find_family_of_gguf("rwkv7", "f"); });
}

TEST(Family, GgufArchitecturesNameOneFamilyEach) {
  std::set<std::string> seen;
  for (const Family* f : families()) {
    for (const std::string& name : f->gguf_architectures) {
      EXPECT_TRUE(seen.insert(name).second) << name;
      EXPECT_EQ(&find_family_of_gguf(name, "f"), f);
    }
  }
}

// What a table must hold for the stages to work with it.
TEST(Family, TablesAreConsistent) {
  for (const Family* f : families()) {
    SCOPED_TRACE(f->name);
    for (const std::string& module : f->linears) EXPECT_FALSE(module.empty());
    EXPECT_FALSE(f->norms[static_cast<size_t>(NormKind::kInput)].empty());
    EXPECT_FALSE(f->norms[static_cast<size_t>(NormKind::kPreFeedForward)].empty());
    EXPECT_EQ(f->norms[static_cast<size_t>(NormKind::kQ)].empty(), f->norms[static_cast<size_t>(NormKind::kK)].empty());
    std::set<LinearInput> inputs;
    for (const Fold& fold : f->folds) {
      EXPECT_TRUE(inputs.insert(fold.input).second) << fold.name;
      const FoldProducer expected[kLinearInputs] = {FoldProducer::kInputNorm, FoldProducer::kVRows,
                                                    FoldProducer::kPreFeedForwardNorm, FoldProducer::kUpRows};
      EXPECT_EQ(fold.producer, expected[static_cast<int>(fold.input)]) << fold.name;
      // The name begins with the producer's module.
      const std::string producer = fold.name.substr(0, fold.name.find_first_of(" "));
      const std::string module =
          fold.producer == FoldProducer::kInputNorm ? f->norms[static_cast<size_t>(NormKind::kInput)]
          : fold.producer == FoldProducer::kPreFeedForwardNorm
              ? f->norms[static_cast<size_t>(NormKind::kPreFeedForward)]
          : fold.producer == FoldProducer::kVRows ? f->linears[static_cast<size_t>(LinearKind::kV)]
                                                  : f->linears[static_cast<size_t>(LinearKind::kUp)];
      EXPECT_TRUE(module.ends_with(producer)) << fold.name << " / " << module;
    }
    // The scale of q, k, v is not folded in Gemma 3: norms follow q and k there and folding made it worse.
    EXPECT_EQ(inputs.count(LinearInput::kQkv), f->name == "gemma3" ? 0U : 1U);
    EXPECT_EQ(inputs.size(), f->name == "gemma3" ? 3U : 4U);
  }
}

TEST(Family, InputsOfLinears) {
  using K = LinearKind;
  const std::vector<std::pair<K, LinearInput>> table = {
      {K::kQ, LinearInput::kQkv},    {K::kK, LinearInput::kQkv},       {K::kV, LinearInput::kQkv},
      {K::kO, LinearInput::kO},      {K::kGate, LinearInput::kGateUp}, {K::kUp, LinearInput::kGateUp},
      {K::kDown, LinearInput::kDown}};
  for (const auto& [kind, input] : table) EXPECT_EQ(input_of(kind), input);
  EXPECT_STREQ(linear_kind_name(K::kGate), "gate");
}

}  // namespace
}  // namespace metal_marlin
