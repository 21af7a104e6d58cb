#include "pack/hqq.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>

#include "core/threads.h"
#include "pack/bits/nibbles.h"
#include "pack/compressed_tensors.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

constexpr int64_t kCodesOfThree = 10;  // in a word

// Places of codes in one byte, at 3 bits in one word of four bytes.
int64_t codes_together(int stored_bits) noexcept {
  return stored_bits == 3 ? kCodesOfThree : 8 / stored_bits;
}

// Groups of all rows, by the scales.
int64_t group_count(const TensorView& scales, const std::string& name) {
  const auto& s = scales.shape;
  const bool both = s.size() == 3 && s[0] == 2;
  if ((s.size() == 2 || both) && s.back() == 1 && s[s.size() - 2] > 0) return s[s.size() - 2];
  if ((s.size() == 2 || both) && s[s.size() - 2] == 1 && s.back() > 1) {
    throw UnsupportedError(fmt::format(
        "{}: scales of shape {}: groups run along the outputs (axis 0), which no grid here has; supported is axis 1: "
        "quantize the model again with axis=1, or dequantize it with hqq",
        name, shape_string(s)));
  }
  throw FormatError(
      fmt::format("{}: scale: expected [groups, 1], or zero_scale [2, groups, 1], found {}", name, shape_string(s)));
}

// The codes of one place in each byte or word, one after the other.
template <typename Word>
void unpack_places(const std::byte* words, int64_t rows, int64_t groups, int64_t group_size, int bits, uint8_t* codes) {
  const int64_t together = codes_together(bits);
  const auto top = static_cast<Word>((1 << bits) - 1);
  parallel_for(rows, [&](int64_t row) {
    const std::byte* from = words + row * group_size * static_cast<int64_t>(sizeof(Word));
    for (int64_t place = 0; place < together; ++place) {
      const int64_t group = place * rows + row;
      if (group >= groups) return;  // padding at 3 bits
      const auto shift = static_cast<int>((together - 1 - place) * bits);
      uint8_t* to = codes + group * group_size;
      for (int64_t c = 0; c < group_size; ++c) {
        to[c] = static_cast<uint8_t>(load<Word>(from + c * static_cast<int64_t>(sizeof(Word))) >> shift & top);
      }
    }
  });
}

// All of them codes; else nothing.
std::vector<uint8_t> zeros_as_codes(std::span<const float> zeros, int bits) {
  const auto top = static_cast<float>((1 << bits) - 1);
  std::vector<uint8_t> out;
  for (const float z : zeros) {
    if (!(z >= 0.0F && z <= top) || std::nearbyint(z) != z) return {};
    out.push_back(static_cast<uint8_t>(z));
  }
  return out;
}

void set_groups(std::span<const float> scales, std::span<const float> zeros, const std::string& name,
                QuantizedTensor& t) {
  set_group_floats(scales, {}, name, t);
  t.zeros = zeros_as_codes(zeros, t.bits);
  const auto middle = static_cast<uint8_t>(1 << (t.bits - 1));
  t.symmetric = !t.zeros.empty() && std::ranges::all_of(t.zeros, [&](uint8_t z) { return z == middle; });
  if (!t.zeros.empty()) return;
  t.zeros.assign(scales.size(), 0);
  t.minima.resize(scales.size());
  for (size_t i = 0; i < scales.size(); ++i) {
    t.minima[i] = encode_scale(0.0F - zeros[i] * scales[i], t.scale_type);
    if (std::isfinite(t.minimum(i))) continue;
    throw FormatError(fmt::format("{}: the product of zero {} and scale {} of group {} is out of range", name, zeros[i],
                                  scales[i], i));
  }
}

}  // namespace

std::span<const int> hqq_widths() noexcept {
  static constexpr int kWidths[] = {1, 2, 3, 4, 5, 6, 8};
  return kWidths;
}

