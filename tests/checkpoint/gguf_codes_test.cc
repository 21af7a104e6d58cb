// Weights of GGUF's blocks that stay codes: against float64 products with the same weights as floats.
#include <cmath>
#include <filesystem>

#include "checkpoint/gguf_of_blocks.h"
#include "kernels/weight_matrix.h"

namespace metal_marlin {
namespace {

using test::BlocksModel;
using test::check_error;
using test::expect;
using test::TemporaryFolder;

struct Type {
  GgmlType type;
  const char* name;
  int bits;       // of a kept code
  int64_t group;  // that shares a scale
};
void PrintTo(const Type& t, std::ostream* out) {
  *out << t.name;
}

class Coded : public testing::TestWithParam<Type> {};

// Row r of x times the rows of `w` in float64, and how far activations that are rounded to 8 bits for each group may
// be from it. The sums of floats round by far less than the hundredth that is added.
void expect_product(const std::vector<float>& y, const std::vector<float>& x, const Matrix& w, int64_t group) {
  const int64_t rows = static_cast<int64_t>(x.size()) / w.cols();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < w.rows(); ++n) {
      double want = 0;
      double bound = 0;
      for (int64_t k = 0; k < w.cols(); k += group) {
        double largest = 0;
        for (int64_t i = k; i < k + group; ++i)
          largest = std::max(largest, std::fabs(static_cast<double>(x[static_cast<size_t>(r * w.cols() + i)])));
        for (int64_t i = k; i < k + group; ++i) {
          want += static_cast<double>(w(n, i)) * x[static_cast<size_t>(r * w.cols() + i)];
          bound += std::fabs(static_cast<double>(w(n, i))) * largest / 254 * 1.01;
        }
      }
      ASSERT_NEAR(y[static_cast<size_t>(r * w.rows() + n)], want, bound) << "row " << r << ", output " << n;
    }
  }
}

TEST_P(Coded, EqualsItsFloats) {
  const TemporaryFolder folder;
  const auto source = BlocksModel(GetParam().type).open(folder);
  source->check();
  EXPECT_TRUE(source->has_codes());
  EXPECT_FALSE(source->quantized());
  Random random(3);
  for (const LinearSlot& slot : source->linears(0)) {
    SCOPED_TRACE(slot.weight);
    const auto form = source->code_form(slot.weight);
    ASSERT_TRUE(form.has_value());
    EXPECT_LE(form->bits, GetParam().bits);
    EXPECT_EQ(form->group, GetParam().group);
    // The whole, and rows of it as a fused weight has them.
    for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{0, slot.rows}, {slot.rows / 2 - 7, 40}}) {
      const auto weight = source->load_blocks(slot.weight, first, rows);
      ASSERT_NE(weight, nullptr);
      EXPECT_EQ(weight->type(), WeightType::kCodes);
      EXPECT_EQ(weight->bytes(), code_bytes(*form, rows, slot.columns));
      // A code takes its bits, and each group a scale and perhaps a minimum of at most 4 bytes.
      const auto padded = static_cast<double>((rows + 15) / 16 * 16 * slot.columns);
      EXPECT_LE(static_cast<double>(weight->bytes()),
                padded * (GetParam().bits / 8.0 + 8.0 / static_cast<double>(GetParam().group)));
      std::vector<float> x(static_cast<size_t>(3 * slot.columns));
      for (float& v : x) v = static_cast<float>(random.normal());
      std::vector<float> y(static_cast<size_t>(3 * rows));
      const LinearTask task{weight.get(), nullptr, y.data(), rows};
      multiply(std::span(&task, 1), x.data(), 3, true);
      expect_product(y, x, source->load(slot.weight, first, rows), GetParam().group);
    }
    check_error(expect<ArgumentError>({}), [&] { source->load_blocks(slot.weight, slot.rows - 3, 4); });
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Coded,
                         testing::Values(Type{GgmlType::kQ4_0, "Q4_0", 4, 32}, Type{GgmlType::kQ4_1, "Q4_1", 4, 32},
                                         Type{GgmlType::kQ5_0, "Q5_0", 8, 32}, Type{GgmlType::kQ5_1, "Q5_1", 8, 32},
                                         Type{GgmlType::kQ8_0, "Q8_0", 8, 32}, Type{GgmlType::kQ2_K, "Q2_K", 4, 16},
                                         Type{GgmlType::kQ3_K, "Q3_K", 4, 16}, Type{GgmlType::kQ4_K, "Q4_K", 4, 32},
                                         Type{GgmlType::kQ5_K, "Q5_K", 8, 32}, Type{GgmlType::kQ6_K, "Q6_K", 8, 16},
                                         Type{GgmlType::kIQ4_NL, "IQ4_NL", 8, 32},
                                         Type{GgmlType::kIQ4_XS, "IQ4_XS", 8, 32}),
                         [](const testing::TestParamInfo<Type>& tested) { return std::string(tested.param.name); });

