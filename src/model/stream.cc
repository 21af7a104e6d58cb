#include "model/stream.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <utility>

#include "checkpoint/model_source.h"
#include "core/counted.h"
#include "model/model.h"
#include "model/prepared_block.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {

Stream::Stream(const ModelSource& source, std::vector<int64_t> lengths, const StreamOptions& options)
    : source_(source),
      lengths_(std::move(lengths)),
      options_(options),
      states_(lengths_, source.config().hidden_size, options.scratch, options.batch_tokens, options.lanes) {
  free_scratch();
}

void Stream::free_scratch() {
  forward_.reset();
  forward_ = std::make_unique<BlockForward>(source_.family(), source_.config(), options_.precision);
}

void Stream::embed(const TokenSet& set, int64_t lane) {
  if (set.lengths() != lengths_) {
    throw ArgumentError(fmt::format("stream: expected {} with {}, found {} with {}, or of other lengths",
                                    counted(lengths_.size(), "sequence"), counted(rows(), "token"),
                                    counted(set.sequences.size(), "sequence"), set.tokens()));
  }
  for (const StateStore::Batch& batch : states_.batches()) {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < batch.lengths.size(); ++i) {
      const auto& sequence = set.sequences[static_cast<size_t>(batch.first_sequence) + i];
      ids.insert(ids.end(), sequence.begin(), sequence.end());
    }
    Matrix m;
    metal_marlin::embed(source_, ids, m, options_.embedding);
    states_.write(batch, m, lane);
  }
  source_.release(source_.family().embedding);
}

template <class AnyBlock>
double Stream::pass_batches(int64_t layer, const AnyBlock& block, const InputHook& hook, Lanes lanes) {
  double operations = 0;
  for (const StateStore::Batch& batch : states_.batches()) {
    Matrix m = states_.read(batch, lanes.from);
    forward_->run(layer, block, m, batch.lengths, hook);
    states_.write(batch, m, lanes.to);
    operations += forward_->operations(layer, batch.lengths);
  }
  return operations;
}

double Stream::pass(int64_t layer, const Block& block, const InputHook& hook, Lanes lanes) {
  return pass_batches(layer, block, hook, lanes);
}

double Stream::pass(int64_t layer, const PreparedBlock& block, const InputHook& hook, Lanes lanes) {
  return pass_batches(layer, block, hook, lanes);
}

double Stream::pass_source(int64_t layer, const InputHook& hook) {
  const double operations = options_.codes ? pass(layer, *load_prepared_block(source_, layer, precision(), true), hook)
                                           : pass(layer, load_block(source_, layer), hook);
  release_linears(source_, layer);
  return operations;
}

TensorView Stream::saved(const std::string& name) const {
  return {name, DType::kF32, {rows(), hidden()}, std::as_bytes(states_.in_memory())};
}

bool Stream::restore(const OwnedTensor& states) {
  if (states.dtype != DType::kF32 || states.shape != std::vector<int64_t>{rows(), hidden()}) return false;
  write_rows(0, rows(), reinterpret_cast<const float*>(states.bytes.data()));
  return true;
}

void release_linears(const ModelSource& source, int64_t layer) {
  for (const LinearSlot& slot : source.linears(layer)) source.release(slot.weight);
}

}  // namespace metal_marlin
