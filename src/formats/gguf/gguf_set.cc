#include "formats/gguf/gguf_set.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "core/counted.h"
#include "core/files/file_status.h"
#include "formats/tensor_bounds.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr const char* kCure = "get all parts of the model from one place again";

uint64_t split_count(const GgufFile& file) {
  return file.metadata().find_u64(kSplitCount).value_or(1);
}

[[noreturn]] void disagree(const GgufFile& file, const char* key, uint64_t expected, const std::string& found,
                           const std::string& why) {
  throw FormatError(
      fmt::format("{}: key {}: expected {}, {}, found {}; {}", file.path(), key, expected, why, found, kCure));
}

void expect_number(const GgufFile& file, const char* key, uint64_t expected, const std::string& why) {
  const auto found = file.metadata().find_u64(key);
  if (found != expected) disagree(file, key, expected, found ? fmt::format("{}", *found) : "none", why);
}

}  // namespace

GgufSet::GgufSet(const std::string& path, const Map& map) {
  const auto name = parse_gguf_split_name(path);
  files_.emplace_back(map(path));
  const uint64_t parts = split_count(files_.front());
  if (parts > 1 && name && name->part > 1) {
    const std::string first = name->of_part(1);
    if (!path_exists(first))
      throw FormatError(fmt::format("{}: part {} of {}: expected the first part, {}, beside it, found no such file; {}",
                                    path, name->part, name->parts, escaped(first), kCure));
    files_.clear();
    files_.emplace_back(map(first));  // it has the keys of the model
    open_others(*name, map);
  } else if (parts > 1 && name && path_exists(name->of_part(2))) {
    open_others(*name, map);
  } else if (parts > 1) {
    parts_elsewhere_ = parts;
  }
  index();
}

void GgufSet::open_others(const GgufSplitName& name, const Map& map) {
  const GgufMetadata& first = files_.front().metadata();
  const uint64_t tensors = first.get_u64(kSplitTensors);
  const std::string architecture = first.get_string("general.architecture");
  for (uint32_t part = 1; part <= name.parts; ++part) {
    const std::string other = name.of_part(part);
    if (part > 1) {
      if (!path_exists(other))
        throw FormatError(fmt::format("{}: expected all {} parts of the model beside each other, found no {}; {}",
                                      files_.front().path(), name.parts, escaped(other), kCure));
      files_.emplace_back(map(other));
    }
    const GgufFile& file = files_.back();
    expect_number(file, kSplitCount, name.parts, "as its name says");
    expect_number(file, kSplitNo, part - 1, "since its name says that it is part " + std::to_string(part));
    expect_number(file, kSplitTensors, tensors, "as in the first part");
    const auto own = file.metadata().find_string("general.architecture");
    if (own && *own != architecture)
      throw FormatError(fmt::format("{}: general.architecture: expected {} as in the first part, found {}; {}",
                                    file.path(), shown(architecture), shown(*own), kCure));
  }
}

void GgufSet::index() {
  size_t count = 0;
  for (const GgufFile& file : files_) count += file.tensors().size();
  if (count > kMostTensors)
    throw FormatError(
        fmt::format("{}: expected at most {} in all parts, found {}", path(), counted(kMostTensors, "tensor"), count));
  tensors_.reserve(count);
  for (const GgufFile& file : files_) {
    tensors_.insert(tensors_.end(), file.tensors().begin(), file.tensors().end());
    ends_.push_back(tensors_.size());
  }
  if (files_.size() > 1) {
    const uint64_t stated = metadata().get_u64(kSplitTensors);
    if (stated != count)
      disagree(files_.front(), kSplitTensors, count, std::to_string(stated),
               fmt::format("the tensors of all {} parts", files_.size()));
  }
  index_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const auto [at, fresh] = index_.emplace(tensors_[i].name, i);
    if (fresh) continue;
    throw FormatError(fmt::format("{}: tensor {}: expected it in one part alone, found it in {} too; {}",
                                  file_of(tensors_[i]).path(), shown(tensors_[i].name),
                                  escaped(file_of(tensors_[at->second]).path()), kCure));
  }
}

const GgufTensor* GgufSet::find(std::string_view name) const noexcept {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const GgufFile& GgufSet::file_of(const GgufTensor& tensor) const noexcept {
  const auto i = static_cast<size_t>(&tensor - tensors_.data());
  const auto end = std::upper_bound(ends_.begin(), ends_.end(), i);
  return files_[static_cast<size_t>(end - ends_.begin())];
}

void GgufSet::check_unchanged() const {
  for (const GgufFile& file : files_) file.mapped().check_unchanged();
}

}  // namespace metal_marlin
