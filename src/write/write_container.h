// The files of a checkpoint: shards of safetensors beside config.json and the tokenizer (safetensors_container.cc), or
// GGUF, which holds all of that itself (gguf_container.cc).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "write/write_job.h"

namespace metal_marlin {

class WriteContainer {
 public:
  explicit WriteContainer(WriteJob& job) : job_(job) {}
  virtual ~WriteContainer() = default;
  WriteContainer(const WriteContainer&) = delete;
  WriteContainer& operator=(const WriteContainer&) = delete;

  // What cannot be written although the layout could; called first, before anything is. UnsupportedError,
  // ArgumentError.
  virtual void check() {}
  // All tensors of the source, as plan_items() lays them out.
  std::vector<WriteItem> plan();
  // Makes an older checkpoint in the folder impossible to load.
  virtual void disable_older(const Folder& place) const = 0;
  // All tensors. Weights of an older checkpoint in the folder are removed when the new ones are complete.
  virtual void write_weights(std::vector<WriteItem> items) = 0;
  // The files beside the weights, from the model card on; what readers look for first comes last.
  virtual void write_rest() = 0;

 protected:
  // Sets the tensors of an item that is not quantized.
  virtual void plan_floats(WriteItem& item) const = 0;
  // Writes README.md.
  void write_card();

  WriteJob& job_;
};

std::unique_ptr<WriteContainer> make_safetensors_container(WriteJob& job);
std::unique_ptr<WriteContainer> make_gguf_container(WriteJob& job);
// That of the job's layout.
std::unique_ptr<WriteContainer> make_container(WriteJob& job);

}  // namespace metal_marlin
