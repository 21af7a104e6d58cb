#include "formats/blocks/block_fields.h"

#include <cmath>
#include <cstring>

#include "core/random.h"
#include "formats/safetensors.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

class Fields : public testing::TestWithParam<BlockForm> {
 protected:
  std::string name() const { return std::string(ggml_type_info(GetParam().type).name); }
  const TensorView& golden(const std::string& which) const { return golden_.get(which); }

 private:
  SafetensorsFile golden_{test::data_path("gguf_blocks.safetensors")};
};

float half(uint16_t bits) {
  _Float16 h;
  std::memcpy(&h, &bits, sizeof h);
  return static_cast<float>(h);
}

// The formulas of block_fields.h, written out.
float value_of(const BlockForm& form, const BlockFields& f, size_t i) {
  const size_t block = i / static_cast<size_t>(form.block);
  const size_t segment = i / static_cast<size_t>(form.segment);
  const float d = half(f.d[block]);
  const float s = form.scales() ? d * static_cast<float>(f.scales[segment]) : d;
  if (form.levels) return s * static_cast<float>(kBlockLevels[f.codes[i]]);
  const float value = s * static_cast<float>(f.codes[i] - form.zero);
  if (!form.minima) return value;
  return value + (form.scales() ? -(half(f.m[block]) * static_cast<float>(f.minima[segment])) : half(f.m[block]));
}

TEST_P(Fields, OfGoldenBlocksMeanTheValuesOfGgufPyBitForBit) {
  const TensorView& blocks = golden("random." + name());
  const TensorView& values = golden("random." + name() + ".values");
  const BlockFields fields = unpack_blocks(GetParam().type, blocks.bytes);
  ASSERT_EQ(std::ssize(fields.codes), values.elements());
  for (size_t i = 0; i < fields.codes.size(); ++i) {
    float expected = 0;
    std::memcpy(&expected, values.bytes.data() + 4 * i, 4);
    ASSERT_LT(fields.codes[i], 1 << GetParam().bits);
    ASSERT_EQ(value_of(GetParam(), fields, i), expected) << i;
  }
}

TEST_P(Fields, ArePackedIntoTheGoldenBytes) {
  const TensorView& blocks = golden("random." + name());
  const std::vector<std::byte> packed = pack_blocks(GetParam().type, unpack_blocks(GetParam().type, blocks.bytes));
  ASSERT_EQ(packed.size(), blocks.bytes.size());
  EXPECT_EQ(std::memcmp(packed.data(), blocks.bytes.data(), packed.size()), 0);
}

TEST_P(Fields, AnyNumbersComeBack) {
  const BlockForm& form = GetParam();
  Random random(7, static_cast<uint64_t>(form.type));
  constexpr int64_t kBlocks = 50;
  BlockFields fields(form, kBlocks);
  for (uint8_t& c : fields.codes) c = static_cast<uint8_t>(random.below(uint64_t{1} << form.bits));
  for (uint16_t& d : fields.d) d = static_cast<uint16_t>(random.next());
  for (uint16_t& m : fields.m) m = static_cast<uint16_t>(random.next());
  const auto range = static_cast<uint64_t>(form.largest_scale - form.least_scale + 1);
  for (int8_t& s : fields.scales) s = static_cast<int8_t>(form.least_scale + static_cast<int>(random.below(range)));
  for (uint8_t& m : fields.minima) m = static_cast<uint8_t>(random.below(kLargestBlockMinimum + 1));
  const std::vector<std::byte> packed = pack_blocks(form.type, fields);
  ASSERT_EQ(std::ssize(packed), kBlocks * form.bytes);
  const BlockFields back = unpack_blocks(form.type, packed);
  EXPECT_EQ(back.codes, fields.codes);
  EXPECT_EQ(back.d, fields.d);
  EXPECT_EQ(back.m, fields.m);
  EXPECT_EQ(back.scales, fields.scales);
  EXPECT_EQ(back.minima, fields.minima);
  // In parts.
  std::vector<std::byte> parts(packed.size());
  const auto middle = static_cast<size_t>(17 * form.bytes);
  pack_blocks(form.type, fields, 17, std::span(parts).subspan(middle));
  pack_blocks(form.type, fields, 0, std::span(parts).first(middle));
  EXPECT_EQ(parts, packed);
}

TEST_P(Fields, AgreeWithTheTableOfTypes) {
  const BlockForm& form = GetParam();
  EXPECT_EQ(form.block, ggml_type_info(form.type).block);
  EXPECT_EQ(form.bytes, ggml_type_info(form.type).bytes);
  EXPECT_EQ(form.block % form.segment, 0);
  EXPECT_TRUE(form.scales() || form.segments() == 1);
}

TEST_P(Fields, OfWrongSizesAreRefused) {
  const BlockForm& form = GetParam();
  BlockFields fields(form, 2);
  std::vector<std::byte> out(static_cast<size_t>(2 * form.bytes));
  const auto refuses = [&](int64_t first, std::span<std::byte> to) {
    test::check_error(test::expect<ArgumentError>({name()}), [&] { pack_blocks(form.type, fields, first, to); });
  };
  refuses(1, out);
  refuses(-1, std::span(out).first(static_cast<size_t>(form.bytes)));
  refuses(0, std::span(out).first(out.size() - 1));
  fields.codes.pop_back();
  refuses(0, out);
  test::check_error(test::expect<ArgumentError>({name()}),
                    [&] { unpack_blocks(form.type, std::span(out).first(out.size() - 1)); });
}

INSTANTIATE_TEST_SUITE_P(Types, Fields, testing::ValuesIn(kBlockForms),
                         [](const auto& tested) { return std::string(ggml_type_info(tested.param.type).name); });

TEST(BlockFieldsTable, HasNoTypesWithoutForm) {
  EXPECT_FALSE(block_form(GgmlType::kF16).has_value());
  EXPECT_FALSE(block_form(GgmlType::kQ2_K).has_value());
  test::check_error(test::expect<ArgumentError>({"F16"}), [] { unpack_blocks(GgmlType::kF16, {}); });
  test::check_error(test::expect<ArgumentError>({"Q2_K"}), [] { pack_blocks(GgmlType::kQ2_K, {}); });
}

}  // namespace
}  // namespace metal_marlin
