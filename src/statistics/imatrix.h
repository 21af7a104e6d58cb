// llama.cpp's importance matrix (tools/imatrix): a GGUF file with the sums of the squares of each linear's inputs.
//   general.type = "imatrix", imatrix.datasets (array of string), imatrix.chunk_count, imatrix.chunk_size (u32)
//   NAME.in_sum2  F32 [1, K], NAME.counts F32 [1, 1]    of NAME = "blk.0.attn_q.weight" and so on
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/values.h"

namespace metal_marlin {

// "imatrix.gguf": by the ending alone, as options tell files apart.
bool is_imatrix_name(const std::string& path);
// Whether the file is one.
bool is_imatrix(const std::string& path);

// Such a file as the statistics of a model, which it must name the linears of. What it does not say is taken for what
// is likest: mean and max of |x| are the root of the mean square, and inputs do not go together.
class ImatrixFile {
 public:
  // FormatError naming file and tensor for a linear that is missing, another number of inputs, a count that is none,
  // and sums that are negative or not finite.
  ImatrixFile(const std::string& path, const ModelSource& source);
  const std::string& path() const noexcept { return path_; }
  uint64_t tokens(int64_t layer, LinearInput input) const { return find(layer, input).tokens; }
  // With a Gram matrix that has its diagonal alone.
  ActivationStats load(int64_t layer, LinearInput input) const;
  const std::vector<std::string>& datasets() const noexcept { return datasets_; }

 private:
  struct Input {
    std::vector<float> mean_squares;
    uint64_t tokens = 0;
  };
  const Input& find(int64_t layer, LinearInput input) const { return inputs_.at({layer, static_cast<int>(input)}); }

  std::string path_;
  std::map<std::pair<int64_t, int>, Input> inputs_;
  std::vector<std::string> datasets_;
};

// Of all layers. Memory: K floats for each input of each layer.
class ImatrixWriter {
 public:
  explicit ImatrixWriter(const ModelSource& source) : source_(source) {}
  void add(int64_t layer, const std::array<ActivationStats, kLinearInputs>& stats);
  // Every layer must have been added. datasets: names of the texts. Errors of the file.
  void write(const std::string& path, const std::vector<std::string>& datasets, int64_t chunks,
             int64_t chunk_tokens) const;

 private:
  struct Input {
    std::vector<float> sums;
    float tokens = 0;
  };
  const ModelSource& source_;
  std::map<std::pair<int64_t, int>, Input> inputs_;
};

}  // namespace metal_marlin
