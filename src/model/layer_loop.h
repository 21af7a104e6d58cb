// The one loop over the blocks of a model. Every stage that runs a whole model over texts goes through it: statistics,
// selection, sensitivity, evaluation, and the run itself.
#pragma once

#include <cstdint>
#include <functional>

#include "core/progress.h"
#include "model/block.h"

namespace metal_marlin {

struct LayerLoop {
  const char* stage;     // to which the time of each layer belongs until its visitor enters another
  int64_t layers;        // of the model, for the progress
  int64_t first = 0;     // the loop goes over first .. end - 1
  int64_t end = layers;  // at most that many
  // The shares of all work that are done before the loop and after it (Tracker::set_fraction). Both 0: not told.
  double work_before = 0;
  double work_after = 0;
};

// Tells the tracker, which throws Interrupted when the observer says so, then calls visit(layer), for each layer in
// turn. A visitor that needs no block at hand passes a stream through it (Stream::pass_source).
void for_each_layer(const LayerLoop& loop, Tracker& tracker, const std::function<void(int64_t layer)>& visit);

// The same with the source's block, loaded after the tracker was told. The block is the visitor's; it may change it.
// After the visit the source releases the layer's weights. Errors as load_block().
void for_each_block(const ModelSource& source, const LayerLoop& loop, Tracker& tracker,
                    const std::function<void(int64_t layer, Block block)>& visit);

}  // namespace metal_marlin
