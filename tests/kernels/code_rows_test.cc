// Weights that come as rows of codes, as GGUF's blocks do: every instruction set of this machine against float64
// arithmetic with a derived bound, and all of them bit for bit against each other, for any number of rows.
#include <metal_marlin/error.h>

#include <cstring>

#include "kernels/code_products.h"

namespace metal_marlin {
namespace {

using namespace test;

// A zero for all, scales and minima in each form.
struct RowsCase {
  const char* like;
  int64_t out;
  int64_t in;
  int64_t group;
  int bits;
  int zero;
  int levels;
  ScaleForm scales;
  bool minima;
};
const RowsCase kRowsCases[] = {
    {"Q4_0", 48, 256, 32, 4, 8, 16, ScaleForm::kF16, false},
    {"Q4_1", 33, 96, 32, 4, 0, 16, ScaleForm::kF16, true},
    {"Q5_1", 40, 320, 32, 8, 128, 160, ScaleForm::kF16, true},
    {"Q8_0", 16, 64, 32, 8, 128, 256, ScaleForm::kF16, false},
    {"Q2_K", 20, 256, 16, 4, 0, 4, ScaleForm::kF32, true},
    {"Q3_K", 35, 512, 16, 4, 4, 8, ScaleForm::kF32, false},
    {"Q4_K", 64, 768, 32, 4, 0, 16, ScaleForm::kF32, true},
    {"Q5_K", 17, 256, 32, 8, 128, 160, ScaleForm::kF32, true},
    {"Q6_K", 50, 512, 16, 8, 128, 256, ScaleForm::kF32, false},
    {"many pieces", 19, 2096, 16, 8, 128, 256, ScaleForm::kF32, true},
    {"one group", 3, 48, 48, 4, 3, 16, ScaleForm::kF32, true},
    {"bf16", 31, 64, 8, 4, 0, 16, ScaleForm::kBF16, true},
};

struct RowsOfCodes {
  explicit RowsOfCodes(const RowsCase& c) : of(c) {
    Random random(9, static_cast<uint64_t>(c.out * 1000 + c.in));
    for (int64_t i = 0; i < c.out * c.in; ++i)
      codes.push_back(static_cast<uint8_t>(random.below(static_cast<uint64_t>(c.levels))));
    const auto rounded = [&](double value) {
      const auto v = static_cast<float>(value);  // of all bits of a float where the form keeps them
      if (c.scales == ScaleForm::kF32) return v;
      return c.scales == ScaleForm::kBF16 ? bf16_to_f32(f32_to_bf16(v)) : round_to_f16(v);
    };
    for (int64_t i = 0; i < c.out * groups(); ++i) {
      scales.push_back(rounded((random.uniform() + 0.2) * (random.below(2) == 0 ? -0.02 : 0.02)));
      if (c.minima) minima.push_back(rounded(random.normal() * 0.1));
    }
  }
  int64_t groups() const { return of.in / of.group; }
  CodeForm form() const { return {of.bits, of.group, of.scales, false, of.minima}; }
  CodeRows rows() const {
    CodeRows r{of.out, of.in, form(), of.zero, of.group, {}};
    r.read = [this](int64_t row, int64_t first, int64_t count, uint8_t* out, void* row_scales, void* row_minima) {
      std::memcpy(out, codes.data() + row * of.in + first, static_cast<size_t>(count));
      const auto put = [&](const std::vector<float>& from, void* to) {
        for (int64_t g = 0; g < count / of.group; ++g) {
          const float v = from[static_cast<size_t>(row * groups() + first / of.group + g)];
          if (of.scales == ScaleForm::kF32) static_cast<float*>(to)[g] = v;
          if (of.scales == ScaleForm::kF16) static_cast<uint16_t*>(to)[g] = f32_to_f16(v);
          if (of.scales == ScaleForm::kBF16) static_cast<uint16_t*>(to)[g] = f32_to_bf16(v);
        }
      };
      put(scales, row_scales);
      EXPECT_EQ(row_minima != nullptr, of.minima);
      if (of.minima) put(minima, row_minima);
    };
    return r;
  }
  Weight weight(int64_t n, int64_t channel) const {
    const auto at = static_cast<size_t>(n * groups() + channel / of.group);
    return {static_cast<double>(codes[static_cast<size_t>(n * of.in + channel)] - of.zero), scales[at],
            of.minima ? minima[at] : 0.0};
  }

  RowsCase of;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<float> minima;
};

TEST(CodeRows, AgreeWithFloat64) {
  for (const RowsCase& c : kRowsCases) {
    SCOPED_TRACE(c.like);
    const RowsOfCodes rows(c);
    const WeightMatrix w = WeightMatrix::of_rows(rows.rows());
    ASSERT_EQ(w.out_features(), c.out);
    ASSERT_EQ(w.in_features(), c.in);
    EXPECT_EQ(w.bytes(), code_bytes(rows.form(), c.out, c.in));
    Random random(10, 0);
    constexpr int64_t kRows = 21;
    const auto x = random_rows(kRows * c.in, random);
    for (const CodeKernels& isa : supported_code_kernels()) {
      const auto y = product(isa, w, x.data(), kRows);
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t n = 0; n < c.out; ++n) {
          const auto weight = [&](int64_t channel) { return rows.weight(n, channel); };
          const Exact e = exact(weight, {}, *w.plan(), x.data() + r * c.in);
          ASSERT_NEAR(y[static_cast<size_t>(r * c.out + n)], e.value, e.bound)
              << isa.name << ", row " << r << ", output " << n;
        }
      }
    }
  }
}

TEST(CodeRows, HaveTheSameBitsEverywhere) {
  for (const RowsCase& c : kRowsCases) {
    const RowsOfCodes rows(c);
    const WeightMatrix w = WeightMatrix::of_rows(rows.rows());
    Random random(11, 0);
    constexpr int64_t kRows = 150;
    const auto x = random_rows(kRows * c.in, random);
    const auto all = product(scalar(), w, x.data(), kRows);
    for (const CodeKernels& isa : supported_code_kernels()) {
      for (const int64_t n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 32, 48, 128, 150}) {
        const auto y = product(isa, w, x.data(), n);
        ASSERT_EQ(0, std::memcmp(y.data(), all.data(), y.size() * sizeof(float)))
            << isa.name << ", like " << c.like << ", " << n << " rows";
      }
    }
  }
}

TEST(CodeRows, OtherFormsAreRefused) {
  const RowsOfCodes rows(kRowsCases[0]);
  const auto refused = [&](const std::function<void(CodeRows&)>& change) {
    CodeRows r = rows.rows();
    change(r);
    EXPECT_THROW(WeightMatrix::of_rows(r), ArgumentError);
  };
  refused([](CodeRows& r) { r.out_features = 0; });
  refused([](CodeRows& r) { r.in_features = -1; });
  refused([](CodeRows& r) { r.form.group = 0; });
  refused([](CodeRows& r) { r.form.group = 4; });
  refused([](CodeRows& r) { r.form.group = r.step = kLongestSegment + 128; });
  refused([](CodeRows& r) { r.step = 0; });
  refused([](CodeRows& r) { r.step = 48; });
  refused([](CodeRows& r) { r.in_features = 250; });
  refused([](CodeRows& r) { r.form.zeros = true; });
}

}  // namespace
}  // namespace metal_marlin
