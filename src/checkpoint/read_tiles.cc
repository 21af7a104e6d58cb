#include "checkpoint/read_tiles.h"

#include "kernels/weight_matrix.h"
#include "layouts/config/read_config.h"
#include "layouts/stored_layout.h"
#include "pack/bits/code_lines.h"

namespace metal_marlin {

std::unique_ptr<WeightMatrix> read_tiles(const PackedConfig& config, const PackedLinear& l, const std::string& name,
                                         int64_t first_row, int64_t rows) {
  const auto order = config.layout->word_order();
  if (!order || !CodeLines::takes_width(l.bits)) return nullptr;
  const QuantizedTensor t = read_packed(config, l, name, Codes::kSkip);
  const CodeLines lines(*order, l.codes->bytes.data(), t.out_features, t.in_features, t.bits);
  if (!lines.takes(first_row, rows)) return nullptr;
  const auto read = [&](const WantedLines& w) {
    lines.read({w.first_output, w.outputs, w.first_line, w.lines}, w.to, w.ld);
  };
  const auto q_scale = read_q_scale(l, t.in_features, name);
  return std::make_unique<WeightMatrix>(WeightMatrix::of_lines(t, first_row, rows, q_scale, read));
}

}  // namespace metal_marlin
