// A GGUF model in several files, as llama.cpp's gguf-split makes it. The files are called NAME-00001-of-00003.gguf and
// so on. Each is a whole GGUF file with some of the tensors. The first has all keys, the others only these:
//   split.no             u16  from 0
//   split.count          u16  how many files
//   split.tensors.count  i32  tensors of all files
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf/gguf_write.h"

namespace metal_marlin {

inline constexpr const char* kSplitNo = "split.no";
inline constexpr const char* kSplitCount = "split.count";
inline constexpr const char* kSplitTensors = "split.tensors.count";

struct GgufSplitName {
  std::string stem;   // "model", with the folders before it
  uint32_t part = 0;  // from 1
  uint32_t parts = 0;

  std::string of_part(uint32_t number) const;  // the name of another part
};
// "model-00001-of-00003.gguf"; part from 1. `stem` may begin with folders.
std::string gguf_split_name(std::string_view stem, uint32_t part, uint32_t parts);
// Nothing for a name of another form, or with a part that cannot be.
std::optional<GgufSplitName> parse_gguf_split_name(std::string_view path);

// One file of a model.
struct GgufFilePlan {
  std::string name;  // "model.gguf" where there is one file alone
  std::vector<GgufPair> pairs;
  std::vector<GgufTensorInfo> tensors;
  uint64_t bytes = 0;  // of the file
};
// Spreads the tensors, in their order, over files of at most `most_bytes` each, header included. 0: one file. A file
// has at least one tensor, which may make it larger. `pairs`: of the model, without split.*. Errors as GgufWriter;
// ArgumentError for more than 65,535 files.
std::vector<GgufFilePlan> plan_gguf_files(const std::string& stem, std::span<const GgufPair> pairs,
                                          std::span<const GgufTensorInfo> tensors, uint64_t most_bytes);

}  // namespace metal_marlin
