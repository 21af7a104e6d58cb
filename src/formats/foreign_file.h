// What stands in place of a file that was expected: a failed download, an archive, a pointer.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

// "this is a Git LFS pointer, not the file itself: run 'git lfs pull' ..." by the first bytes of a file (some hundred
// are enough); empty: none of the known kinds. Known are Git LFS pointers, HTML and XML pages, zip, gzip, xz, zstd and
// bzip2 archives, Python pickles.
std::string foreign_file_text(std::string_view start);

// The same for files of weights, of which also JSON, plain text, GGUF, safetensors and empty files are foreign. Asked
// only where a reader has found that the file is not of its format.
std::string foreign_weights_text(std::string_view start);

// The same for files of JSON, of which empty files, sentences, and those with a byte order mark are foreign. Asked only
// where a reader has found that the file is no JSON.
std::string foreign_json_text(std::string_view text);

// What a hub answers in place of a file, {"error": "Repository not found"} and the like; empty: something else.
std::string error_page_text(const nlohmann::json& value);

// Takes away the byte order mark before a JSON text that people edit, and says so in `warnings`, by the file's name.
void drop_byte_order_mark(std::string& text, const std::string& path, std::vector<std::string>& warnings);
std::string byte_order_mark_warning(const std::string& path);

}  // namespace metal_marlin
