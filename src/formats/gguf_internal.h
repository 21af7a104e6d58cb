// What the parser of a GGUF file and the readers of its keys share.
#pragma once

namespace metal_marlin {

inline constexpr const char* kConvertAgain =
    "convert the model again with a current convert_hf_to_gguf.py of llama.cpp, or ask the file's publisher to";

}  // namespace metal_marlin
