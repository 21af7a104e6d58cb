// The scales and minima of blocks as they can be stored.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/blocks/block_fields.h"
#include "quantize/lanes.h"

namespace metal_marlin {

// A scale or a minimum as it is stored: its value, and the integer by which d or dmin is multiplied (0 where there is
// none).
struct Stored {
  float value = 0;
  int integer = 0;
};

// The numbers of kLaneRows rows of a tensor but for the codes, row beside row.
class TileScales {
 public:
  // Those of rows row .. row + rows - 1 of a tensor with `columns` columns; beyond them zeros.
  TileScales(const BlockForm& form, const BlockFields& fields, int64_t columns, int64_t row, int64_t rows);

  int64_t segments() const noexcept { return segments_; }
  // The effective numbers of a segment, [kLaneRows].
  const float* scales(int64_t segment) const noexcept { return scales_.data() + segment * kLaneRows; }
  const float* minima(int64_t segment) const noexcept { return minima_.data() + segment * kLaneRows; }
  int scale_integer(int64_t segment, int64_t r) const noexcept { return integers_[at(segment, r)]; }
  int minimum_integer(int64_t segment, int64_t r) const noexcept { return minimum_integers_[at(segment, r)]; }
  float d(int64_t block, int64_t r) const noexcept { return d_[at(block, r)]; }
  float dmin(int64_t block, int64_t r) const noexcept { return dmin_[at(block, r)]; }

  // The numbers nearest to those wanted that segment and row can have with the d and dmin of now. Any f16 where the
  // form has no integers.
  Stored nearest_scale(int64_t segment, int64_t r, float wanted) const noexcept;
  Stored nearest_minimum(int64_t segment, int64_t r, float wanted) const noexcept;
  void set(int64_t segment, int64_t r, const Stored& scale, const Stored& minimum) noexcept;
  // With integers: other d and dmin, which are f16 numbers; the effective numbers of the block's segments follow.
  void set_block(int64_t block, int64_t r, float d, float dmin) noexcept;

  void store(BlockFields& fields) const noexcept;

 private:
  static size_t at(int64_t i, int64_t r) noexcept { return static_cast<size_t>(i * kLaneRows + r); }

  BlockForm form_;
  int64_t blocks_;    // of a row
  int64_t segments_;  // of a row
  int64_t row_;
  int64_t rows_;
  std::vector<float> d_;
  std::vector<float> dmin_;
  std::vector<int> integers_;
  std::vector<int> minimum_integers_;
  std::vector<float> scales_;
  std::vector<float> minima_;
};

// The f16 number nearest to `value`, the largest finite one for those beyond.
float nearest_f16(float value) noexcept;

// The effective numbers of segment i of a tensor's blocks, as its readers make them.
float block_scale(const BlockForm& form, const BlockFields& fields, int64_t segment) noexcept;
float block_minimum(const BlockForm& form, const BlockFields& fields, int64_t segment) noexcept;

}  // namespace metal_marlin
