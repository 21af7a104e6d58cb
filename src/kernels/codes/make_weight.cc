// How a weight of codes comes to stand in tiles (product.h): from unpacked codes, from the lines of a layout, from rows
// of blocks, and from floats that are rounded to 8 bits.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/half.h"
#include "core/threads.h"
#include "kernels/codes/kernels.h"
#include "kernels/dispatch.h"
#include "kernels/weight_matrix.h"

namespace metal_marlin {
namespace {

int64_t round_up(int64_t n, int64_t to) noexcept {
  return (n + to - 1) / to * to;
}

// Places of `count` channels from `first` on, all of `group`, in pieces of at most `length`.
void add_pieces(SegmentPlan& plan, int64_t first, int64_t count, int64_t group) {
  for (int64_t i = 0; i < count; i += plan.length)
    plan.pieces.push_back({first + i, std::min(plan.length, count - i), group});
}
int kept_bits(int bits) noexcept {
  return bits <= 4 ? 4 : 8;
}

int64_t scale_bytes(ScaleForm form) noexcept {
  return form == ScaleForm::kF32 ? 4 : 2;
}

int64_t tiles_of(int64_t out_features) noexcept {
  return (out_features + kTileOutputs - 1) / kTileOutputs;
}

// Puts the codes of one output and segment into the order of codes/product.h.
void put_codes(const uint8_t* codes, int64_t count, int64_t output, int bits, uint8_t* segment) noexcept {
  uint8_t* to = segment + 4 * output;
  if (bits == 8) {
    int64_t k = 0;
    for (; k + 4 <= count; k += 4) std::memcpy(to + k / 4 * kLineBytes, codes + k, 4);
    for (; k < count; ++k) to[k / 4 * kLineBytes + k % 4] = codes[k];
    return;
  }
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) {  // four codes in a word: shifted, none touches its neighbour
    uint32_t low;
    uint32_t high;
    std::memcpy(&low, codes + k, 4);
    std::memcpy(&high, codes + k + 4, 4);
    low |= high << 4;
    std::memcpy(to + k / 8 * kLineBytes, &low, 4);
  }
  for (; k < count; ++k) {
    uint8_t& byte = to[k / 8 * kLineBytes + k % 4];
    byte = static_cast<uint8_t>(byte | (k % 8 < 4 ? codes[k] : codes[k] << 4));
  }
}

using Words4 = uint32_t __attribute__((vector_size(16)));

Words4 load4(const uint8_t* from) noexcept {
  Words4 x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

// Word j of vector i becomes word i of vector j.
void transpose(std::array<Words4, 4>& x) noexcept {
  const Words4 ab_low = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5);
  const Words4 ab_high = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7);
  const Words4 cd_low = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
  const Words4 cd_high = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
  x[0] = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  x[1] = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  x[2] = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  x[3] = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

// The same for `count` channels, a multiple of 8, of `outputs` outputs; output o has its codes at codes + o * ld. The
// bits of `flip` are turned in every code.
void put_lines(const uint8_t* codes, int64_t ld, int64_t count, int64_t outputs, int bits, uint8_t flip,
               uint8_t* lines) noexcept {
  const int64_t at_once = bits == 8 ? 16 : 32;  // channels: four lines
  const Words4 turn = Words4{} + 0x01010101u * flip;
  int64_t k = 0;
  for (; k + at_once <= count && outputs == kTileOutputs; k += at_once, lines += 4 * kLineBytes) {
    for (int64_t o = 0; o < kTileOutputs; o += 4) {
      std::array<Words4, 4> x;
      for (int64_t i = 0; i < 4; ++i) {
        const uint8_t* from = codes + (o + i) * ld + k;
        const Words4 a = load4(from);
        if (bits == 8) {
          x[static_cast<size_t>(i)] = a ^ turn;
        } else {  // four codes in a word: shifted, none touches its neighbour
          const Words4 b = load4(from + 16);
          x[static_cast<size_t>(i)] =
              __builtin_shufflevector(a, b, 0, 2, 4, 6) | __builtin_shufflevector(a, b, 1, 3, 5, 7) << 4;
        }
      }
      transpose(x);
      for (int64_t i = 0; i < 4; ++i) std::memcpy(lines + i * kLineBytes + 4 * o, &x[static_cast<size_t>(i)], 16);
    }
  }
  const int64_t of_line = bits == 8 ? 4 : 8;
  for (; k < count; k += of_line, lines += kLineBytes) {
    for (int64_t o = 0; o < outputs; ++o) {
      uint32_t word;
      std::memcpy(&word, codes + o * ld + k, 4);
      word ^= 0x01010101u * flip;
      if (bits != 8) {
        uint32_t high;
        std::memcpy(&high, codes + o * ld + k + 4, 4);
        word |= high << 4;
      }
      std::memcpy(lines + 4 * o, &word, 4);
    }
  }
}

// Where channel k of a line, or of a segment, lies in the words of an output.
struct CodePlace {
  int64_t line;
  uint32_t shift;
  CodePlace(int64_t k, int bits) noexcept
      : line(bits == 8 ? k / 4 : k / 8),
        shift(static_cast<uint32_t>(bits == 8 || k % 8 < 4 ? k % 4 * 8 : k % 4 * 8 + 4)) {}
};

// A segment of `count` channels in any order: channel_of(k) is the channel of place k. `lines`: those of all channels.
template <class ChannelOf>
void gather_segment(const uint8_t* lines, int64_t count, int bits, const ChannelOf& channel_of,
                    uint8_t* segment) noexcept {
  const int64_t of_line = bits == 8 ? 4 : 8;
  const uint32_t mask = bits == 8 ? 255 : 15;
  for (int64_t first = 0; first < count; first += of_line, segment += kLineBytes) {
    std::array<Words4, 4> line{};
    for (int64_t k = first; k < std::min(first + of_line, count); ++k) {
      const CodePlace from(channel_of(k), bits);
      const CodePlace to(k, bits);
      const uint8_t* words = lines + from.line * kLineBytes;
      for (size_t i = 0; i < 4; ++i) line[i] |= (load4(words + 16 * i) >> from.shift & mask) << to.shift;
    }
    std::memcpy(segment, line.data(), kLineBytes);
  }
}

// Whether segments are whole lines, so that they are where they belong as soon as they are read.
bool has_whole_lines(const SegmentPlan& plan, int64_t of_line) noexcept {
  return plan.order.empty() && std::all_of(plan.pieces.begin(), plan.pieces.end(), [&](const auto& piece) {
           return piece.first % of_line == 0 &&
                  (piece.count % of_line == 0 || piece.first + piece.count == plan.features);
         });
}

// Scales of `each` bytes of `segments` segments, those of output o at scales + o * ld, to [segment][16].
void put_scales(const uint8_t* scales, int64_t ld, int64_t segments, int64_t outputs, int64_t each,
                uint8_t* to) noexcept {
  for (int64_t s = 0; s < segments; ++s, to += kTileOutputs * each) {
    for (int64_t o = 0; o < outputs; ++o) {
      if (each == 4) {
        std::memcpy(to + 4 * o, scales + o * ld + 4 * s, 4);
      } else {
        std::memcpy(to + 2 * o, scales + o * ld + 2 * s, 2);
      }
    }
  }
}

}  // namespace

