// What is to be written as a checkpoint, and what was.
#pragma once

#include <metal_marlin/report_records.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "layouts/layout_plan.h"
#include "write/outer_types.h"

namespace metal_marlin {

// A tensor whose values differ from the source's: a norm, a bias, or a weight left in 16 bits, into which scales were
// folded. It has the source's shape.
struct ChangedTensor {
  std::string name;
  DType dtype = DType::kF16;  // of what TensorProvider::changed() delivers
};

struct SkippedTensor {
  std::string name;
  std::string reason;
  uint64_t bytes = 0;  // in the file; write() fills it in
};

struct CheckpointPlan : LayoutPlan {
  std::vector<ChangedTensor> changed;
  std::vector<SkippedTensor> skipped;        // linears left in 16 bits, with the reason; passed through to the report
  OuterTypes outer;                          // of embedding and head
  uint64_t max_shard_bytes = 5'000'000'000;  // of tensor data in one file; a linear's parts are never split
  uint64_t held_bytes = 64u << 20;           // of packed parts kept in memory until their turn in the file, beside
                                             // those of the linear at hand
  uint64_t whole_bytes = 64u << 20;          // larger unchanged tensors (embedding, head) pass by runs of rows
  bool chat_template = false;                // the model has one; write() fills it in
  std::string base_model;                    // for the model card: "org/name"; empty: what the source's path tells
  std::string method;                        // for the model card: "awq-paper", ...
  std::string calibration;     // for the model card: a sentence on the text of the statistics; empty: not stated
  std::string converted_from;  // for the model card: the format that this was converted from; empty: none
  std::string evaluation;      // for the model card: on which text the figures were measured; empty: on none
  EvaluationRecord figures;    // for the model card: what is empty in it, or 0, is not stated
};

struct WrittenFile {
  std::string name;
  uint64_t bytes = 0;
};

// A tensor that lost values on the way to float16.
struct ClampedTensor {
  std::string name;
  uint64_t clamped = 0;  // values beyond +-65504, written as +-65504
  uint64_t flushed = 0;  // values that became zero
  double largest = 0;    // largest magnitude before
};

struct WriteReport {
  std::vector<WrittenFile> files;  // in the order in which they were written
  uint64_t quantized_bytes = 0;    // of quantized linears: codes, scales, zeros
  uint64_t kept_bytes = 0;         // of all other tensors
  uint64_t quantized_weights = 0;  // number of weights stored as codes
  uint64_t kept_weights = 0;
  double bits_per_weight = 0;            // 8 (quantized_bytes + kept_bytes) / all weights
  std::map<std::string, uint64_t> kept;  // bytes of each tensor that is not quantized
  std::vector<ClampedTensor> clamped;
  std::vector<SkippedTensor> skipped;
  std::vector<std::string> rounded;   // copied tensors of float32 that lost bits on the way to 16
  std::vector<std::string> warnings;  // what the container cannot say
  std::vector<std::string> narrowed;  // copied tensors of float32 that are written in 16 bits, whether they lose any

  uint64_t total_bytes() const noexcept;  // of the files
};

}  // namespace metal_marlin
