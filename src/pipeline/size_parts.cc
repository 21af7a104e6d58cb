#include "pipeline/size_parts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "pipeline/size.h"

namespace metal_marlin {

using nlohmann::json;

namespace {

constexpr const char* kParts[] = {"linears", "embedding", "head", "linears in 16 bits", "norms and biases"};
enum Part : size_t { kQuantized, kEmbedding, kHead, kSkipped, kRest, kPartCount };
// A part with at least this share of the result is mentioned.
constexpr double kLargeShare = 0.25;

double bits_per_weight(const json& part) {
  const auto weights = part.at("weights").get<double>();
  return weights > 0 ? 8 * part.at("bytes").get<double>() / weights : 0;
}

}  // namespace

json size_parts(const ModelSource& source, const std::map<std::string, uint64_t>& kept, uint64_t quantized_bytes) {
  struct Sums {
    uint64_t weights = 0;
    uint64_t bytes = 0;
    uint64_t source_bytes = 0;
  };
  std::set<std::string> linears;
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : source.linears(layer)) linears.insert(slot.weight);
  }
  Sums sums[kPartCount];
  for (const CheckpointTensor& t : source.tensors()) {
    const auto it = kept.find(t.name);
    const Part part = it == kept.end()                      ? kQuantized
                      : t.name == source.family().embedding ? kEmbedding
                      : t.name == source.family().head      ? kHead
                      : linears.count(t.name) > 0           ? kSkipped
                                                            : kRest;
    uint64_t weights = 1;
    for (const int64_t size : t.shape) weights *= static_cast<uint64_t>(size);
    sums[part].weights += weights;
    sums[part].source_bytes += t.bytes;
    if (it != kept.end()) sums[part].bytes += it->second;
  }
  sums[kQuantized].bytes = quantized_bytes;
  json parts = json::array();
  for (size_t i = 0; i < kPartCount; ++i) {
    if (sums[i].weights == 0) continue;
    parts.push_back({{"name", kParts[i]},
                     {"weights", sums[i].weights},
                     {"bytes", sums[i].bytes},
                     {"source_bytes", sums[i].source_bytes}});
  }
  return parts;
}

std::string size_parts_text(const json& parts) {
  std::vector<std::string> texts;
  for (const json& part : parts) {
    const std::string name = part.at("name").get<std::string>();
    const double bits = bits_per_weight(part);
    std::string text = fmt::format("{} {}", name, size_text(part.at("bytes").get<uint64_t>()));
    if (name == kParts[kQuantized]) text += fmt::format(" ({:.2f} bits per weight)", bits);
    if (name == kParts[kEmbedding] || name == kParts[kHead]) text += fmt::format(" ({:.0f} bits)", bits);
    texts.push_back(text);
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

std::string size_reason(const json& parts) {
  double bytes = 0;
  double source = 0;
  for (const json& part : parts) {
    bytes += part.at("bytes").get<double>();
    source += part.at("source_bytes").get<double>();
  }
  std::vector<std::string> grown;
  std::vector<std::string> large;
  std::string chosen;  // what is large because the options say so
  for (const json& part : parts) {
    const std::string name = part.at("name").get<std::string>();
    const auto size = part.at("bytes").get<uint64_t>();
    const auto before = part.at("source_bytes").get<uint64_t>();
    if (size > before) {
      grown.push_back(fmt::format("{} from {} to {}", name, size_text(before), size_text(size)));
    }
    if (name != kParts[kQuantized] && static_cast<double>(size) > kLargeShare * bytes) {
      std::string share = fmt::format("{} ({:.0f} % of the result)", name, 100 * static_cast<double>(size) / bytes);
      if (name == kParts[kSkipped]) {
        chosen = std::move(share);
      } else {
        large.push_back(std::move(share));
      }
    }
  }
  if (bytes > source && !grown.empty()) {
    return fmt::format(
        "larger than the source: this grows: {}; no format here stores embedding, head and norms in fewer than 16 bits",
        fmt::join(grown, ", "));
  }
  if (!chosen.empty()) chosen += " stay so by --skip, --linear-bits or --target-bits";
  if (large.empty()) return chosen;
  return fmt::format("no format here quantizes {}; {}", fmt::join(large, " and "),
                     chosen.empty() ? "larger groups (--group-size) shrink the linears alone" : chosen);
}

}  // namespace metal_marlin
