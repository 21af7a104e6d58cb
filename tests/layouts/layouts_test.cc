// Each layout of the table, on random tensors: what is written is read again, and exact pairs lose nothing.
#include "layouts/layouts.h"

#include <algorithm>
#include <utility>

#include "pack/golden.h"

namespace metal_marlin {
namespace {

struct Written {
  QuantizedLinear linear;
  PackedTensor packed;
  std::vector<TensorView> views;
};

Written write(const Layout& layout, const QuantizedTensor& t, bool symmetric) {
  Written w;
  w.linear = {.name = "a.weight",
              .out_features = t.out_features,
              .in_features = t.in_features,
              .group_size = t.group_size,
              .folded = "",
              .bits = t.bits,
              .symmetric = symmetric};
  QuantizedTensor tensor = t;
  tensor.symmetric = tensor.symmetric && symmetric;
  w.packed = layout.pack(tensor, "a");
  return w;
}

// As a checkpoint's reader does it.
QuantizedTensor read(const Layout& layout, const Written& w, bool with_entry) {
  PackedConfig config;
  config.layout = &layout;
  config.bits = w.linear.bits;
  config.group_size = w.linear.group_size;
  if (with_entry) config.modules["a"] = {w.linear.bits, w.linear.group_size};
  PackedLinear l;
  const PartNames& names = layout.part_names().front();
  l.names = &names;
  std::vector<TensorView> views;
  views.reserve(w.packed.parts.size());
  for (const OwnedTensor& part : w.packed.parts) views.push_back(part.view());
  for (const TensorView& view : views) {
    const std::string suffix = "." + view.name;
    for (const auto& [name, place] : {std::pair{names.codes, &l.codes},
                                      {names.scales, &l.scales},
                                      {names.zeros, &l.zeros},
                                      {names.channels, &l.channels},
                                      {names.shape, &l.shape}}) {
      if (suffix == name) *place = &view;
    }
  }
  layout.describe(config, "a", "a", l);
  EXPECT_EQ(layout.logical_shape(l, "a"), (std::vector<int64_t>{w.linear.out_features, w.linear.in_features}));
  const int64_t group = l.group_size != 0 ? l.group_size : config.group_size;
  return layout.unpack(l, group, "a", Codes::kRead);
}

// A tensor that the layout can hold, of random shape, width and zeros.
std::optional<QuantizedTensor> random_for(const Layout& layout, Random& random) {
  const int64_t sizes[] = {8, 32, 64, 96, 128, 256, 512};
  const int64_t groups[] = {8, 16, 32, 64, 128, -1};
  const int64_t out = sizes[random.below(7)] + (random.below(4) == 0 ? 1 : 0);
  const int64_t in = sizes[random.below(7)];
  int64_t group = groups[random.below(6)];
  if (group < 0) group = in;
  const auto widths = layout.widths();
  const int bits = widths[random.below(widths.size())];
  const bool symmetric = random.below(2) == 0;
  if (group > in || in % group != 0 || !layout.refusal(out, in, group, bits).empty() ||
      !layout.refusal_of(Grid{bits, symmetric, group == in ? -1 : group}).empty())
    return std::nullopt;
  QuantizedTensor t = test::random_tensor(out, in, group, symmetric, random.below(1'000'000), bits);
  if (!symmetric) {
    for (size_t i = 0; i < t.zeros.size(); ++i) {
      t.zeros[i] = static_cast<uint8_t>(random.below(uint64_t{1} << bits));
      if (layout.least_zero() > t.zeros[i]) t.zeros[i] = static_cast<uint8_t>(layout.least_zero());
      t.scales[i] = static_cast<uint16_t>(
          (t.scales[i] & 0xff00u) | 0x1000u);  // bits to spare for products with zeros, where the layout stores these
    }
    t.zeros[0] = 1;
  }
  return t;
}

class EachLayout : public testing::TestWithParam<const Layout*> {};
INSTANTIATE_TEST_SUITE_P(Table, EachLayout, testing::ValuesIn(code_layouts().begin(), code_layouts().end()),
                         [](const auto& info) {
                           std::string name = info.param->name();
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(EachLayout, ReadsWhatItWrites) {
  const Layout& layout = *GetParam();
  Random random(1);
  int tried = 0;
  for (int i = 0; i < 3000 && tried < 60; ++i) {
    const auto t = random_for(layout, random);
    if (!t || !layout.refusal_of_zeros(*t).empty()) continue;
    ++tried;
    SCOPED_TRACE(testing::Message() << t->out_features << "x" << t->in_features << " group " << t->group_size
                                    << " bits " << t->bits << (t->symmetric ? " sym" : " asym"));
    const Written w = write(layout, *t, t->symmetric);
    const std::vector<TensorInfo> parts = layout.parts(w.linear);
    ASSERT_EQ(parts.size(), w.packed.parts.size());
    for (size_t p = 0; p < parts.size(); ++p) {
      EXPECT_EQ(parts[p].name, w.packed.parts[p].name);
      EXPECT_EQ(parts[p].dtype, w.packed.parts[p].dtype);
      EXPECT_EQ(parts[p].shape, w.packed.parts[p].shape);
    }
    test::expect_equal(read(layout, w, i % 2 == 0), *t);
  }
  EXPECT_GE(tried, 20);
}

TEST_P(EachLayout, AndBackFromEachOtherIsTheIdentity) {
  const Layout& layout = *GetParam();
  for (const Layout* other : code_layouts()) {
    Random random(2);
    int tried = 0;
    for (int i = 0; i < 6000 && tried < 12; ++i) {
      auto t = random_for(layout, random);
      if (!t) continue;
      const Grid grid{t->bits, t->symmetric, t->group_size == t->in_features ? -1 : t->group_size};
      if (!other->refusal_of(grid).empty() ||
          !other->refusal(t->out_features, t->in_features, t->group_size, t->bits).empty() ||
          !layout.refusal_of_zeros(*t).empty() || !other->refusal_of_zeros(*t).empty())
        continue;
      const auto held = other->widths();
      if (std::find(held.begin(), held.end(), t->bits) == held.end()) continue;
      ++tried;
      const Written first = write(layout, *t, t->symmetric);
      const QuantizedTensor there = read(*other, write(*other, read(layout, first, true), t->symmetric), true);
      const Written again = write(layout, there, t->symmetric);
      for (size_t p = 0; p < first.packed.parts.size(); ++p)
        test::expect_same(again.packed.parts[p], first.packed.parts[p].view());
    }
    EXPECT_GE(tried, 3) << layout.name() << " and " << other->name();
  }
}

TEST_P(EachLayout, SaysWhatItIs) {
  const Layout& layout = *GetParam();
  EXPECT_EQ(find_layout(layout.name()), &layout);
  EXPECT_EQ(&layout_named(layout.name()), &layout);
  EXPECT_FALSE(std::string(layout.method()).empty());
  EXPECT_FALSE(layout.part_names().empty());
  EXPECT_FALSE(std::string(layout.card_words({}).text).empty());
}

TEST(Layouts, ThoseThatAreOnlyReadAreNoFormatsToWrite) {
  std::vector<std::string> only_read;
  for (const StoredLayout* layout : stored_layouts()) {
    EXPECT_EQ(find_stored_layout(layout->name()), layout);
    EXPECT_FALSE(layout->text().empty());
    EXPECT_FALSE(layout->widths().empty());
    EXPECT_FALSE(layout->part_names().empty());
    if (find_layout(layout->name()) == nullptr) only_read.emplace_back(layout->name());
  }
  EXPECT_EQ(only_read, (std::vector<std::string>{"awq_gemv", "awq_gemv_fast", "hqq"}));
  for (const std::string& name : only_read) {
    const auto& formats = checkpoint_formats();
    EXPECT_EQ(std::find(formats.begin(), formats.end(), name), formats.end());
    test::expect_error<ArgumentError>([&] { layout_named(name); }, {name});
  }
}

TEST(Layouts, AnUnknownNameNamesTheOthers) {
  test::expect_error<ArgumentError>([] { layout_named("gguf"); }, {"\"gguf\"", "native", "awq", "mlx"});
}

}  // namespace
}  // namespace metal_marlin
