#include "model/state_store.h"

#include <cstring>

#include "checkpoint/model_source.h"
#include "core/files/atomic_file.h"
#include "model/model.h"

namespace metal_marlin {

StateStore::StateStore(const std::vector<int64_t>& lengths, int64_t hidden, const std::string& scratch,
                       int64_t batch_tokens)
    : hidden_(hidden), path_(scratch) {
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (batches_.empty() || batches_.back().rows + lengths[i] > batch_tokens) {
      batches_.push_back({static_cast<int64_t>(i), rows_, 0, {}});
    }
    batches_.back().rows += lengths[i];
    batches_.back().lengths.push_back(lengths[i]);
    rows_ += lengths[i];
  }
  if (scratch.empty()) {
    memory_ = Matrix(rows_, hidden_);
    return;
  }
  fd_ = open_scratch_file(scratch);
  reserve_file(fd_, static_cast<uint64_t>(rows_ * hidden_) * sizeof(float), path_ + " (scratch file)");
}

void StateStore::read_rows(int64_t first, int64_t count, float* out) const {
  const size_t bytes = static_cast<size_t>(count * hidden_) * sizeof(float);
  if (fd_) {
    read_at(fd_, out, bytes, static_cast<uint64_t>(first * hidden_) * sizeof(float), path_ + " (scratch file)");
  } else if (bytes > 0) {
    std::memcpy(out, memory_.data() + first * hidden_, bytes);
  }
}

void StateStore::write_rows(int64_t first, int64_t count, const float* in) {
  const size_t bytes = static_cast<size_t>(count * hidden_) * sizeof(float);
  if (fd_) {
    write_at(fd_, in, bytes, static_cast<uint64_t>(first * hidden_) * sizeof(float), path_ + " (scratch file)");
  } else if (bytes > 0) {
    std::memcpy(memory_.data() + first * hidden_, in, bytes);
  }
}

Matrix StateStore::read(const Batch& batch) const {
  Matrix m(batch.rows, hidden_);
  read_rows(batch.first_row, batch.rows, m.data());
  return m;
}

void embed_sequences(const ModelSource& source, const TokenSet& set, StateStore& store) {
  for (const auto& batch : store.batches()) {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < batch.lengths.size(); ++i) {
      const auto& sequence = set.sequences[static_cast<size_t>(batch.first_sequence) + i];
      ids.insert(ids.end(), sequence.begin(), sequence.end());
    }
    Matrix m(batch.rows, store.hidden());
    embed(source, ids, m);
    store.write(batch, m);
  }
  source.release(source.family().embedding);
}

}  // namespace metal_marlin
