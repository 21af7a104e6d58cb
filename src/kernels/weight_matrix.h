// One weight [out_features, in_features] in whatever form it is kept: float32 or bf16 (gemm.h), or the integers of a
// checkpoint with the scales of their groups (codes/product.h). The forward pass multiplies with it and does not ask.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "kernels/codes/code_form.h"
#include "kernels/codes/product.h"
#include "kernels/gemm.h"

namespace metal_marlin {

// How the input channels of a weight of codes are rounded: cut into segments, perhaps in another order, perhaps divided
// by a factor per channel. Weights with equal plans share the rounded activations.
struct SegmentPlan {
  struct Piece {
    int64_t first = 0;  // channel, or place in `order`
    int64_t count = 0;  // at most `length`; the rest of the segment is zeros
    int64_t group = 0;
    bool operator==(const Piece&) const = default;
  };
  int64_t features = 0;
  int64_t length = 0;  // of a segment
  std::vector<Piece> pieces;
  std::vector<int32_t> order;  // empty: channels in their natural order
  std::vector<float> factors;  // [features], which multiply the activations; empty: ones
  bool operator==(const SegmentPlan&) const = default;

  int64_t segments() const noexcept { return static_cast<int64_t>(pieces.size()); }
  // Of groups of group_size channels; group_index as in QuantizedTensor.
  static SegmentPlan of(int64_t in_features, int64_t group_size, std::span<const int32_t> group_index);
};

// A weight that comes as codes, in pieces of rows: w = (code - zero) * scale, plus the minimum where the form has
// minima.
struct CodeRows {
  int64_t out_features = 0;
  int64_t in_features = 0;  // a multiple of `step`
  CodeForm form;            // without zeros; groups of a multiple of 8 channels, at most kLongestSegment
  int32_t zero = 0;
  int64_t step = 0;  // pieces begin at multiples of this many channels, a multiple of the group
  // Writes the codes of `count` channels of a row, and the scales and minima of their groups, in the form of the scales
  // (minima: null where there are none). It is called from several threads.
  std::function<void(int64_t row, int64_t first, int64_t count, uint8_t* codes, void* scales, void* minima)> read;
};

// Lines of codes (product.h) that a weight wants: line first_line + l of the outputs first_output + 16 t .. into the 64
// bytes at to + t * ld + 64 l, zeros where the weight ends.
struct WantedLines {
  int64_t first_output = 0;
  int64_t outputs = 0;
  int64_t first_line = 0;
  int64_t lines = 0;
  uint8_t* to = nullptr;
  int64_t ld = 0;
};
// Reads them in the natural order of the channels. It is called from several threads.
using LineReader = std::function<void(const WantedLines& wanted)>;

enum class WeightType : uint8_t { kF32, kBF16, kCodes };

class WeightMatrix {
 public:
  WeightMatrix() = default;
  // Packed as PackedWeight, or `weight` itself in float32 where it stands (view).
  WeightMatrix(const float* weight, int64_t out_features, int64_t in_features, MatmulPrecision type);
  static WeightMatrix view(const float* weight, int64_t out_features, int64_t in_features);
  // The codes of rows first_row .. first_row + rows - 1, without a float copy; any group size, act order, zeros or
  // minima. q_scale: f16 bits [in_features] by which the weight is divided; may be empty. Nothing is kept of `tensor`,
  // which is one that validate() passes. ArgumentError for rows that it has not, NumericError where a q_scale is 0 or
  // not finite.
  static WeightMatrix of_codes(const QuantizedTensor& tensor, int64_t first_row, int64_t rows,
                               std::span<const uint16_t> q_scale = {});
  static WeightMatrix of_codes(const QuantizedTensor& tensor) { return of_codes(tensor, 0, tensor.out_features); }
  // The same weight where `read` gives the codes, and not tensor.codes. Calls begin at a multiple of 128 outputs from
  // first_row on and are for 128 outputs or the rest.
  static WeightMatrix of_lines(const QuantizedTensor& tensor, int64_t first_row, int64_t rows,
                               std::span<const uint16_t> q_scale, const LineReader& read);
  // ArgumentError for a form that CodeRows does not have.
  static WeightMatrix of_rows(const CodeRows& rows);
  // Rounds a float weight to 8 bits, a scale (f16) for each row and group of 32: code = w / scale to nearest + 128.
  // rows(first, count) gives rows as float32 [count, in_features]; it is called from several threads.
  static constexpr CodeForm kRoundedForm = {.bits = 8, .group = 32};
  static WeightMatrix rounded_to_8_bits(int64_t out_features, int64_t in_features,
                                        const std::function<Matrix(int64_t first, int64_t count)>& rows);

