#include "model/layer_loop.h"

#include <algorithm>

#include "model/stream.h"

namespace metal_marlin {

void for_each_layer(const LayerLoop& loop, Tracker& tracker, const std::function<void(int64_t)>& visit) {
  const int64_t end = std::min(loop.end, loop.layers);
  const double work = loop.work_after - loop.work_before;
  for (int64_t layer = loop.first; layer < end; ++layer) {
    if (work > 0) {
      const double share = static_cast<double>(layer - loop.first) / static_cast<double>(end - loop.first);
      tracker.set_fraction(loop.work_before + work * share);
    }
    tracker.enter(loop.stage, layer, loop.layers);
    visit(layer);
  }
}

void for_each_block(const ModelSource& source, const LayerLoop& loop, Tracker& tracker,
                    const std::function<void(int64_t, Block)>& visit) {
  for_each_layer(loop, tracker, [&](int64_t layer) {
    visit(layer, load_block(source, layer));
    release_linears(source, layer);
  });
}

}  // namespace metal_marlin
