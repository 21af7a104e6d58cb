// The hidden states of a set of sequences on their way through the blocks of a model, one block after the other. Every
// stage that runs a whole model over texts does it with this class.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "model/block.h"
#include "model/row_rounding.h"
#include "model/state_store.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {

class ModelSource;
struct TokenSet;

struct StreamOptions {
  MatmulPrecision precision = MatmulPrecision::kF32;
  // Path whose folder gets the scratch file of the states (StateStore); empty: they are held in memory.
  std::string scratch;
  // States of the same sequences that are held side by side, for models that differ in single blocks.
  int64_t lanes = 1;
  // Rows of a batch (StateStore), which passes through a block at once.
  int64_t batch_tokens = BlockForward::kBatchTokens;
  // pass_source(): linears that are stored as codes stay so (load_prepared_block()).
  bool codes = false;
  RowRounding embedding;  // embed()
};

// A pass reads the states of one lane and writes those of another, or of the same.
struct Lanes {
  int64_t from = 0;
  int64_t to = 0;
};

// Not thread-safe. Cost of a pass: one forward of the block, and one read and one write of the states.
class Stream {
 public:
  // `lengths`: tokens of each sequence. `source` must outlive the stream. SystemError when there is no room for the
  // scratch file.
  Stream(const ModelSource& source, std::vector<int64_t> lengths, const StreamOptions& options = {});

  // Sets the states of a lane to the embedding of the tokens of `set`. ArgumentError when its sequences have other
  // lengths, or for a token outside the vocabulary.
  void embed(const TokenSet& set, int64_t lane = 0);
  // Passes the states through a block. Returns the floating-point operations (BlockForward::operations). The hook sees
  // every linear input of every batch, in increasing order of rows. Errors as BlockForward::run, and those of the hook:
  // then some batches have passed and others have not.
  double pass(int64_t layer, const Block& block, const InputHook& hook = {}, Lanes lanes = {});
  double pass(int64_t layer, const PreparedBlock& block, const InputHook& hook = {}, Lanes lanes = {});
  // The same with the source's own block, which is loaded, and released afterwards. Errors as load_block().
  double pass_source(int64_t layer, const InputHook& hook = {});
  // Frees the scratch memory of the forward pass, which the stream keeps from one pass to the next. For stages that
  // need the memory in between.
  void free_scratch();
  // A block that several lanes pass through.
  std::shared_ptr<const PreparedBlock> prepare(const Block& block) const { return forward_->prepare(block); }

  // What is used: kF32 where the machine has no products in bf16.
  MatmulPrecision precision() const noexcept { return forward_->precision(); }
  const std::vector<int64_t>& lengths() const noexcept { return lengths_; }
  int64_t rows() const noexcept { return states_.rows(); }  // of a lane
  int64_t hidden() const noexcept { return states_.hidden(); }
  void read_rows(int64_t first, int64_t count, float* out, int64_t lane = 0) const {
    states_.read_rows(first, count, out, lane);
  }
  void write_rows(int64_t first, int64_t count, const float* in, int64_t lane = 0) {
    states_.write_rows(first, count, in, lane);
  }

  // The states of a stream in memory with one lane as a tensor [rows, hidden], without a copy: valid until the next
  // pass.
  TensorView saved(const std::string& name) const;
  // Takes states that saved() gave. False, and nothing is taken, when they are of another type or shape.
  bool restore(const OwnedTensor& states);

 private:
  template <class AnyBlock>
  double pass_batches(int64_t layer, const AnyBlock& block, const InputHook& hook, Lanes lanes);

  const ModelSource& source_;
  std::vector<int64_t> lengths_;
  StreamOptions options_;
  StateStore states_;
  std::unique_ptr<BlockForward> forward_;
};

// Tells the source that the weights of the layer's linears are not needed for now (ModelSource::release).
void release_linears(const ModelSource& source, int64_t layer);

}  // namespace metal_marlin
