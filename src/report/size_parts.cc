#include "report/size_parts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "report/size.h"

namespace metal_marlin {

namespace {

constexpr const char* kParts[] = {"linears", "embedding", "head", "linears in 16 bits", "norms and biases"};
enum Part : size_t { kQuantized, kEmbedding, kHead, kSkipped, kRest, kPartCount };
// A part with at least this share of the result is mentioned.
constexpr double kLargeShare = 0.25;

double bits_per_weight(const PartRecord& part) {
  return part.weights > 0 ? 8 * static_cast<double>(part.bytes) / static_cast<double>(part.weights) : 0;
}

}  // namespace

std::vector<PartRecord> size_parts(const ModelSource& source, const std::map<std::string, uint64_t>& kept,
                                   uint64_t quantized_bytes) {
  std::set<std::string> linears;
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : source.linears(layer)) linears.insert(slot.weight);
  }
  std::vector<PartRecord> sums(kPartCount);
  for (const CheckpointTensor& t : source.tensors()) {
    const auto it = kept.find(t.name);
    const Part part = it == kept.end()                      ? kQuantized
                      : t.name == source.family().embedding ? kEmbedding
                      : t.name == source.family().head      ? kHead
                      : linears.count(t.name) > 0           ? kSkipped
                                                            : kRest;
    uint64_t weights = 1;
    for (const int64_t size : t.shape) weights *= static_cast<uint64_t>(size);
    sums[part].weights += static_cast<int64_t>(weights);
    sums[part].source_bytes += static_cast<int64_t>(t.bytes);
    if (it != kept.end()) sums[part].bytes += static_cast<int64_t>(it->second);
  }
  sums[kQuantized].bytes = static_cast<int64_t>(quantized_bytes);
  std::vector<PartRecord> parts;
  for (size_t i = 0; i < kPartCount; ++i) {
    if (sums[i].weights == 0) continue;
    sums[i].name = kParts[i];
    parts.push_back(std::move(sums[i]));
  }
  return parts;
}

std::string size_parts_text(std::span<const PartRecord> parts) {
  std::vector<std::string> texts;
  for (const PartRecord& part : parts) {
    const std::string& name = part.name;
    const double bits = bits_per_weight(part);
    std::string text = fmt::format("{} {}", name, size_text(bytes_of(part.bytes)));
    if (name == kParts[kQuantized]) text += fmt::format(" ({:.2f} bits per weight)", bits);
    if (name == kParts[kEmbedding] || name == kParts[kHead]) text += fmt::format(" ({:.0f} bits)", bits);
    texts.push_back(text);
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

std::string size_reason(std::span<const PartRecord> parts) {
  double bytes = 0;
  double source = 0;
  for (const PartRecord& part : parts) {
    bytes += static_cast<double>(part.bytes);
    source += static_cast<double>(part.source_bytes);
  }
  std::vector<std::string> grown;
  std::vector<std::string> large;
  std::string chosen;  // what is large because the options say so
  for (const PartRecord& part : parts) {
    const std::string& name = part.name;
    const uint64_t size = bytes_of(part.bytes);
    const uint64_t before = bytes_of(part.source_bytes);
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
