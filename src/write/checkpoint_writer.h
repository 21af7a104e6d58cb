// Writes a quantized checkpoint as a folder that other programs load: weights, config.json, tokenizer files, model
// card; or a GGUF file, which holds the first three, and a model card.
//
// Weights are streamed. The header is laid out from the plan; then each tensor is requested when its turn comes, so
// that about one tensor is in memory at a time. Every file appears whole or not at all (temporary file, fsync, rename),
// and config.json, without which no reader accepts a folder, comes last.
#pragma once

#include <string>

#include "layouts/layouts.h"
#include "write/checkpoint_plan.h"
#include "write/tensor_provider.h"

namespace metal_marlin {

class ModelSource;

class CheckpointWriter {
 public:
  explicit CheckpointWriter(const Layout& layout) : layout_(layout) {}
  // Of one of checkpoint_formats(), or "f16". Throws ArgumentError for another name.
  static CheckpointWriter of(const std::string& format) { return CheckpointWriter(layout_named(format)); }

  const Layout& layout() const noexcept { return layout_; }

  // Writes into `folder`, which is made when missing. An older checkpoint there stops being loadable at once, because
  // its config.json is removed first; its weights are removed when the new ones are complete. After an error the files
  // written so far stay, each of them whole, without config.json. Throws ArgumentError when the plan names what the
  // source lacks, when the layout refuses a shape or cannot express the groups, when the provider's tensors differ from
  // the plan, and when `folder` is the source's own; NumericError for a NaN on the way to float16; SystemError for the
  // machine.
  WriteReport write(const ModelSource& source, const CheckpointPlan& plan, TensorProvider& provider,
                    const std::string& folder, const WriteProgress& progress = {}) const;
  // The errors of write() that depend on the source and the layout alone, such as a tokenizer that GGUF cannot say.
  void require_writable(const ModelSource& source) const;
  // What write() would report of sizes and numbers of weights, without files. The same ArgumentErrors for the plan.
  WriteReport forecast(const ModelSource& source, const CheckpointPlan& plan) const;

 private:
  const Layout& layout_;
};

// Throws ArgumentError when `folder` is the one from which the model is read.
void refuse_own_folder(const ModelSource& source, const std::string& folder);

}  // namespace metal_marlin