  WeightType type() const noexcept { return type_; }
  int64_t out_features() const noexcept { return codes_ ? codes_->tiles.out_features : floats_.out_features(); }
  int64_t in_features() const noexcept { return codes_ ? codes_->plan->features : floats_.in_features(); }
  uint64_t bytes() const noexcept;  // held; 0 for a view
  // Null unless kCodes.
  const std::shared_ptr<const SegmentPlan>& plan() const noexcept;
  const CodeTiles& tiles() const noexcept { return codes_->tiles; }  // of kCodes
  const PackedWeight& floats() const noexcept { return floats_; }    // of the others
  // Takes the other's plan where it is equal, so that inputs can be shared.
  void share_plan(const WeightMatrix& other);

  // Panels: the outputs that one thread multiplies at a time.
  int64_t panels() const noexcept;
  int64_t panel_begin(int64_t panel) const noexcept;
  int64_t panel_width(int64_t panel) const noexcept;

 private:
  struct Codes {
    CodeTiles tiles;
    std::shared_ptr<const SegmentPlan> plan;
    Buffer memory;  // codes, scales, minima, zeros
    int64_t scales_at = 0;
    int64_t minima_at = 0;
    int64_t zeros_at = 0;

    uint8_t* codes() noexcept { return reinterpret_cast<uint8_t*>(memory.data()); }
    uint8_t* scales() noexcept { return codes() + scales_at; }
    uint8_t* minima() noexcept { return codes() + minima_at; }
    uint8_t* zeros() noexcept { return codes() + zeros_at; }
    void put_groups(const QuantizedTensor& tensor, size_t first, int64_t tile, int64_t outputs) noexcept;
  };
  static std::unique_ptr<Codes> make_codes(SegmentPlan plan, int64_t out_features, const CodeForm& form);

  // Of rows of the tensor: all but the codes, scales, zeros and minima.
  static WeightMatrix of_groups(const QuantizedTensor& tensor, int64_t first_row, int64_t rows,
                                std::span<const uint16_t> q_scale);

  WeightType type_ = WeightType::kF32;
  PackedWeight floats_;
  std::unique_ptr<Codes> codes_;
};

// Rows of activations as a weight multiplies them. Reused from call to call, it keeps its memory.
class WeightInput {
 public:
  // x [rows, in_features] must outlive the use. `share`: rows are prepared by all threads. Nothing is done again for
  // the same x and a weight that wants the same form, until forget().
  void assign(const WeightMatrix& weight, const float* x, int64_t rows, bool share);
  void forget() noexcept { x_ = nullptr; }
  int64_t rows() const noexcept { return rows_; }
  const RoundedRows& rounded() const noexcept { return rounded_; }  // for kCodes
  const void* floats() const noexcept;  // for the others: as PackedWeight::multiply wants it

 private:
  void round(const SegmentPlan& plan, const float* x, int64_t rows, bool share);

  const float* x_ = nullptr;
  int64_t rows_ = 0;
  WeightType type_ = WeightType::kF32;
  std::shared_ptr<const SegmentPlan> plan_;
  Buffer half_;  // bf16
  Buffer codes_;
  Buffer scales_;
  Buffer sums_;
  RoundedRows rounded_;
};

// out [rows, panel_width], contiguous = x W[panel]^T, on the calling thread.
void multiply_panel_to(const WeightMatrix& weight, int64_t panel, const WeightInput& input, float* out);
// The same into columns panel_begin .. of y [rows, ..], row stride ldy, plus bias [out_features] (may be null).
void multiply_panel(const WeightMatrix& weight, int64_t panel, const WeightInput& input, const float* bias, float* y,
                    int64_t ldy);

// y [rows, out_features], row stride ldy, = x W^T + bias; bias may be null.
struct LinearTask {
  const WeightMatrix* weight = nullptr;
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t ldy = 0;
};
// All tasks have the same input x [rows, in_features]. `share`: the threads share the panels, for few rows; otherwise
// all is done on the calling thread.
void multiply(std::span<const LinearTask> tasks, const float* x, int64_t rows, bool share);

}  // namespace metal_marlin
