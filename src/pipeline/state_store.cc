#include "pipeline/state_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "model/model.h"
#include "source/model_source.h"

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
  fd_ = open(scratch.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd_ < 0) throw SystemError(fmt::format("{}: cannot create the scratch file: {}", scratch, std::strerror(errno)));
  unlink(scratch.c_str());
  const int64_t bytes = rows_ * hidden_ * static_cast<int64_t>(sizeof(float));
  if (const int code = bytes > 0 ? posix_fallocate(fd_, 0, bytes) : 0; code != 0) {
    const std::string reason = std::strerror(code);
    close(fd_);
    throw SystemError(fmt::format("{}: cannot reserve {} MiB for the scratch file: {}", scratch, bytes >> 20, reason));
  }
}

StateStore::~StateStore() {
  if (fd_ >= 0) close(fd_);
}

void StateStore::read_rows(int64_t first, int64_t count, float* out) const {
  const size_t bytes = static_cast<size_t>(count * hidden_) * sizeof(float);
  if (fd_ < 0) {
    if (bytes > 0) std::memcpy(out, memory_.data() + first * hidden_, bytes);
    return;
  }
  for (size_t done = 0; done < bytes;) {
    const ssize_t n =
        pread(fd_, reinterpret_cast<char*>(out) + done, bytes - done, first * hidden_ * 4 + static_cast<off_t>(done));
    if (n <= 0) {
      if (n < 0 && errno == EINTR) continue;
      throw SystemError(fmt::format("{}: cannot read the scratch file: {}", path_, std::strerror(errno)));
    }
    done += static_cast<size_t>(n);
  }
}

void StateStore::write_rows(int64_t first, int64_t count, const float* in) {
  const size_t bytes = static_cast<size_t>(count * hidden_) * sizeof(float);
  if (fd_ < 0) {
    if (bytes > 0) std::memcpy(memory_.data() + first * hidden_, in, bytes);
    return;
  }
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = pwrite(fd_, reinterpret_cast<const char*>(in) + done, bytes - done,
                             first * hidden_ * 4 + static_cast<off_t>(done));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw SystemError(fmt::format("{}: cannot write the scratch file: {}", path_, std::strerror(errno)));
    }
    done += static_cast<size_t>(n);
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
