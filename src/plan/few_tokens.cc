#include "plan/few_tokens.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <set>

#include "core/counted.h"
#include "recipe/tensor_plan.h"

namespace metal_marlin {
namespace {

// "model.layers.3.mlp.down_proj.weight" -> "down_proj".
std::string kind_of(const std::string& name) {
  const std::string module = name.substr(0, name.rfind(".weight"));
  return module.substr(module.rfind('.') + 1);
}

}  // namespace

FewTokens find_few_tokens(std::span<const LayerTensors> layers, const Recipe& recipe, const TokensOf& tokens_of,
                          int64_t sequence_length, bool selected) {
  FewTokens out;
  if (!needs_gram(recipe)) return out;
  std::vector<FewTokensRecord>& list = out.list;
  std::set<std::string> kinds;
  size_t linears = 0;
  int64_t widest = 0;
  uint64_t least = std::numeric_limits<uint64_t>::max();
  bool singular = false;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (const QuantizedWeight& w : layers[layer].quantized) {
      ++linears;
      const uint64_t tokens = tokens_of(static_cast<int64_t>(layer), input_of(w.slots.front().kind));
      const auto columns = static_cast<uint64_t>(w.columns);
      if (tokens / kLeastTokensPerChannel >= columns) continue;
      list.push_back({w.name, w.columns, static_cast<int64_t>(tokens)});
      kinds.insert(kind_of(w.name));
      widest = std::max(widest, w.columns);
      least = std::min(least, tokens);
      singular = singular || tokens < columns;
    }
  }
  if (list.empty()) return out;
  const int64_t enough = widest * kLeastTokensPerChannel;
  const std::string advice = sequence_length > 0 ? fmt::format("use --{} {}", selected ? "select" : "samples",
                                                               (enough + sequence_length - 1) / sequence_length)
                                                 : std::string("make the statistics of more text");
  out.warning =
      fmt::format("too little calibration text for {} of {} ({}): {}, {} needed{}; {}", list.size(),
                  counted(linears, "linear"), fmt::join(kinds, ", "), counted(least, "token"), enough,
                  singular ? "" : fmt::format(" ({} for each input channel)", kLeastTokensPerChannel), advice);
  return out;
}

}  // namespace metal_marlin
