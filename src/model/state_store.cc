#include "model/state_store.h"

#include <cstring>

#include "core/files/atomic_file.h"

namespace metal_marlin {

StateStore::StateStore(const std::vector<int64_t>& lengths, int64_t hidden, const std::string& scratch,
                       int64_t batch_tokens, int64_t lanes)
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
    memory_ = Matrix(lanes * rows_, hidden_);
    return;
  }
  fd_ = open_scratch_file(scratch);
  reserve_file(fd_, static_cast<uint64_t>(lanes * rows_ * hidden_) * sizeof(float), path_ + " (scratch file)");
}

void StateStore::read_rows(int64_t first, int64_t count, float* out, int64_t lane) const {
  first += lane * rows_;
  const size_t bytes = static_cast<size_t>(count * hidden_) * sizeof(float);
  if (fd_) {
    read_at(fd_, out, bytes, static_cast<uint64_t>(first * hidden_) * sizeof(float), path_ + " (scratch file)");
  } else if (bytes > 0) {
    std::memcpy(out, memory_.data() + first * hidden_, bytes);
  }
}

void StateStore::write_rows(int64_t first, int64_t count, const float* in, int64_t lane) {
  first += lane * rows_;
  const size_t bytes = static_cast<size_t>(count * hidden_) * sizeof(float);
  if (fd_) {
    write_at(fd_, in, bytes, static_cast<uint64_t>(first * hidden_) * sizeof(float), path_ + " (scratch file)");
  } else if (bytes > 0) {
    std::memcpy(memory_.data() + first * hidden_, in, bytes);
  }
}

Matrix StateStore::read(const Batch& batch, int64_t lane) const {
  Matrix m(batch.rows, hidden_);
  read_rows(batch.first_row, batch.rows, m.data(), lane);
  return m;
}

}  // namespace metal_marlin
