// Two checkpoints of one model, for the commands that compare them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"

namespace metal_marlin {

struct TwoModels {
  std::unique_ptr<ModelSource> a;
  std::unique_ptr<ModelSource> b;
  std::map<std::string, CheckpointTensor> of_a;  // by name
  std::map<std::string, CheckpointTensor> of_b;

  std::vector<std::string> only_in_a() const;
  std::vector<std::string> only_in_b() const;
  // Of both; once where they are the same path.
  std::vector<std::string> warnings() const;
};

// Opens and checks both. ArgumentError unless they are of one family and depth, FormatError where a tensor has another
// shape in B.
TwoModels open_two(const std::string& a, const std::string& b);

}  // namespace metal_marlin
