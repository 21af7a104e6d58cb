// Writes a quantized checkpoint as a folder that other programs load: weights, config.json, tokenizer files, model
// card.
//
// Weights are streamed. The header is laid out from the plan; then each tensor is requested when its turn comes, so
// that about one tensor is in memory at a time. Every file appears whole or not at all (temporary file, fsync, rename),
// and config.json, without which no reader accepts a folder, comes last.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "formats/safetensors.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

class ModelSource;

// A linear's weight that is stored as codes. Families that fuse linears in one tensor have one entry for the tensor.
struct QuantizedLinear {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;  // never -1, as in QuantizedTensor
  std::string folded;  // module that took the per-input-channel scale, "model.layers.0.input_layernorm"; empty: none
  int bits = 4;        // of a code
};

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

struct CheckpointPlan {
  int64_t group_size = 128;  // -1: the whole row
  bool symmetric = true;
  int bits = 4;  // of most linears
  std::vector<QuantizedLinear> quantized;
  std::vector<ChangedTensor> changed;
  std::vector<SkippedTensor> skipped;        // linears left in 16 bits, with the reason; passed through to the report
  uint64_t max_shard_bytes = 5'000'000'000;  // of tensor data in one file; a linear's parts are never split
  uint64_t held_bytes = 64u << 20;           // of packed parts kept in memory until their turn in the file, beside
                                             // those of the linear at hand
  uint64_t whole_bytes = 64u << 20;          // larger unchanged tensors (embedding, head) pass by runs of rows
  bool act_order = false;                    // some linear's groups are in act order (for GPTQ's config)
  bool keep_types = false;                   // GPTQ: other tensors keep their type instead of becoming float16
  bool chat_template = false;                // the model has one; write() fills it in
  std::string head;                          // module of the head, "lm_head"; write() fills it in
  std::string base_model;                    // for the model card: "org/name"; empty: what the source's path tells
  std::string method;                        // for the model card: "awq-paper", ...
  std::string calibration;          // for the model card: a sentence on the text of the statistics; empty: not stated
  std::string converted_from;       // for the model card: the format that this was converted from; empty: none
  std::string evaluation;           // for the model card: on which text the figures were measured; empty: on none
  std::string figures_json = "{}";  // for the model card: an object of numbers, strings and such objects
};

// Gives the new values, in the order of the file. A linear is requested once, or again where its other parts exceeded
// CheckpointPlan::held_bytes and were not kept. It must then return the same values.
class TensorProvider {
 public:
  virtual ~TensorProvider() = default;
  virtual QuantizedTensor quantized(const std::string& name) = 0;
  virtual OwnedTensor changed(const std::string& name) = 0;
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
  std::vector<std::string> narrowed;  // copied tensors of float32 that are written in 16 bits, whether they lose any

  uint64_t total_bytes() const noexcept;  // of the files
};

// Called before each tensor with the number written and the number in all; may throw to stop.
using WriteProgress = std::function<void(int64_t done, int64_t total)>;

class CheckpointWriter {
 public:
  // `format` is one of checkpoint_formats(), or "f16", a checkpoint without codes. Throws ArgumentError for another
  // name.
  static std::unique_ptr<CheckpointWriter> create(const std::string& format);
  virtual ~CheckpointWriter() = default;

  virtual const char* format() const noexcept = 0;
  // Returns why a linear of this shape and width cannot be stored in the format, for the list of skipped linears.
  // Empty: it can.
  virtual std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int bits) const = 0;
  // Returns why no linear of this grid can be stored in the format, e.g. "has no zero points". Empty: it can. The base
  // class checks only widths().
  virtual std::string refusal_of(const Grid& grid) const;
  virtual std::span<const int> widths() const noexcept = 0;  // bits of a code
  // Whether all linears that are not left in 16 bits share one grid.
  virtual bool one_grid() const noexcept { return false; }
  // The smallest groups to choose where the caller gave no size: kernels for the format commonly have no smaller ones.
  virtual int64_t least_group() const noexcept { return 16; }
  // The least zero that the format can hold.
  virtual int least_zero() const noexcept { return 0; }

  // Writes into `folder`, which is made when missing. An older checkpoint there stops being loadable at once, because
  // its config.json is removed first; its weights are removed when the new ones are complete. After an error the files
  // written so far stay, each of them whole, without config.json. Throws ArgumentError when the plan names what the
  // source lacks, when the format refuses a shape or cannot express the groups, when the provider's tensors differ from
  // the plan, and when `folder` is the source's own; NumericError for a NaN on the way to float16; SystemError for the
  // machine.
  WriteReport write(const ModelSource& source, const CheckpointPlan& plan, TensorProvider& provider,
                    const std::string& folder, const WriteProgress& progress = {}) const;
  // What write() would report of sizes and numbers of weights, without files. The same ArgumentErrors for the plan.
  WriteReport forecast(const ModelSource& source, const CheckpointPlan& plan) const;

 protected:
  // Returns the parts of a linear with the shapes that pack() will give them. Their names are as in PackedTensor.
  virtual std::vector<TensorInfo> parts(const QuantizedLinear& linear) const = 0;
  virtual PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const = 0;
  // Returns the type in which a float tensor of type `stored` is written.
  virtual DType kept_type(DType stored, const CheckpointPlan& plan) const = 0;
  virtual std::string weights_suffix() const = 0;  // ".safetensors"
  virtual std::map<std::string, std::string> metadata(const CheckpointPlan& plan) const = 0;
  // Checks the plan as a whole (what refusal() cannot see).
  virtual void check(const CheckpointPlan& plan) const = 0;
  // Sets quantization_config and the keys that belong to it.
  virtual void configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                         nlohmann::json& config) const = 0;
  // Returns the files that go beside config.json, made from the finished config: name -> content.
  virtual std::map<std::string, std::string> more_files(const nlohmann::json&) const { return {}; }

 private:
  struct Job;
};

// The formats of quantized checkpoints: "native", "awq", "gptq", "gptq_v2", "marlin".
const std::vector<std::string>& checkpoint_formats();

// Throws ArgumentError when `folder` is the one from which the model is read.
void refuse_own_folder(const ModelSource& source, const std::string& folder);

// Returns "model.layers.0.mlp.up_proj" for "model.layers.0.mlp.up_proj.weight". Throws ArgumentError for a name without
// ".weight".
std::string module_name(const std::string& weight);

}  // namespace metal_marlin
