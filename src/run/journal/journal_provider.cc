#include "run/journal/journal_provider.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <utility>

#include "run/journal/journal_tensors.h"

namespace metal_marlin {

JournalProvider::JournalProvider(std::function<FinishedBlock(int64_t)> read, std::map<std::string, int64_t> layers)
    : read_(std::move(read)), layers_(std::move(layers)) {}

QuantizedTensor JournalProvider::quantized(const std::string& name) {
  fetch(name);
  return block_.quantized.at(name);
}

BlockTensor JournalProvider::blocks(const std::string& name) {
  fetch(name);
  return block_.blocks.at(name);
}

OwnedTensor JournalProvider::changed(const std::string& name) {
  fetch(name);
  for (const OwnedTensor& t : block_.changed) {
    if (t.name == name) return copy_of(t.view());
  }
  throw FormatError(fmt::format("{}: missing in the interrupted run; run again with --no-resume", name));
}

void JournalProvider::fetch(const std::string& name) {
  const int64_t layer = layers_.at(name);
  if (layer == loaded_) return;
  block_ = read_(layer);
  loaded_ = layer;
}

}  // namespace metal_marlin
