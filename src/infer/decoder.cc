#include "infer/decoder.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "checkpoint/model_source.h"
#include "core/counted.h"
#include "core/interrupt.h"
#include "model/model.h"
#include "model/prepared_block.h"

namespace metal_marlin {

uint64_t Decoder::cache_bytes(const ModelSource& source, KvType cache, int64_t sequences, int64_t capacity) {
  return KvCache::most_bytes(source.config(), sequences, capacity, cache);
}

Decoder::Decoder(const ModelSource& source, const DecoderOptions& options,
                 const std::function<void(int64_t done, int64_t total)>& progress)
    : source_(source), options_(options), forward_(source.family(), source.config(), options.precision) {
  reset(options.capacity);
  int64_t resident = 0;
  uint64_t left = options.weight_bytes;
  while (resident < source.config().num_hidden_layers) {
    const uint64_t bytes = prepared_bytes(source, resident, options.precision, options.codes);
    if (bytes > left) break;
    left -= bytes;
    ++resident;
  }
  for (int64_t layer = 0; layer < resident; ++layer) {
    if (progress) progress(layer, resident);
    blocks_.push_back(load_prepared_block(source, layer, forward_.precision(), options_.codes));
  }
}

Decoder::~Decoder() = default;

void Decoder::reset(int64_t capacity, int64_t sequences) {
  if (sequences > 0) options_.sequences = sequences;
  options_.capacity = capacity;
  cache_.reset();  // frees the old memory before the new is allocated
  cache_ = std::make_unique<KvCache>(source_.config(), options_.sequences, capacity, options_.cache);
}

void Decoder::fork(int64_t from, int64_t to, int64_t length) {
  cache_->fork(from, to, length);
}

void Decoder::set_capacity(int64_t capacity) {
  options_.capacity = capacity;
  cache_->set_capacity(capacity);
}

bool Decoder::can_truncate(int64_t sequence, int64_t length) const {
  if (length == 0) return true;
  const RopeType rope = source_.config().rope.type;
  if (rope == RopeType::kDynamic || rope == RopeType::kLongrope) return false;
  return cache_->can_truncate(sequence, length);
}

void Decoder::truncate(int64_t sequence, int64_t length) {
  if (sequence < 0 || sequence >= options_.sequences || length < 0) {
    throw ArgumentError(fmt::format("sequence {} cut to {}: expected 0..{} and a length >= 0", sequence,
                                    counted(length, "token"), options_.sequences - 1));
  }
  cache_->truncate(sequence, length);
}

void Decoder::run(std::span<const int32_t> ids, std::span<const int64_t> lengths, Matrix& states) {
  for (size_t i = 0; i < lengths.size() && i < static_cast<size_t>(options_.sequences); ++i) {
    const int64_t held = cache_->length(0, static_cast<int64_t>(i));
    if (lengths[i] > options_.capacity - held) {
      throw ArgumentError(fmt::format("sequence {}: {} after {} exceed the context of {}", i,
                                      counted(lengths[i], "token"), held, options_.capacity));
    }
  }
  const auto rows = static_cast<int64_t>(ids.size());
  const int64_t hidden = source_.config().hidden_size;
  if (states.rows() != rows || states.cols() != hidden) states = Matrix(rows, hidden);
  embed(source_, ids, states);
  constexpr int64_t kManyRows = 16;  // a layer of so many may take long
  for (int64_t layer = 0; layer < source_.config().num_hidden_layers; ++layer) {
    if (rows >= kManyRows && interrupt_asked()) throw Interrupted("stopped while the prompt was read");
    if (layer < resident_layers()) {
      forward_.run(layer, *blocks_[static_cast<size_t>(layer)], states, lengths, {}, cache_.get());
    } else {
      // Blocks that are not kept are prepared too, so that the results do not depend on which blocks are kept.
      const auto block = load_prepared_block(source_, layer, forward_.precision(), options_.codes);
      forward_.run(layer, *block, states, lengths, {}, cache_.get());
    }
  }
}

bool read_prompt(Decoder& decoder, std::span<const int32_t> tokens, Matrix& states, int64_t sequence) {
  constexpr size_t kRows = 256;
  for (size_t first = 0; first < tokens.size(); first += kRows) {
    if (interrupt_asked()) return false;
    const auto piece = tokens.subspan(first, std::min(kRows, tokens.size() - first));
    std::vector<int64_t> rows(static_cast<size_t>(sequence) + 1, 0);
    rows.back() = static_cast<int64_t>(piece.size());
    try {
      decoder.run(piece, rows, states);
    } catch (const Interrupted&) {
      return false;
    }
  }
  return true;
}

}  // namespace metal_marlin
