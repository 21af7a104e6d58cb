#include "core/files/file_status.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <fstream>
#include <system_error>

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

void check(const fs::path& path, const char* action, const std::error_code& code) {
  if (code) throw SystemError(fmt::format("{}: cannot {}: {}", path.string(), action, code.message()));
}

fs::file_status status_of(const fs::path& path) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  // "Not there" comes as an error too.
  if (status.type() == fs::file_type::none) check(path, "be looked up", code);
  return status;
}

}  // namespace

bool path_exists(const fs::path& path) {
  return fs::exists(status_of(path));
}

bool is_folder(const fs::path& path) {
  return fs::is_directory(status_of(path));
}

bool is_file(const fs::path& path) {
  return fs::is_regular_file(status_of(path));
}

bool is_empty_folder(const fs::path& folder) {
  std::error_code code;
  const bool empty = fs::is_empty(folder, code);
  check(folder, "look into the folder", code);
  return empty;
}

bool is_new_or_begins_with(const fs::path& path, std::string_view start) {
  if (!path_exists(path)) return true;
  std::ifstream file(path, std::ios::binary);
  std::string found(start.size(), ' ');
  file.read(found.data(), static_cast<std::streamsize>(found.size()));
  found.resize(static_cast<size_t>(file.gcount()));
  return found.empty() || found == start;
}

uint64_t file_bytes(const fs::path& file) {
  std::error_code code;
  const uint64_t bytes = fs::file_size(file, code);
  check(file, "tell the size", code);
  return bytes;
}

fs::path absolute_path(const fs::path& path) {
  std::error_code code;
  fs::path out = fs::absolute(path, code);
  check(path, "make the path absolute", code);
  return out;
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> out;
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) out.push_back(it->path());
  check(folder, "read the folder", code);
  std::sort(out.begin(), out.end());
  return out;
}

fs::path temporary_folder() {
  std::error_code code;
  fs::path out = fs::temp_directory_path(code);
  if (code) {
    throw SystemError(fmt::format("no folder for temporary files: {}; set TMPDIR to one", code.message()));
  }
  return out;
}

}  // namespace metal_marlin