HqqForm hqq_form(const TensorView& codes, const TensorView& scales, const TensorView& shape, const std::string& name) {
  const auto [rows, columns] = read_weight_shape(shape, name, "shape");
  const int64_t groups = group_count(scales, name);
  if (groups % rows != 0) {
    throw UnsupportedError(fmt::format(
        "{}: {} groups in [{}, {}]: expected whole groups in each row; quantize the model again with a group size that "
        "divides {}",
        name, groups, rows, columns, columns));
  }
  HqqForm form{.out_features = rows, .in_features = columns};
  const int64_t of_row = groups / rows;
  if (columns % of_row != 0) {
    throw FormatError(
        fmt::format("{}: {} groups in [{}, {}]: expected groups of one size", name, groups, rows, columns));
  }
  form.group_size = columns / of_row;
  if (codes.shape.size() == 2 && codes.shape[0] > 0) {
    const int64_t words = codes.shape[0];
    const auto row_bytes = static_cast<int64_t>(codes.bytes.size()) / words;
    for (const int bits : {8, 4, 2, 1}) {
      if (words <= groups && groups % words == 0 && groups / words == codes_together(bits) &&
          row_bytes == form.group_size)
        form.stored_bits = bits;
    }
    if (words == (groups + kCodesOfThree - 1) / kCodesOfThree && row_bytes == 4 * form.group_size) form.stored_bits = 3;
  }
  if (form.stored_bits == 0) {
    throw FormatError(fmt::format("{}: W_q: expected the codes of {} groups of {} in 1, 2, 3, 4 or 8 bits, found {} {}",
                                  name, groups, form.group_size, dtype_name(codes.dtype), shape_string(codes.shape)));
  }
  return form;
}

QuantizedTensor unpack_hqq(const TensorView& codes, const TensorView& scales, const TensorView* zeros,
                           const TensorView& shape, int bits, const std::string& name, Codes with) {
  const HqqForm form = hqq_form(codes, scales, shape, name);
  QuantizedTensor t;
  t.bits = bits;
  t.out_features = form.out_features;
  t.in_features = form.in_features;
  t.group_size = form.group_size;
  const int64_t groups = t.out_features * t.groups();
  if (bits != form.stored_bits && (form.stored_bits != 8 || (bits != 5 && bits != 6))) {
    throw FormatError(
        fmt::format("{}: expected codes of {} bits, found them in the form of {}", name, bits, form.stored_bits));
  }
  TensorView scale = scales;
  TensorView zero = zeros != nullptr ? *zeros : scales;
  if (zeros == nullptr) {
    expect_part(scales, scales.dtype, std::array<int64_t, 3>{2, groups, 1}, name, "zero_scale");
    zero.shape = scale.shape = {groups, 1};
    zero.bytes = scales.bytes.first(scales.bytes.size() / 2);
    scale.bytes = scales.bytes.last(scales.bytes.size() / 2);
  }
  set_groups(read_group_floats(scale, groups, 1, name, "scale"), read_group_floats(zero, groups, 1, name, "zero"), name,
             t);
  if (with == Codes::kSkip) return t;
  t.codes.resize(static_cast<size_t>(t.out_features * t.in_features));
  if (form.stored_bits == 3) {
    unpack_places<uint32_t>(codes.bytes.data(), codes.shape[0], groups, t.group_size, 3, t.codes.data());
  } else {
    unpack_places<uint8_t>(codes.bytes.data(), codes.shape[0], groups, t.group_size, form.stored_bits, t.codes.data());
  }
  if (bits != form.stored_bits) {
    const auto most = std::ranges::max_element(t.codes);
    if (*most >> bits != 0) {
      const int64_t at = most - t.codes.begin();
      throw FormatError(fmt::format("{}: code [{}, {}] is {}, expected at most {}", name, at / t.in_features,
                                    at % t.in_features, *most, (1 << bits) - 1));
    }
  }
  return t;
}

}  // namespace metal_marlin