SegmentPlan SegmentPlan::of(int64_t in_features, int64_t group_size, std::span<const int32_t> group_index) {
  SegmentPlan plan;
  plan.features = in_features;
  // Long groups are cut evenly, each piece with the group's scale.
  const int64_t cuts = (group_size + kLongestSegment - 1) / kLongestSegment;
  plan.length = round_up((group_size + cuts - 1) / cuts, 8);
  if (group_index.empty()) {
    for (int64_t first = 0; first < in_features; first += group_size)
      add_pieces(plan, first, std::min(group_size, in_features - first), first / group_size);
    return plan;
  }
  plan.order.resize(static_cast<size_t>(in_features));
  std::iota(plan.order.begin(), plan.order.end(), 0);
  const auto group_of = [&](int32_t channel) { return group_index[static_cast<size_t>(channel)]; };
  std::stable_sort(plan.order.begin(), plan.order.end(),
                   [&](int32_t a, int32_t b) { return group_of(a) < group_of(b); });
  for (int64_t first = 0; first < in_features;) {
    const int32_t group = group_of(plan.order[static_cast<size_t>(first)]);
    int64_t end = first + 1;
    while (end < in_features && group_of(plan.order[static_cast<size_t>(end)]) == group) ++end;
    add_pieces(plan, first, end - first, group);
    first = end;
  }
  return plan;
}

