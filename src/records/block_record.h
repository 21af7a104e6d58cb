// What a finished block says of itself; the journal keeps it beside the block's codes.
#pragma once

#include <metal_marlin/report_records.h>

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

// A tensor that scales were folded into, in which values became 0 in float16.
struct FlushedRecord {
  std::string name;
  int64_t flushed = 0;
  int64_t of = 0;

  static void describe(auto& field, auto& self) {
    field("name", self.name);
    field("flushed", self.flushed);
    field("of", self.of);
  }
};

struct BlockRecord {
  std::vector<LinearRecord> linears;
  std::vector<ScaleRecord> scales;
  double invariance_error = 0;       // of folding alone; 0 where nothing was folded
  std::vector<std::string> changed;  // tensors that scales were folded into
  std::vector<FlushedRecord> flushed;

  static void describe(auto& field, auto& self) {
    field("linears", self.linears);
    field("scales", self.scales);
    field("invariance_error", self.invariance_error);
    field("changed", self.changed);
    field("flushed", self.flushed);
  }
};

}  // namespace metal_marlin
