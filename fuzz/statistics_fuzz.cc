// Statistics of a small model in an .npz: any bytes give them for each layer, or an Error.
#include <metal_marlin/error.h>

#include "fuzz_input.h"
#include "statistics/stats_file.h"
#include "tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  static const fuzz::Folder folder;
  static const auto source = ModelSource::open(TEST_DATA "/models/llama");
  try {
    const StatsFile file(folder.write("s.npz", fuzz::as_text(data, size)), *source, size % 2 == 0, uint64_t{1} << 24);
    for (int64_t layer = 0; layer < source->config().num_hidden_layers; ++layer) {
      try {
        for (const ActivationStats& s : file.load(layer)) {
          const auto width = static_cast<size_t>(s.in_features);
          fuzz::require(s.mean.size() == width && s.max.size() == width && s.rms.size() == width,
                        "one value a channel");
        }
      } catch (const Error&) {
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
