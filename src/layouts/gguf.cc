// GGUF: each linear is blocks of one ggml type, which the name of the format tells, or a rule that gives some linears
// more bits. File and names are the container's (write/gguf_container.cc).
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>

#include "layouts/gguf_types.h"
#include "layouts/layouts.h"
#include "pack/ggml_codes.h"

namespace metal_marlin {
namespace {

// llama.cpp's rules (src/llama-quant.cpp, llama_tensor_get_type_impl): which linears get more bits.
enum class Mix : uint8_t { kNone, kSmall, kMedium };

struct GgufFormat {
  const char* name;
  GgmlType type;
  Mix mix;
  uint32_t file_type;  // llama.cpp's LLAMA_FTYPE of such a file: general.file_type
};
constexpr GgufFormat kFormats[] = {
    {"gguf:Q4_0", GgmlType::kQ4_0, Mix::kNone, 2},      {"gguf:Q4_1", GgmlType::kQ4_1, Mix::kNone, 3},
    {"gguf:Q5_0", GgmlType::kQ5_0, Mix::kNone, 8},      {"gguf:Q5_1", GgmlType::kQ5_1, Mix::kNone, 9},
    {"gguf:Q8_0", GgmlType::kQ8_0, Mix::kNone, 7},      {"gguf:Q4_K", GgmlType::kQ4_K, Mix::kNone, 14},
    {"gguf:Q5_K", GgmlType::kQ5_K, Mix::kNone, 16},     {"gguf:Q6_K", GgmlType::kQ6_K, Mix::kNone, 18},
    {"gguf:IQ4_NL", GgmlType::kIQ4_NL, Mix::kNone, 25}, {"gguf:IQ4_XS", GgmlType::kIQ4_XS, Mix::kNone, 30},
    {"gguf:Q4_K_S", GgmlType::kQ4_K, Mix::kSmall, 14},  {"gguf:Q4_K_M", GgmlType::kQ4_K, Mix::kMedium, 15},
    {"gguf:Q5_K_S", GgmlType::kQ5_K, Mix::kSmall, 16},  {"gguf:Q5_K_M", GgmlType::kQ5_K, Mix::kMedium, 17},
};

bool gets_more_bits(int64_t layer, int64_t layers) noexcept {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

GgmlType mixed_type(const GgufFormat& format, const LinearPlace& place) noexcept {
  const bool five = format.type == GgmlType::kQ5_K;
  const bool value = place.kind == LinearKind::kV;
  const bool down = place.kind == LinearKind::kDown;
  if (format.mix == Mix::kMedium && place.fused_qkv) return five ? GgmlType::kQ6_K : GgmlType::kQ5_K;
  if (format.mix == Mix::kMedium && (value || down) && gets_more_bits(place.layer, place.layers))
    return GgmlType::kQ6_K;
  if (format.mix == Mix::kSmall && !five && value && place.layer < 4) return GgmlType::kQ5_K;
  if (format.mix == Mix::kSmall && !five && down && place.layer < place.layers / 8) return GgmlType::kQ5_K;
  constexpr int64_t kLayersOf70B = 80;  // eight heads share a value head there, so that it is small
  if (!five && value && place.layers == kLayersOf70B) return GgmlType::kQ5_K;
  return format.type;
}

// The type in its place where the inputs are no multiple of its block (tensor_type_fallback there).
GgmlType narrower(GgmlType type) noexcept {
  switch (type) {
    case GgmlType::kQ4_K:
      return GgmlType::kQ5_0;
    case GgmlType::kQ5_K:
      return GgmlType::kQ5_1;
    case GgmlType::kQ6_K:
      return GgmlType::kQ8_0;
    case GgmlType::kIQ4_XS:
      return GgmlType::kIQ4_NL;
    default:
      return type;
  }
}

GgmlType fitting(GgmlType type, int64_t columns) noexcept {
  return columns % ggml_type_info(type).block == 0 ? type : narrower(type);
}

class GgufLayout : public Layout {
 public:
  explicit GgufLayout(const GgufFormat& format) : format_(format) {}

  const char* name() const noexcept override { return format_.name; }
  ContainerKind container() const noexcept override { return ContainerKind::kGguf; }
  CardWords card_words(const LayoutPlan&) const override {
    return {.tag = "gguf", .text = format_.name + 5, .transformers = false, .llama_cpp = true};
  }
  std::optional<uint32_t> gguf_file_type() const noexcept override { return format_.file_type; }

  std::span<const int> widths() const noexcept override { return kWidths; }
  bool holds_minima() const noexcept override { return grid_of_type(format_.type)->minimum; }
  std::optional<Grid> own_grid() const override { return grid_of_type(format_.type); }
  std::optional<Grid> own_grid(const LinearPlace& place) const override {
    if (place.columns % kLeastBlock != 0) return std::nullopt;
    const GgmlType type = format_.mix == Mix::kNone ? format_.type : mixed_type(format_, place);
    return grid_of_type(fitting(type, place.columns));
  }
  std::optional<Grid> own_grid(const LinearPlace& place, int bits) const override {
    if (place.columns % kLeastBlock != 0) return std::nullopt;
    if (bits == grid_of_type(format_.type)->bits) return grid_of_type(fitting(format_.type, place.columns));
    const auto type = std::find_if(kByBits.begin(), kByBits.end(), [&](const auto& t) { return t.first == bits; });
    if (type == kByBits.end() || (bits == 6 && place.columns % 256 != 0)) return std::nullopt;
    return grid_of_type(fitting(type->second, place.columns));
  }
  std::string refusal_of(const Grid& grid) const override {
    if (gguf_type(grid)) return {};
    return "has groups of 32 with scales in float16, symmetric or with minima";
  }
  std::string refusal(int64_t, int64_t in_features, int64_t, int) const override {
    if (in_features % kLeastBlock == 0) return {};
    return fmt::format("in_features {} is not a multiple of {}, the least block of GGUF's types", in_features,
                       kLeastBlock);
  }
  std::string refusal_of_zeros(const QuantizedTensor& t) const override {
    if (!t.minima.empty() || t.symmetric) return {};
    return "it has zeros that are codes, and GGUF's types have none or minima in float16";
  }
  int64_t least_group() const noexcept override { return 32; }

  std::span<const PartNames> part_names() const noexcept override { return {}; }
  std::vector<TensorInfo> parts(const QuantizedLinear& l) const override {
    const auto type = gguf_type(l);
    if (!type) refuse(l.name);
    return {{"weight", DType::kU8, {l.out_features, block_row_bytes(*type, l.in_features)}}};
  }
  PackedTensor pack(const QuantizedTensor&, const std::string& name) const override { refuse(name); }
  QuantizedTensor unpack(const PackedLinear&, int64_t, const std::string& name, Codes) const override { refuse(name); }
  const char* method() const noexcept override { return "gguf"; }
  bool recognises(const ConfigReader&) const override { return false; }
  void configure(const LayoutPlan&, const std::vector<std::string>&, nlohmann::json&) const override {}

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear&, int64_t, int64_t, const std::string& name) const override {
    refuse(name);
  }

 private:
  static constexpr int64_t kLeastBlock = 32;
  static constexpr int kWidths[] = {4, 5, 6, 8};
  // Where --linear-bits asks for another width than the type's.
  static constexpr std::array<std::pair<int, GgmlType>, 4> kByBits = {
      {{4, GgmlType::kQ4_K}, {5, GgmlType::kQ5_K}, {6, GgmlType::kQ6_K}, {8, GgmlType::kQ8_0}}};

  [[noreturn]] static void refuse(const std::string& name) {
    throw ArgumentError(fmt::format("{}: not possible in GGUF", name));
  }
  const GgufFormat& format_;
};

}  // namespace

std::optional<GgmlType> gguf_type(const Grid& grid) noexcept {
  return grid.block ? grid.block : type_of_grid(grid);
}

std::optional<GgmlType> gguf_type(const QuantizedLinear& l) noexcept {
  return gguf_type(Grid{l.bits, l.symmetric, l.group_size, !l.symmetric, ScaleType::kF16, l.block});
}

std::span<const Layout* const> gguf_layouts() {
  static const std::vector<GgufLayout> kLayouts(std::begin(kFormats), std::end(kFormats));
  static const std::vector<const Layout*> kPointers = [] {
    std::vector<const Layout*> all;
    for (const GgufLayout& layout : kLayouts) all.push_back(&layout);
    return all;
  }();
  return kPointers;
}

}  // namespace metal_marlin
