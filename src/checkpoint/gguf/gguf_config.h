// config.json rebuilt from the metadata of a GGUF file.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "families/family.h"
#include "formats/gguf/gguf_set.h"

namespace metal_marlin {

// A config.json as Hugging Face would have it (the keys that read_model_config and other engines need). What was
// contradictory and how it was read goes to `warnings`, one line each.
nlohmann::json gguf_config(const GgufSet& file, const Family& family, const std::string& architecture,
                           std::vector<std::string>& warnings);

// The key or tensor of the file that the config's `key` was made from: "llama.block_count" for "num_hidden_layers";
// `key` itself where there is none.
std::string gguf_key(const std::string& key, const std::string& architecture);
// `message`, with every such key of the config replaced.
std::string gguf_keys_in(const std::string& message, const std::string& architecture);

}  // namespace metal_marlin
