// A model whose blocks stay prepared in memory, with a cache of keys and values. It computes the next states of many
// sequences.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "model/block.h"
#include "model/kv_cache.h"

namespace metal_marlin {

class ModelSource;
class PreparedBlock;

struct DecoderOptions {
  int64_t sequences = 1;
  int64_t capacity = 1;  // tokens of a sequence at most
  ComputeType precision = ComputeType::kF32;
  bool codes = false;  // linears that are stored as codes stay so and are multiplied with activations in 8 bits
  KvStorage cache = KvStorage::kF32;
  // Bytes of prepared weights to keep. The blocks that do not fit are loaded again for each call of run().
  uint64_t weight_bytes = ~uint64_t{0};
};

class Decoder {
 public:
  // The source must outlive this. `progress` is called before each block that is prepared and may throw.
  Decoder(const ModelSource& source, const DecoderOptions& options,
          const std::function<void(int64_t done, int64_t total)>& progress = {});
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Appends lengths[i] tokens to sequence i (0: none). ids holds the tokens of one sequence after another. states
  // [tokens, hidden] becomes the output of the last block, before the final norm. Throws ArgumentError when a sequence
  // would exceed the capacity or an id is not in the vocabulary.
  void run(std::span<const int32_t> ids, std::span<const int64_t> lengths, Matrix& states);

  // Forgets all but the first `length` tokens of a sequence.
  void truncate(int64_t sequence, int64_t length);
  // Forgets all sequences and sets a new capacity.
  void reset(int64_t capacity);

  int64_t resident_layers() const noexcept { return static_cast<int64_t>(blocks_.size()); }

  // Bytes of one prepared block's matrices, and of the cache.
  static uint64_t block_bytes(const ModelSource& source, ComputeType precision);
  static uint64_t cache_bytes(const ModelSource& source, KvStorage cache, int64_t sequences, int64_t capacity);

 private:
  const ModelSource& source_;
  DecoderOptions options_;
  BlockForward forward_;
  std::vector<std::shared_ptr<const PreparedBlock>> blocks_;  // the first layers
  std::unique_ptr<KvCache> cache_;
};

// Appends the tokens of a prompt, at least one, to the decoder's first sequence, in pieces of bounded memory. states:
// of the last piece, whose last row is that of the last token. Returns false when interrupt_asked() stopped it.
bool read_prompt(Decoder& decoder, std::span<const int32_t> tokens, Matrix& states);

}  // namespace metal_marlin
