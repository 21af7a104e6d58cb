// A GGUF file as a model: configuration, weights, digest, tokenizer. Any bytes give them, or an Error.
#include <metal_marlin/error.h>

#include <algorithm>

#include "checkpoint/gguf/gguf_source.h"
#include "checkpoint/model_source.h"
#include "fuzz_input.h"
#include "kernels/weight_matrix.h"
#include "tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  static const fuzz::Folder folder;
  try {
    const auto source = open_gguf_source(folder.write("m.gguf", fuzz::as_text(data, size)), false);
    constexpr int64_t kLargest = 1 << 18;  // elements that are read
    for (const CheckpointTensor& tensor : source->tensors()) {
      int64_t elements = 1;
      for (const int64_t n : tensor.shape) elements = elements > kLargest || n > kLargest ? kLargest + 1 : elements * n;
      if (elements > kLargest) continue;
      try {
        const Matrix values = source->load(tensor.name, 0, -1);
        fuzz::require(values.size() == elements, "a tensor has the size of its shape");
        source->load_stored(tensor.name);
        if (!source->code_form(tensor.name)) continue;
        const auto codes = source->load_blocks(tensor.name, 0, tensor.shape[0]);
        fuzz::require(
            codes != nullptr && codes->out_features() == tensor.shape[0] && codes->in_features() == tensor.shape[1],
            "a tensor of codes has the shape of its floats");
      } catch (const Error&) {
      }
    }
    source->left_out();
    source->digest();
    try {
      const Tokenizer& tokenizer = source->tokenizer();
      const auto ids = tokenizer.encode("Hello, w\xc3\xb6rld \n\n 123 \xe2\x96\x81<s>", true);
      tokenizer.decode(ids, false);
    } catch (const Error&) {
    }
    for (const CompanionFile& file : source->companion_files()) file.content();
  } catch (const Error&) {
  }
  return 0;
}
