// Whether a folder may become the output of a run, judged by its path alone.
#pragma once

#include <string>

namespace metal_marlin {

class ModelSource;

// SystemError with the reason when the folder `path` cannot be made, or when nothing can be written into it. Nothing is
// changed.
void require_place_for(const std::string& path);

// ArgumentError when the model is read from `output` or from a folder in it.
void refuse_model_inside(const ModelSource& source, const std::string& output);

// ArgumentError when `output` is no folder, or the one that the model itself is read from.
void check_output(const ModelSource& source, const std::string& output);

}  // namespace metal_marlin
