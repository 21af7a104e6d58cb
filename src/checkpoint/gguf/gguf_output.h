// Writes a model as GGUF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/gguf/gguf_parts.h"
#include "checkpoint/model_source.h"
#include "formats/gguf/gguf_split.h"

namespace metal_marlin {

struct GgufPlan {
  std::vector<GgufPair> pairs;  // gguf_metadata()
  std::vector<GgufPart> parts;  // gguf_parts()
  std::vector<GgmlType> types;  // one per part; F32 where in_f32
  uint64_t most_bytes = 0;      // of one file; 0: one file
};
// All parts of two dimensions in `type`, the others in F32.
std::vector<GgmlType> gguf_types(const std::vector<GgufPart>& parts, GgmlType type);
// What write_gguf() makes of it.
std::vector<GgufFilePlan> gguf_files(const GgufPlan& plan, const std::string& stem);

// Gives the bytes of a part in the type of the plan, rows in the file's order, in pieces to `put`. False: it has none
// for this part, which is written from the model then; nothing was put.
using GgufPut = std::function<void(std::span<const std::byte>)>;
using GgufProvider = std::function<bool(const GgufPart& part, GgmlType type, const GgufPut& put)>;

struct WrittenGguf {
  std::vector<std::string> files;  // names in the folder
  uint64_t bytes = 0;              // of all
};

// `path`: "OUT/model.gguf"; of a split model the files are OUT/model-00001-of-00003.gguf and so on. Each file appears
// when it is complete. What the provider does not give comes from the model: blocks of a GGUF source as they are
// stored, where their type is that of the plan, else floats as F32, F16 or BF16. Takes memory for some MiB of a tensor
// at a time, of q and k of Llama at least for one head. ArgumentError for another type that nobody gives; NumericError
// for values beyond F16; errors of the source and of the files.
WrittenGguf write_gguf(const ModelSource& source, const GgufPlan& plan, const GgufProvider& provider,
                       const std::string& path);

}  // namespace metal_marlin
