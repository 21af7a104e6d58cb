// Which arithmetic a model runs in.
#pragma once

#include <metal_marlin/compute.h>
#include <metal_marlin/options.h>

#include "kernels/kv_attention.h"
#include "model/block.h"
#include "model/model.h"

namespace metal_marlin {

class ModelSource;

struct Compute {
  MatmulPrecision precision = MatmulPrecision::kF32;  // of linears that are floats
  bool codes = false;                                 // linears that are stored as codes stay so
  HeadBits head = HeadBits::kStored;
  KvType kv = KvType::kF16;
  const char* name = "f32";  // "int8", "bf16", "f32"
};

// What the options say. `generates`: what auto stands for. ArgumentError for unknown names, UnsupportedError for int8
// with a model that has no codes.
Compute compute_of(const ComputeOptions& options, const MachineOptions& machine, const ModelSource& source,
                   bool generates);

}  // namespace metal_marlin
