// Activation statistics in an .npz, raw activations, or llama.cpp's imatrix (imatrix.h) in a .gguf.
//
// Statistics (written by `calibrate`), per layer i and input t (qkv, o, gate_up, down), prefix = "layers.{i}.{t}.":
//   prefix + mean, max, rms  f32 [K];  prefix + tokens  u64 [1];  prefix + gram  f32 [K, K] (optional)
//   prefix + first  f32 [sequences, K] (optional): the input of each sequence's first token
// and, once per file, the model that they were made from (model_identity.h) and the text: "metal_marlin.calibration",
// u8 [n], is the JSON text of an object as report.json has it under "calibration". Raw activations: one array per
// weight, key = the tensor's name with or without ".weight", f32 (or any float or integer type) [batch, seq, K] or
// [tokens, K]. Linears that share an input need one array only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <metal_marlin/text_records.h>

#include "checkpoint/model_source.h"
#include "core/values.h"
#include "formats/npz.h"
#include "statistics/imatrix.h"

namespace metal_marlin {

class StatsFile {
 public:
  // Checks that every input of every layer is there with the right width, before any work; FormatError names file and
  // key. Statistics that name their model must be of `source`; FormatError names both. With gram false, statistics may
  // lack their Gram matrices. An array of more than `held_limit` bytes that must be held whole (0: the machine's
  // memory) is refused where it is read: raw activations in column order are such.
  StatsFile(const std::string& path, const ModelSource& source, bool gram = true, uint64_t held_limit = 0);
  // Returns the statistics of a layer's four inputs, Gram matrices included. Computes them in batches of rows where the
  // file holds raw activations. Throws FormatError naming file and key for wrong shapes or types, and NumericError for
  // NaN or Inf.
  std::array<ActivationStats, kLinearInputs> load(int64_t layer) const;
  const std::string& path() const noexcept { return path_; }
  // Whether its Gram matrices have their diagonal alone, as those of an imatrix.
  bool diagonal() const noexcept { return imatrix_.has_value(); }
  bool raw() const noexcept { return raw_; }
  // Whether load() fills first_rows of every input. It does for statistics that hold them and for raw activations of
  // three dimensions.
  bool first_rows() const noexcept { return first_rows_; }
  // Tokens from which the statistics of the first layer's first input were made, or rows of its raw activations.
  uint64_t tokens() const noexcept { return tokens_; }
  // The same of any layer and input.
  uint64_t tokens(int64_t layer, LinearInput input) const;
  // From which text the statistics were made; empty where the file does not say it.
  const std::optional<TextRecord>& calibration() const noexcept { return calibration_; }

 private:
  // Key of the raw activations of an input, or empty.
  std::string raw_key(int64_t layer, LinearInput input) const;
  int64_t features(LinearInput input) const;
  uint64_t read_tokens(const std::string& key) const;
  void read_calibration();

  std::string path_;
  std::optional<NpzFile> file_;
  std::optional<ImatrixFile> imatrix_;  // in place of it
  const ModelSource& source_;
  bool raw_ = false;
  bool first_rows_ = true;
  uint64_t tokens_ = 0;
  std::optional<TextRecord> calibration_;
};

// The array "metal_marlin.calibration".
OwnedTensor calibration_array(const TextRecord& text);

// The arrays of one layer's statistics under the names above.
std::vector<OwnedTensor> stats_arrays(int64_t layer, const std::array<ActivationStats, kLinearInputs>& stats);

}  // namespace metal_marlin
