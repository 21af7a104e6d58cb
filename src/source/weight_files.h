// Which *.safetensors files of a folder are the model, where no index says so.
#pragma once

#include <string>
#include <vector>

namespace metal_marlin {

// `names`: all *.safetensors files of `folder`. One file is the model. Several are it only when shard names say so:
// "model-00001-of-0000n.safetensors" to n, all there (other files beside them are left alone, as beside an index), else
// such a set of another stem that is all there is. Anything else would mix copies, adapters or half a download into one
// model: FormatError that names what is missing or what there is, and what to do.
std::vector<std::string> weights_without_index(const std::string& folder, const std::vector<std::string>& names);

}  // namespace metal_marlin
