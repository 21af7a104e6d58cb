#include "model/layer_loop.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/model_source.h"

namespace metal_marlin {
namespace {

using Told = std::vector<std::pair<std::string, int64_t>>;

TEST(LayerLoop, TellsEachLayerBeforeItsVisit) {
  Observer observer;
  Told told;
  observer.on_progress = [&](const Progress& p) {
    EXPECT_EQ(p.total, 5);
    told.emplace_back(p.stage, p.done);
    return true;
  };
  Tracker tracker(observer);
  std::vector<int64_t> visited;
  for_each_layer({.stage = "pass", .layers = 5, .first = 1, .end = 4}, tracker, [&](int64_t layer) {
    EXPECT_EQ(told.back().second, layer);
    visited.push_back(layer);
  });
  EXPECT_EQ(visited, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(told, (Told{{"pass", 1}, {"pass", 2}, {"pass", 3}}));
  for_each_layer({.stage = "pass", .layers = 5, .first = 5}, tracker, [](int64_t) { ADD_FAILURE(); });
  for_each_layer({.stage = "pass", .layers = 5, .first = 3, .end = 3}, tracker, [](int64_t) { ADD_FAILURE(); });
}

TEST(LayerLoop, StopsBeforeTheLayerAtWhichTheObserverSaysSo) {
  Observer observer;
  observer.on_progress = [](const Progress& p) { return p.done < 2; };
  Tracker tracker(observer);
  int64_t visits = 0;
  EXPECT_THROW(for_each_layer({.stage = "pass", .layers = 5}, tracker, [&](int64_t) { ++visits; }), Interrupted);
  EXPECT_EQ(visits, 2);
}

TEST(LayerLoop, HandsOutTheBlocksOfTheSource) {
  const auto source = ModelSource::open(std::string(TEST_DATA) + "/models/llama");
  const Observer observer;
  Tracker tracker(observer);
  int64_t next = 0;
  const LayerLoop loop{.stage = "pass", .layers = source->config().num_hidden_layers};
  for_each_block(*source, loop, tracker, [&](int64_t layer, const Block& block) {
    EXPECT_EQ(layer, next++);
    for (const LinearSlot& slot : source->linears(layer)) {
      const Matrix expected = source->load(slot.weight, slot.first_row, slot.rows);
      EXPECT_TRUE(std::ranges::equal(block.linear(slot.kind).weight.values(), expected.values()));
    }
  });
  EXPECT_EQ(next, source->config().num_hidden_layers);
}

}  // namespace
}  // namespace metal_marlin
