// A checkpoint in safetensors: plain, AWQ gemm or native.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/model_source.h"

namespace metal_marlin {

// `path`: a folder with config.json and *.safetensors (with an index when sharded), or one .safetensors file beside its
// config.json. Throws as ModelSource::open.
std::unique_ptr<ModelSource> open_safetensors_source(const std::string& path);

}  // namespace metal_marlin
