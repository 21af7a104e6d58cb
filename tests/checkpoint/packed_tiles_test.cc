// Tiles straight from the words of each layout against those of the unpacked codes: the same bytes.
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint/read_tiles.h"
#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "kernels/weight_matrix.h"
#include "layouts/config/read_config.h"
#include "layouts/layout.h"
#include "pack/awq_gemm.h"
#include "pack/gptq.h"
#include "pack/marlin.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

struct Case {
  const char* format;  // "native", "awq", "gptq", "gptq_v2", "marlin"
  int64_t out;
  int64_t in;
  int64_t group;
  int bits = 4;
  bool symmetric = false;
  bool act_order = false;
  bool q_scale = false;
};

const Case kCases[] = {
    {"native", 160, 256, 32},
    {"native", 161, 256, 64, 4, true},
    {"native", 37, 264, 264},  // per channel, in segments of 88
    {"native", 24, 240, 240},
    {"native", 24, 1000, 1000},  // the last segment of each row is short
    {"native", 20, 48, 12},      // groups that are no whole lines
    {"native", 32, 96, 32, 3},
    {"native", 129, 160, 40, 8},
    {"native", 16, 20, 10, 8},
    {"native", 16, 64, 32, 4, false, false, true},
    {"gptq", 136, 256, 128},
    {"gptq_v2", 64, 200, 64},  // a short last group
    {"gptq_v2", 32, 128, 32, 3},
    {"gptq_v2", 40, 256, 32, 4, false, true},
    {"gptq", 64, 128, 32, 8, true, true},
    {"gptq_v2", 64, 96, 32, 3, false, true},
    {"awq", 136, 256, 128},
    {"awq", 24, 72, 24, 4, true},
    {"awq", 200, 130, 65},
    {"marlin", 512, 256, 128, 4, true},
    {"marlin", 256, 384, 384, 4, true},
};

QuantizedTensor make_tensor(const Case& c, Random& random) {
  QuantizedTensor t{
      .out_features = c.out, .in_features = c.in, .group_size = c.group, .bits = c.bits, .symmetric = c.symmetric};
  const uint64_t levels = uint64_t{1} << c.bits;
  for (int64_t i = 0; i < c.out * c.in; ++i) t.codes.push_back(static_cast<uint8_t>(random.below(levels)));
  for (int64_t i = 0; i < c.out * t.groups(); ++i) {
    t.scales.push_back(f32_to_f16(static_cast<float>(random.normal())));
    t.zeros.push_back(static_cast<uint8_t>(c.symmetric ? levels / 2 : 1 + random.below(levels - 1)));
  }
  if (c.act_order) {
    for (int64_t k = 0; k < c.in; ++k) t.group_index.push_back(static_cast<int32_t>(k / c.group));
    for (size_t k = t.group_index.size(); k > 1; --k)
      std::swap(t.group_index[k - 1], t.group_index[random.below(static_cast<uint64_t>(k))]);
  }
  return t;
}

// A linear in its layout.
struct Stored {
  PackedTensor packed;
  PackedConfig config;
  PackedLinear linear;
  std::vector<TensorView> views;