uint64_t code_bytes(const CodeForm& form, int64_t out_features, int64_t in_features) {
  const SegmentPlan plan = SegmentPlan::of(in_features, std::min(form.group, in_features), {});
  const int64_t of_output = scale_bytes(form.scales) * (form.minima ? 2 : 1) + (form.zeros ? 1 : 0);
  const int64_t of_segment = kTileOutputs * (plan.length * kept_bits(form.bits) / 8 + of_output);
  return static_cast<uint64_t>(tiles_of(out_features) * plan.segments() * of_segment);
}

std::unique_ptr<WeightMatrix::Codes> WeightMatrix::make_codes(SegmentPlan plan, int64_t out_features,
                                                              const CodeForm& form) {
  auto c = std::make_unique<Codes>();
  c->tiles.bits = kept_bits(form.bits);
  c->tiles.form = form.scales;
  c->tiles.segments = plan.segments();
  c->tiles.length = plan.length;
  c->tiles.out_features = out_features;
  // All in one piece: of a large one, whole huge pages, only the rest of the last page is wasted.
  const int64_t entries = tiles_of(out_features) * plan.segments();
  const int64_t scales = entries * kTileOutputs * scale_bytes(form.scales);
  c->scales_at = entries * c->tiles.segment_bytes();
  c->minima_at = c->scales_at + scales;
  c->zeros_at = c->minima_at + (form.minima ? scales : 0);
  c->memory = Buffer(static_cast<size_t>(c->zeros_at + (form.zeros ? entries * kTileOutputs : 0)));
  c->tiles.codes = c->codes();
  c->tiles.scales = c->scales();
  if (form.minima) c->tiles.minima = c->minima();
  if (form.zeros) c->tiles.zeros = c->zeros();
  c->plan = std::make_shared<const SegmentPlan>(std::move(plan));
  return c;
}

WeightMatrix WeightMatrix::of_groups(const QuantizedTensor& tensor, int64_t first_row, int64_t rows,
                                     std::span<const uint16_t> q_scale) {
  const int64_t in = tensor.in_features;
  if (first_row < 0 || rows <= 0 || first_row > tensor.out_features - rows || in <= 0 || tensor.group_size <= 0) {
    throw ArgumentError(
        fmt::format("weight of codes: expected rows within the {} outputs of [{}, {}], found {} from {}",
                    tensor.out_features, tensor.out_features, in, rows, first_row));
  }
  SegmentPlan plan = SegmentPlan::of(in, std::min(tensor.group_size, in), tensor.group_index);
  for (const uint16_t bits : q_scale) {
    const float factor = 1.0f / f16_to_f32(bits);
    if (!std::isfinite(factor) || factor == 0.0f) {
      throw NumericError(fmt::format("q_scale: expected finite values other than 0, found {} at channel {}",
                                     f16_to_f32(bits), plan.factors.size()));
    }
    plan.factors.push_back(factor);
  }
  WeightMatrix w;
  w.type_ = WeightType::kCodes;
  const int64_t groups = tensor.groups();
  const auto* first_zero = tensor.zeros.data() + first_row * groups;
  CodeForm form;
  form.bits = tensor.bits;
  form.scales = tensor.scale_type == ScaleType::kBF16 ? ScaleForm::kBF16 : ScaleForm::kF16;
  form.zeros = std::memcmp(first_zero, first_zero + 1, static_cast<size_t>(rows * groups - 1)) != 0;  // not all equal
  form.minima = !tensor.minima.empty();
  w.codes_ = make_codes(std::move(plan), rows, form);
  w.codes_->tiles.zero = *first_zero;
  return w;
}

