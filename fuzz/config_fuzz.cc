// config.json with quantization_config: any bytes give a config whose numbers are in their ranges, or an Error.
#include <metal_marlin/error.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "families/config/model_config.h"
#include "families/config/read_model_config.h"
#include "families/config/text_model.h"
#include "families/family.h"
#include "families/registry.h"
#include "fuzz_input.h"
#include "layouts/config/read_config.h"
#include "tokenizer/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  using fuzz::require;
  static const fuzz::Folder folder;
  static const std::string path = folder.path() + "/config.json";
  try {
    nlohmann::json config = parse_bounded_object(fuzz::as_text(data, size), path);
    std::vector<std::string> warnings;
    unwrap_text_config(config, path, warnings);
    const ModelConfig c = read_model_config(config, find_family(config, path), path);
    require(c.num_hidden_layers > 0 && c.hidden_size > 0 && c.vocab_size > 0, "sizes are positive");
    require(c.num_attention_heads % c.num_key_value_heads == 0, "key heads divide the heads");
    require(c.head_dim >= 2 && c.head_dim % 2 == 0, "the size of a head is even");
    require(c.rms_norm_eps >= 0 && std::isfinite(c.query_scale), "norm and query scale are finite");
    require(c.rope.theta >= 1 && std::isfinite(c.rope.theta), "theta is finite");
    require(static_cast<int64_t>(c.sliding_window.size()) == c.num_hidden_layers, "each layer has its window");
    const PackedConfig packed = read_packed_config(config, path, folder.path(), warnings);
    if (packed.layout != nullptr) {
      require(packed.group_size == -1 || packed.group_size > 0, "a group has channels");
      require(packed.bits >= 2 && packed.bits <= 8, "bits of a code");
    }
    config.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  } catch (const Error&) {
  }
  return 0;
}