  Stored(const Case& c, const QuantizedTensor& t, std::span<const uint16_t> q_scale) {
    const std::string format = c.format;
    nlohmann::json settings = {{"bits", c.bits}, {"group_size", c.group}};
    if (format == "native") {
      packed = pack_native(t, "p", q_scale);
      settings["quant_method"] = "metal_marlin";
    } else if (format == "awq") {
      packed = pack_awq_gemm(t, "p");
      settings.update({{"quant_method", "awq"}, {"version", "gemm"}, {"zero_point", true}});
    } else if (format == "marlin") {
      packed = pack_marlin(t, "p");
      settings["quant_method"] = "marlin";
    } else {
      packed = pack_gptq(t, "p", format == "gptq" ? GptqVersion::kV1 : GptqVersion::kV2);
      settings.update({{"quant_method", "gptq"}, {"checkpoint_format", format}});
    }
    nlohmann::json whole = {{"quantization_config", settings}};
    std::vector<std::string> warnings;
    config = read_packed_config(whole, "config.json", "", warnings);
    for (const OwnedTensor& part : packed.parts) views.push_back(part.view());
    linear.bits = c.bits;
    linear.codes = &views[0];
    linear.names = &config.layout->part_names().front();
    if (format == "native") {
      linear.scales = &views[1];
      linear.zeros = &views[2];
      if (views.size() > 3) linear.channels = &views[3];
    } else if (format == "marlin") {
      linear.scales = &views[1];
    } else {
      linear.zeros = &views[1];
      linear.scales = &views[2];
      if (views.size() > 3) linear.channels = &views[3];
    }
  }
};

void expect_same_tiles(const WeightMatrix& a, const WeightMatrix& b) {
  ASSERT_EQ(a.type(), b.type());
  ASSERT_EQ(a.bytes(), b.bytes());
  EXPECT_EQ(*a.plan(), *b.plan());
  EXPECT_EQ(a.tiles().bits, b.tiles().bits);
  EXPECT_EQ(a.tiles().form, b.tiles().form);
  EXPECT_EQ(a.tiles().segments, b.tiles().segments);
  EXPECT_EQ(a.tiles().length, b.tiles().length);
  EXPECT_EQ(a.tiles().out_features, b.tiles().out_features);
  EXPECT_EQ(a.tiles().zero, b.tiles().zero);
  ASSERT_EQ(a.tiles().zeros == nullptr, b.tiles().zeros == nullptr);
  // One piece of memory: codes, scales, zeros.
  EXPECT_EQ(0, std::memcmp(a.tiles().codes, b.tiles().codes, a.bytes()));
}

TEST(PackedTiles, AreThoseOfTheUnpackedCodes) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c.format << " [" << c.out << ", " << c.in << "] groups of " << c.group << ", "
                                    << c.bits << " bits" << (c.act_order ? ", act order" : ""));
    Random random(9, static_cast<uint64_t>(c.out * 1000 + c.in));
    const QuantizedTensor t = make_tensor(c, random);
    std::vector<uint16_t> q_scale;
    for (int64_t k = 0; c.q_scale && k < c.in; ++k)
      q_scale.push_back(f32_to_f16(static_cast<float>(0.5 + random.uniform())));
    const Stored stored(c, t, q_scale);
    // The whole, and rows as a fused weight has them.
    for (const auto& [first, rows] :
         {std::pair<int64_t, int64_t>{0, c.out}, {8, c.out - 8}, {64, c.out - 128}, {c.out / 2, 1}, {3, c.out - 5}}) {
      if (rows <= 0) continue;
      const auto tiles = read_tiles(stored.config, stored.linear, "p", first, rows);
      if (tiles == nullptr) {
        const int64_t words = std::string(c.format) == "awq" ? 8 : std::string(c.format) == "marlin" ? 64 : 1;
        EXPECT_FALSE(first % words == 0 && rows % words == 0) << first << ", " << rows;
        continue;
      }
      expect_same_tiles(*tiles, WeightMatrix::of_codes(t, first, rows, q_scale));
    }
    EXPECT_EQ(read_tiles(stored.config, stored.linear, "p", 0, c.out + 1), nullptr);
  }
}

TEST(PackedTiles, DoNotDependOnThreads) {
  const Case c{"gptq", 1000, 256, 32, 4, false, true};
  Random random(10);
  const QuantizedTensor t = make_tensor(c, random);
  const Stored stored(c, t, {});
  for (const int n : {1, 3}) {
    const ThreadCount count(n);
    expect_same_tiles(*read_tiles(stored.config, stored.linear, "p", 0, c.out), WeightMatrix::of_codes(t));
  }
}

}  // namespace
}  // namespace metal_marlin
