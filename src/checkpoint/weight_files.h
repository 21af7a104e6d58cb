// Which *.safetensors files of a folder are the model.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace metal_marlin {

struct WeightFiles {
  std::vector<std::string> names;  // in the folder, ascending
  std::string index;               // the index's name in the folder; empty: there is none, or it does not count
  std::map<std::string, std::string> placed;  // the index's tensor -> file
  std::vector<std::string> warnings;
  std::string note;  // which files were taken where others could be meant, for errors about them; empty: none could
};

// An index whose shards are all there counts, also beside a stray model.safetensors (with a warning, since engines
// differ). Else model.safetensors, else what weights_without_index takes; a warning where others of the folder could be
// the model too. FormatError that says what there is and what
// to do: only files of other formats, only a LoRA adapter, part of a set of shards, several indices, a damaged index.
// SystemError: shards are missing.
WeightFiles find_weight_files(const std::string& folder);

// Of a name such as model-00001-of-00002.safetensors: 2; else 0.
int shards_by_name(const std::string& name);

// `names`: all *.safetensors files of `folder`. One file is the model, unless its name says that it is one of several
// shards. Several are it only when shard names say so: "model-00001-of-0000n.safetensors" to n, all there (other files
// beside them are left alone, as beside an index), else such a set of another stem that is all there is. Anything else
// would mix copies, adapters or half a download into one model: FormatError that names what is missing or what there
// is, and what to do.
std::vector<std::string> weights_without_index(const std::string& folder, const std::vector<std::string>& names);

// Adds to `warnings` where the index at `path` and its shards disagree: what is stored is read, and the user is told.
// `placed`: the index's tensor -> file.
void compare_with_index(const std::string& path, const std::map<std::string, std::string>& placed,
                        std::span<const std::unique_ptr<SafetensorsFile>> files, std::vector<std::string>& warnings);

}  // namespace metal_marlin
