// Delivers the journal's blocks to a checkpoint writer.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "stages/finished_block.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

// One block in memory at a time.
class JournalProvider : public TensorProvider {
 public:
  // `read`: gives a finished block, checked. `layers`: of each tensor that the journal holds.
  JournalProvider(std::function<FinishedBlock(int64_t)> read, std::map<std::string, int64_t> layers);
  QuantizedTensor quantized(const std::string& name) override;
  BlockTensor blocks(const std::string& name) override;
  OwnedTensor changed(const std::string& name) override;

 private:
  void fetch(const std::string& name);

  std::function<FinishedBlock(int64_t)> read_;
  std::map<std::string, int64_t> layers_;
  FinishedBlock block_;
  int64_t loaded_ = -1;
};

}  // namespace metal_marlin