// The scales, zeros and minima of a tile; those of its first row begin at group `first` of the tensor.
void WeightMatrix::Codes::put_groups(const QuantizedTensor& tensor, size_t first, int64_t tile,
                                     int64_t outputs) noexcept {
  const auto groups = static_cast<size_t>(tensor.groups());
  const auto put = [&](const auto* from, auto* to) {
    to += tile * tiles.segments * kTileOutputs;
    for (const auto& piece : plan->pieces) {
      const auto* of_group = from + first + static_cast<size_t>(piece.group);
      for (int64_t o = 0; o < outputs; ++o) to[o] = of_group[static_cast<size_t>(o) * groups];
      to += kTileOutputs;
    }
  };
  put(tensor.scales.data(), reinterpret_cast<uint16_t*>(scales()));
  if (tiles.zeros != nullptr) put(tensor.zeros.data(), zeros());
  if (tiles.minima != nullptr) put(tensor.minima.data(), reinterpret_cast<uint16_t*>(minima()));
}

WeightMatrix WeightMatrix::of_codes(const QuantizedTensor& tensor, int64_t first_row, int64_t rows,
                                    std::span<const uint16_t> q_scale) {
  WeightMatrix w = of_groups(tensor, first_row, rows, q_scale);
  Codes& c = *w.codes_;
  const SegmentPlan& p = *c.plan;
  parallel_for(tiles_of(rows), [&](int64_t tile) {
    std::array<uint8_t, kLongestSegment> gathered;
    const int64_t first = first_row + tile * kTileOutputs;
    const int64_t outputs = std::min(kTileOutputs, rows - tile * kTileOutputs);
    for (int64_t o = 0; o < outputs; ++o) {
      const uint8_t* codes = tensor.codes.data() + (first + o) * tensor.in_features;
      for (int64_t s = 0; s < p.segments(); ++s) {
        const auto& piece = p.pieces[static_cast<size_t>(s)];
        const uint8_t* from = codes + piece.first;
        if (!p.order.empty()) {
          for (int64_t k = 0; k < piece.count; ++k)
            gathered[static_cast<size_t>(k)] = codes[p.order[static_cast<size_t>(piece.first + k)]];
          from = gathered.data();
        }
        put_codes(from, piece.count, o, c.tiles.bits, c.codes() + (tile * p.segments() + s) * c.tiles.segment_bytes());
      }
    }
    c.put_groups(tensor, static_cast<size_t>(first * tensor.groups()), tile, outputs);
  });
  return w;
}

