// Questions to the file system. Where it cannot answer (no permission, a name that is too long, a link that leads back
// to itself), they throw SystemError with the path and the reason: "no" would be a guess.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

bool path_exists(const std::filesystem::path& path);
bool is_folder(const std::filesystem::path& path);  // also through a link; false: something else, or nothing
bool is_file(const std::filesystem::path& path);    // likewise
bool is_empty_folder(const std::filesystem::path& folder);
// Whether there is no file, an empty one, or one that begins with `start`, by which this program knows its own.
bool is_new_or_begins_with(const std::filesystem::path& path, std::string_view start);
uint64_t file_bytes(const std::filesystem::path& file);
std::filesystem::path absolute_path(const std::filesystem::path& path);
// Paths of what is in a folder, by name, ascending.
std::vector<std::filesystem::path> entries_of(const std::filesystem::path& folder);
// The system's folder for temporary files.
std::filesystem::path temporary_folder();

}  // namespace metal_marlin
