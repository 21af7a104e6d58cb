// A checkpoint in GGUF files: names, row order and norms as Hugging Face has them, config and tokenizer rebuilt.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/model_source.h"

namespace metal_marlin {

// `path`: a .gguf file, or any file of a split model. `of_folder`: a folder was named and the file found in it, so a
// link must not lead out of it. Throws as ModelSource::open.
std::unique_ptr<ModelSource> open_gguf_source(const std::string& path, bool of_folder);

}  // namespace metal_marlin