WeightMatrix WeightMatrix::of_lines(const QuantizedTensor& tensor, int64_t first_row, int64_t rows,
                                    std::span<const uint16_t> q_scale, const LineReader& read) {
  constexpr int64_t kTilesAtOnce = 8;  // of each row of words 512 bytes: a tile's 64 would leave most of a page unread
  WeightMatrix w = of_groups(tensor, first_row, rows, q_scale);
  Codes& c = *w.codes_;
  const SegmentPlan& p = *c.plan;
  const int bits = c.tiles.bits;
  const int64_t of_line = bits == 8 ? 4 : 8;
  const int64_t all = (p.features + of_line - 1) / of_line;
  const int64_t tile_bytes = p.segments() * c.tiles.segment_bytes();
  const bool in_place = has_whole_lines(p, of_line);
  parallel_for((tiles_of(rows) + kTilesAtOnce - 1) / kTilesAtOnce, [&](int64_t i) {
    const int64_t first_tile = i * kTilesAtOnce;
    const int64_t output = first_tile * kTileOutputs;
    const int64_t outputs = std::min(kTilesAtOnce * kTileOutputs, rows - output);
    uint8_t* codes = c.codes() + first_tile * tile_bytes;
    if (in_place) {
      // Full segments follow each other without a gap, so that their lines are read in one go.
      for (int64_t s = 0; s < p.segments();) {
        const int64_t from = s;
        while (p.pieces[static_cast<size_t>(s++)].count == p.length && s < p.segments()) {
        }
        const auto& last = p.pieces[static_cast<size_t>(s - 1)];
        const int64_t line = p.pieces[static_cast<size_t>(from)].first / of_line;
        const int64_t end = (last.first + last.count + of_line - 1) / of_line;
        read({first_row + output, outputs, line, end - line, codes + from * c.tiles.segment_bytes(), tile_bytes});
      }
    } else {
      thread_local std::vector<uint8_t> scratch;
      scratch.resize(static_cast<size_t>(kTilesAtOnce * all * kLineBytes));
      read({first_row + output, outputs, 0, all, scratch.data(), all * kLineBytes});
      for (int64_t o = 0; o < outputs; o += kTileOutputs, codes += tile_bytes) {
        const uint8_t* lines = scratch.data() + o / kTileOutputs * all * kLineBytes;
        for (int64_t s = 0; s < p.segments(); ++s) {
          const auto& piece = p.pieces[static_cast<size_t>(s)];
          const auto channel_of = [&](int64_t k) -> int64_t {
            return p.order.empty() ? piece.first + k : p.order[static_cast<size_t>(piece.first + k)];
          };
          gather_segment(lines, piece.count, bits, channel_of, codes + s * c.tiles.segment_bytes());
        }
      }
    }
    for (int64_t o = 0; o < outputs; o += kTileOutputs) {
      const auto group = static_cast<size_t>((first_row + output + o) * tensor.groups());
      c.put_groups(tensor, group, (output + o) / kTileOutputs, std::min(kTileOutputs, outputs - o));
    }
  });
  return w;
}

WeightMatrix WeightMatrix::of_rows(const CodeRows& rows) {
  const CodeForm& form = rows.form;
  const int64_t in = rows.in_features;
  const bool whole = form.group > 0 && form.group % 8 == 0 && form.group <= kLongestSegment && rows.step > 0 &&
                     rows.step % form.group == 0 && in % rows.step == 0;
  if (rows.out_features <= 0 || in <= 0 || !whole || form.zeros) {
    throw ArgumentError(fmt::format(
        "weight of rows of codes: expected a shape of positive sizes in steps of whole groups of 8 to {} channels "
        "without zeros, found [{}, {}] in steps of {}, groups of {}{}",
        kLongestSegment, rows.out_features, in, rows.step, form.group, form.zeros ? " with zeros" : ""));
  }
  WeightMatrix w;
  w.type_ = WeightType::kCodes;
  w.codes_ = make_codes(SegmentPlan::of(in, form.group, {}), rows.out_features, form);
  Codes& c = *w.codes_;
  c.tiles.zero = rows.zero;
  constexpr int64_t kAtOnce = 512;  // channels of 16 outputs: with their lines they stay in the first cache
  const int64_t most = std::max<int64_t>(1, kAtOnce / rows.step) * rows.step;
  const int64_t scale = scale_bytes(form.scales);
  parallel_for(tiles_of(rows.out_features), [&](int64_t tile) {
    thread_local std::vector<uint8_t> scratch;
    const int64_t of_scales = most / form.group * scale;
    scratch.resize(static_cast<size_t>(kTileOutputs * (most + 2 * of_scales)));
    uint8_t* codes = scratch.data();
    uint8_t* scales = codes + kTileOutputs * most;
    uint8_t* minima = scales + kTileOutputs * of_scales;
    const int64_t outputs = std::min(kTileOutputs, rows.out_features - tile * kTileOutputs);
    for (int64_t first = 0; first < in; first += most) {
      const int64_t count = std::min(most, in - first);
      for (int64_t o = 0; o < outputs; ++o) {
        rows.read(tile * kTileOutputs + o, first, count, codes + o * most, scales + o * of_scales,
                  form.minima ? minima + o * of_scales : nullptr);
      }
      const int64_t at = tile * c.tiles.segments + first / form.group;
      put_lines(codes, most, count, outputs, c.tiles.bits, 0, c.codes() + at * c.tiles.segment_bytes());
      put_scales(scales, of_scales, count / form.group, outputs, scale, c.scales() + at * kTileOutputs * scale);
      if (form.minima)
        put_scales(minima, of_scales, count / form.group, outputs, scale, c.minima() + at * kTileOutputs * scale);
    }
  });
  return w;
}

