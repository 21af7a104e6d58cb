// Files of a checkpoint's folder that go along into another: tokenizer, generation config, chat templates, licence,
// code.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/files/model_file.h"

namespace metal_marlin {

class ModelSource;

// Names in `folder` of the files that determine what the model computes or how it is prompted: tokenizer, generation
// config, chat template. In a fixed order. Whatever stands under such a name is listed: ModelFolder::open() refuses
// what is no file of the model.
std::vector<std::string> determining_files(const ModelFolder& folder);

// All that goes along: the above, then every other file of at most 16 MiB, by name, but for weights, config.json, what
// belongs to a quantization or is written anew (README.md, reports), hidden and temporary files. Symbolic links count
// only when they lead into the folder or into the store of a Hugging Face cache beside it: what a stranger's checkpoint
// points to elsewhere stays where it is. `whole`: the folder is the model's own; else (a file between others) only the
// licence is added.
// Nor do names go along that a terminal or a shell would take for something else: with control or direction characters,
// or with a dash at their beginning.
std::vector<std::string> companion_names(const ModelFolder& folder, bool whole);

// The bytes of all files that go along with the model. FormatError when those beside the determining ones are more than
// 1,000 files or 256 MiB: the result would be far larger than the model.
uint64_t companion_bytes(const ModelSource& source);

}  // namespace metal_marlin
