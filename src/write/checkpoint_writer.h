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
#include "write/checkpoint_plan.h"

namespace metal_marlin {

class ModelSource;

// Gives the new values, in the order of the file. A linear is requested once, or again where its other parts exceeded
// CheckpointPlan::held_bytes and were not kept. It must then return the same values.
class TensorProvider {
 public:
  virtual ~TensorProvider() = default;
  virtual QuantizedTensor quantized(const std::string& name) = 0;
  virtual OwnedTensor changed(const std::string& name) = 0;
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

// Throws ArgumentError when `folder` is the one from which the model is read.
void refuse_own_folder(const ModelSource& source, const std::string& folder);

// Returns "model.layers.0.mlp.up_proj" for "model.layers.0.mlp.up_proj.weight". Throws ArgumentError for a name without
// ".weight".
std::string module_name(const std::string& weight);

}  // namespace metal_marlin
