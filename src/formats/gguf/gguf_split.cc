#include "formats/gguf/gguf_split.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <limits>
#include <utility>

#include "core/counted.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kEnd = ".gguf";
constexpr std::string_view kOf = "-of-";
constexpr size_t kDigits = 5;

std::optional<uint32_t> five_digits(std::string_view text) {
  uint32_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.size() != kDigits || code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::vector<GgufPair> split_pairs(size_t file, size_t files, size_t tensors) {
  return {gguf_pair(kSplitNo, static_cast<uint16_t>(file)), gguf_pair(kSplitCount, static_cast<uint16_t>(files)),
          gguf_pair(kSplitTensors, static_cast<int32_t>(tensors))};
}

}  // namespace

std::string GgufSplitName::of_part(uint32_t number) const {
  return gguf_split_name(stem, number, parts);
}

std::string gguf_split_name(std::string_view stem, uint32_t part, uint32_t parts) {
  return fmt::format("{}-{:05}{}{:05}{}", stem, part, kOf, parts, kEnd);
}

std::optional<GgufSplitName> parse_gguf_split_name(std::string_view path) {
  constexpr size_t kTail = 1 + kDigits + kOf.size() + kDigits + kEnd.size();
  if (path.size() <= kTail) return std::nullopt;
  const std::string_view tail = path.substr(path.size() - kTail);
  if (tail[0] != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf || !tail.ends_with(kEnd)) return std::nullopt;
  const auto part = five_digits(tail.substr(1, kDigits));
  const auto parts = five_digits(tail.substr(1 + kDigits + kOf.size(), kDigits));
  if (!part || !parts || *part < 1 || *part > *parts) return std::nullopt;
  return GgufSplitName{std::string(path.substr(0, path.size() - kTail)), *part, *parts};
}

std::vector<GgufFilePlan> plan_gguf_files(const std::string& stem, std::span<const GgufPair> pairs,
                                          std::span<const GgufTensorInfo> tensors, uint64_t most_bytes) {
  const std::vector<GgufPair> all(pairs.begin(), pairs.end());
  const std::vector<GgufTensorInfo> infos(tensors.begin(), tensors.end());
  const uint64_t whole = gguf_file_bytes(all, infos);
  if (most_bytes == 0 || whole <= most_bytes) return {{stem + std::string(kEnd), all, infos, whole}};

  std::vector<GgufFilePlan> files;
  uint64_t bytes = 0;  // of the file so far: an upper bound, since each part of it is taken with all its padding
  const auto begin_file = [&] {
    GgufFilePlan file;
    if (files.empty()) file.pairs = all;
    // The numbers of the files are not known yet, their sizes are.
    for (GgufPair& pair : split_pairs(files.size(), 0, infos.size())) file.pairs.push_back(std::move(pair));
    bytes = gguf_file_bytes(file.pairs, {});
    files.push_back(std::move(file));
  };
  std::vector<GgufPair> alignment;
  std::copy_if(all.begin(), all.end(), std::back_inserter(alignment),
               [](const GgufPair& pair) { return pair.key == kAlignmentKey; });
  const uint64_t empty = gguf_file_bytes(alignment, {});
  begin_file();
  for (const GgufTensorInfo& tensor : infos) {
    const uint64_t more = gguf_file_bytes(alignment, std::span(&tensor, 1)) - empty;
    if (!files.back().tensors.empty() && bytes + more > most_bytes) begin_file();
    files.back().tensors.push_back(tensor);
    bytes += more;
  }
  if (files.size() > std::numeric_limits<uint16_t>::max())
    throw ArgumentError(fmt::format("{} of at most {} are needed, expected at most {}; allow larger files",
                                    counted(files.size(), "file"), counted(most_bytes, "byte"),
                                    std::numeric_limits<uint16_t>::max()));
  for (size_t i = 0; i < files.size(); ++i) {
    GgufFilePlan& file = files[i];
    file.name = gguf_split_name(stem, static_cast<uint32_t>(i + 1), static_cast<uint32_t>(files.size()));
    const std::vector<GgufPair> numbers = split_pairs(i, files.size(), infos.size());
    std::copy(numbers.begin(), numbers.end(), file.pairs.end() - static_cast<std::ptrdiff_t>(numbers.size()));
    file.bytes = gguf_file_bytes(file.pairs, file.tensors);
  }
  return files;
}

}  // namespace metal_marlin
