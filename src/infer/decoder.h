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
  MatmulPrecision precision = MatmulPrecision::kF32;
  bool codes = false;  // linears that are stored as codes stay so and are multiplied with activations in 8 bits
  KvType cache = KvType::kF32;  // of the keys and values
  // Bytes of prepared weights to keep (prepared_bytes()). The blocks that do not fit are loaded again for each call of
  // run().
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

  // Tokens that a sequence holds.
  int64_t length(int64_t sequence) const noexcept { return cache_->length(0, sequence); }
  // Whether a sequence can go back to its first `length` tokens: layers with a sliding window may have given back what
  // the next token needs, and with a rotation that follows the length earlier keys would be of another length.
  bool can_truncate(int64_t sequence, int64_t length) const;
  // Forgets all but the first `length` tokens of a sequence. ArgumentError where can_truncate() is false.
  void truncate(int64_t sequence, int64_t length);
  // Makes the first `length` tokens of a sequence those of another, which forgets its own. No state is copied but those
  // of a page that is not full. ArgumentError where can_truncate() is false.
  void fork(int64_t from, int64_t to, int64_t length);
  // How many tokens a sequence may have from here on. What is held stays.
  void set_capacity(int64_t capacity);
  // Forgets all sequences, gives their memory back and sets a new capacity, and where `sequences` > 0 a new number of
  // them.
  void reset(int64_t capacity, int64_t sequences = 0);

  int64_t resident_layers() const noexcept { return static_cast<int64_t>(blocks_.size()); }

  // Bytes of the cache when all sequences are as long as they may be.
  static uint64_t cache_bytes(const ModelSource& source, KvType cache, int64_t sequences, int64_t capacity);

 private:
  const ModelSource& source_;
  DecoderOptions options_;
  BlockForward forward_;
  std::vector<std::shared_ptr<const PreparedBlock>> blocks_;  // the first layers
  std::unique_ptr<KvCache> cache_;
};

// Appends the tokens of a prompt, at least one, to a sequence of the decoder, in pieces of bounded memory. states:
// of the last piece, whose last row is that of the last token. Returns false when interrupt_asked() stopped it.
bool read_prompt(Decoder& decoder, std::span<const int32_t> tokens, Matrix& states, int64_t sequence = 0);

}  // namespace metal_marlin
