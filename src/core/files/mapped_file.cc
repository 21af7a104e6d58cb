#include "core/files/mapped_file.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <utility>

#include "core/counted.h"

namespace metal_marlin {

MappedFile::MappedFile(const std::string& path) : MappedFile(open_regular_file(path), path) {}

MappedFile::MappedFile(UniqueFd fd, std::string path)
    : path_(std::move(path)),
      fd_(std::move(fd)),
      identity_(status_of(fd_, path_).identity),
      mapping_(fd_, identity_.size, path_) {}

void MappedFile::check_unchanged() const {
  if (!fd_) return;
  const FileIdentity now = status_of(fd_, path_).identity;
  if (now == identity_ && !mapping_.lost()) return;
  throw SystemError(fmt::format(
      "{}: changed while it was read ({}); put the file back as it was, or start again with the new one", path_,
      now.size != identity_.size ? fmt::format("it had {} and has {}", counted(identity_.size, "byte"), now.size)
                                 : std::string("somebody wrote to it")));
}

}  // namespace metal_marlin