TEST(GgufCodes, FloatsStayFloats) {
  for (const GgmlType type : {GgmlType::kF16, GgmlType::kBF16, GgmlType::kF32}) {
    const TemporaryFolder folder;
    const auto source = BlocksModel(type).open(folder);
    source->check();
    EXPECT_FALSE(source->has_codes());  // the head alone makes no model of codes
    const std::string name = source->linears(0)[0].weight;
    EXPECT_EQ(source->load_blocks(name, 0, 16), nullptr);
    EXPECT_FALSE(source->code_form(name).has_value());
    EXPECT_TRUE(source->code_form(source->head_tensor()).has_value());
    EXPECT_FALSE(source->code_form("model.norm.weight").has_value());
  }
}

// A scale or minimum that is not finite is named as it is where the weight becomes floats.
TEST(GgufCodes, DamagedScalesAreNamed) {
  struct Damage {
    GgmlType type;
    size_t at;  // in the block
    std::string bytes;
  };
  for (const Damage& d :
       {Damage{GgmlType::kQ4_0, 0, std::string("\x00\x7c", 2)}, Damage{GgmlType::kQ4_1, 2, std::string("\x01\xfe", 2)},
        Damage{GgmlType::kQ6_K, 208, std::string("\x00\xfc", 2)},
        Damage{GgmlType::kQ4_K, 2, std::string("\x00\x7e", 2)},
        Damage{GgmlType::kIQ4_XS, 0, std::string("\xff\xff", 2)}}) {
    const GgmlTypeInfo info = ggml_type_info(d.type);
    SCOPED_TRACE(info.name);
    const TemporaryFolder folder;
    BlocksModel model(d.type);
    const int64_t row_bytes = BlocksModel::kHidden / info.block * info.bytes;
    model.damage = {{"blk.0.attn_v.weight", {static_cast<size_t>(3 * row_bytes) + d.at, d.bytes}}};
    const auto source = model.open(folder);
    const std::string name = "model.layers.0.self_attn.v_proj.weight";
    std::string of_floats;
    try {
      source->check_finite(name);
    } catch (const NumericError& error) {
      of_floats = error.what();
    }
    EXPECT_NE(of_floats.find("blk.0.attn_v.weight"), std::string::npos) << of_floats;
    EXPECT_NE(of_floats.find("row 3"), std::string::npos) << of_floats;
    try {
      source->load_blocks(name, 0, 128);
      FAIL() << "loaded";
    } catch (const NumericError& error) {
      EXPECT_EQ(error.what(), of_floats);
    }
  }
}

TEST(GgufCodes, FileThatChangedIsRefused) {
  const TemporaryFolder folder;
  const auto source = BlocksModel(GgmlType::kQ5_K).open(folder);
  const std::string name = source->linears(0)[0].weight;
  ASSERT_NE(source->load_blocks(name, 0, 256), nullptr);
  source->release(name);
  const std::string path = folder.path("model.gguf");
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 8);
  check_error(expect<SystemError>({"model.gguf"}), [&] { source->load_blocks(name, 0, 256); });
}

}  // namespace
}  // namespace metal_marlin
