#include "run/output/output_checks.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>

#include "checkpoint/model_source.h"
#include "core/files/file_status.h"
#include "platform/access.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

namespace fs = std::filesystem;

void require_place_for(const std::string& path) {
  fs::path place = absolute_path(path);
  while (!path_exists(place) && place.has_relative_path()) place = place.parent_path();
  if (!is_folder(place))
    throw SystemError(fmt::format("{}: cannot create the folder: {} is a file", path, place.string()));
  if (const std::string why = refusal_to_write(place.string()); !why.empty())
    throw SystemError(fmt::format("{}: cannot write into the folder {}: {}", path, place.string(), why));
}

void refuse_model_inside(const ModelSource& source, const std::string& output) {
  std::error_code code;
  const fs::path folder = fs::canonical(output, code);
  if (code) return;  // it is not there yet
  for (fs::path place = fs::canonical(source.path(), code); !code && place.has_relative_path();
       place = place.parent_path()) {
    if (place == folder)
      throw ArgumentError(fmt::format("{}: the model lies in the output folder; choose another", output));
  }
}

void check_output(const ModelSource& source, const std::string& output) {
  if (output.empty()) throw ArgumentError("output", "--output: expected a folder, got nothing");
  std::error_code code;
  if (std::filesystem::exists(output, code) && !std::filesystem::is_directory(output, code)) {
    throw ArgumentError(fmt::format("{}: expected a folder, found a file", output));
  }
  refuse_own_folder(source, output);
}

}  // namespace metal_marlin