WeightMatrix WeightMatrix::rounded_to_8_bits(int64_t out_features, int64_t in_features,
                                             const std::function<Matrix(int64_t first, int64_t count)>& rows) {
  constexpr int64_t kGroup = kRoundedForm.group;
  if (out_features <= 0 || in_features <= 0) {
    throw ArgumentError(
        fmt::format("weight of 8 bits: expected a shape of positive sizes, found [{}, {}]", out_features, in_features));
  }
  WeightMatrix w;
  w.type_ = WeightType::kCodes;
  w.codes_ = make_codes(SegmentPlan::of(in_features, std::min(kGroup, in_features), {}), out_features, kRoundedForm);
  Codes& c = *w.codes_;
  c.tiles.zero = 128;
  const int64_t segments = c.plan->segments();
  const int64_t padded = segments * c.plan->length;
  constexpr int64_t kTilesAtOnce = 2;  // whose floats stay in the second cache
  parallel_for((tiles_of(out_features) + kTilesAtOnce - 1) / kTilesAtOnce, [&](int64_t i) {
    const int64_t first = i * kTilesAtOnce * kTileOutputs;
    const Matrix values = rows(first, std::min(kTilesAtOnce * kTileOutputs, out_features - first));
    // Of the rows of a tile. The last segment of a row may be cut, and the rest of it is zeros.
    std::vector<float> row(static_cast<size_t>(padded == in_features ? 0 : padded));
    std::vector<int8_t> codes(static_cast<size_t>(kTileOutputs * padded));
    std::vector<float> exact(static_cast<size_t>(segments));
    std::vector<uint16_t> scales(static_cast<size_t>(kTileOutputs * segments));
    std::vector<int32_t> sums(static_cast<size_t>(segments));
    for (int64_t at = 0; at < values.rows(); at += kTileOutputs) {
      const int64_t outputs = std::min(kTileOutputs, values.rows() - at);
      for (int64_t o = 0; o < outputs; ++o) {
        const float* from = values.row(at + o).data();
        if (!row.empty()) {
          std::memcpy(row.data(), from, static_cast<size_t>(in_features) * sizeof(float));
          from = row.data();
        }
        code_kernels().round_segments(from, segments, c.plan->length, codes.data() + o * padded, exact.data(),
                                      sums.data());
        // In f16 the scale moves by at most 2^-11 of itself: no code by more than 1/16 of a step.
        for (float& scale : exact) scale = std::min(scale, 65504.0f);
        kernels().f32_to_f16(exact.data(), segments, scales.data() + o * segments);
      }
      const int64_t entry = (first + at) / kTileOutputs * segments;
      // A code is the rounded value + 128: its upper bit turned.
      put_lines(reinterpret_cast<const uint8_t*>(codes.data()), padded, padded, outputs, 8, 128,
                c.codes() + entry * c.tiles.segment_bytes());
      put_scales(reinterpret_cast<const uint8_t*>(scales.data()), 2 * segments, segments, outputs, 2,
                 c.scales() + entry * kTileOutputs * 2);
    }
  });
  return w;
}

}  // namespace metal_marlin
