#include "families/families.h"

namespace metal_marlin {

// Also SmolLM, TinyLlama, Yi, DeepSeek-LLM and other models of this form.
const Family& llama_family() {
  static const Family kFamily = [] {
    Family f;
    f.name = "llama";
    f.model_types = {"llama"};
    f.architectures = {"LlamaForCausalLM"};
    f.gguf_architectures = {"llama"};
    f.linears = llama_linears();
    f.norms = llama_norms();
    f.gguf_permutes_qk = true;
    f.folds = llama_folds();
    return f;
  }();
  return kFamily;
}

}  // namespace metal_marlin
