#include "source/weight_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <optional>
#include <regex>

#include "formats/safetensors.h"

namespace metal_marlin {
namespace {

struct ShardName {
  std::string stem;  // "model"
  int count = 0;
};

std::optional<ShardName> parse_shard_name(const std::string& name) {
  static const std::regex pattern("(.+)-[0-9]{5}-of-([0-9]{5})[.]safetensors");
  std::smatch match;
  if (!std::regex_match(name, match, pattern)) return std::nullopt;
  return ShardName{match[1], std::stoi(match[2])};
}

constexpr const char* kAdvice =
    "download what is missing or the index (*.safetensors.index.json), move what is no part of the model out of the "
    "folder, or name the "
    "one file that is the model";

}  // namespace

std::vector<std::string> weights_without_index(const std::string& folder, const std::vector<std::string>& names) {
  if (names.size() <= 1) return names;
  const auto of_stem = [&](const std::string& stem) {
    std::vector<std::string> set;
    for (const std::string& name : names) {
      const auto shard = parse_shard_name(name);
      if (shard && shard->stem == stem) set.push_back(name);
    }
    return set;
  };
  std::vector<std::string> set = of_stem("model");
  if (const auto first = parse_shard_name(names.front()); set.empty() && first) {
    set = of_stem(first->stem);
    if (set.size() != names.size()) set.clear();
  }
  if (set.empty()) {
    throw FormatError(fmt::format(
        "{}: expected model.safetensors, an index (*.safetensors.index.json) or a single *.safetensors file, found {} "
        "files of which nothing says that they belong together: {}; {}",
        folder, names.size(), fmt::join(names, ", "), kAdvice));
  }
  const ShardName shard = *parse_shard_name(set.front());
  for (int i = 1; i <= shard.count; ++i) {
    const std::string wanted = shard_name(i, shard.count, shard.stem);
    if (std::find(set.begin(), set.end(), wanted) == set.end()) {
      throw FormatError(
          fmt::format("{}: there is no index (*.safetensors.index.json), and {} is missing, one of the {} shards that "
                      "{} speaks of; {}",
                      folder, wanted, shard.count, set.front(), kAdvice));
    }
  }
  if (set.size() != static_cast<size_t>(shard.count)) {
    throw FormatError(
        fmt::format("{}: there is no index (*.safetensors.index.json), and the shards are of several sets: {}; {}",
                    folder, fmt::join(set, ", "), kAdvice));
  }
  return set;
}

}  // namespace metal_marlin
