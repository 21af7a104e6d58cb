#include "pipeline/size.h"

namespace metal_marlin {

ModelSize model_size(const ModelSource& source) {
  ModelSize size;
  for (const CheckpointTensor& t : source.tensors()) {
    uint64_t n = 1;
    for (const int64_t d : t.shape) n *= static_cast<uint64_t>(d);
    size.parameters += n;
    size.bytes += t.bytes;
  }
  return size;
}

}  // namespace metal_marlin
