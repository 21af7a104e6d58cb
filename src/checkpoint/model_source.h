// A checkpoint as lazily loaded named tensors + config + tokenizer: a Hugging Face folder, a .safetensors file next to
// its config.json, a .gguf file or the parts of one, or org/name in the Hugging Face cache. Names are always Hugging
// Face's. Quantized checkpoints (native, AWQ gemm, GPTQ, Marlin) are read too: their linears come as codes or
// dequantized.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/files/digest.h"
#include "core/tensor.h"
#include "core/values.h"
#include "families/config/model_config.h"
#include "families/family.h"
#include "kernels/codes/code_form.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

class GgufSet;
class Tokenizer;
class WeightMatrix;

// Where rows [first_row, first_row + rows) of a stored tensor hold one linear's weight.
struct LinearSlot {
  LinearKind kind;
  std::string weight;  // "model.layers.0.self_attn.qkv_proj.weight"
  int64_t first_row = 0;
  int64_t rows = 0;     // out_features of this linear
  int64_t columns = 0;  // in_features
  bool has_bias = false;
};

struct CheckpointTensor {
  std::string name;
  std::vector<int64_t> shape;  // logical: [out, in] also when stored in 4 bits
  std::string stored_as;       // "F16", "BF16", "Q4_K", "awq", "native", ...
  uint64_t bytes = 0;          // on disk, with scales and zeros
  std::string file;
  int bits = 0;            // of a code, where a 4-bit layout stores it; else 0
  int64_t group_size = 0;  // likewise; -1: the whole row
  std::string reason;      // of what is left out, where it is more than "no part of the language model"
};

// A linear as a 4-bit checkpoint stores it.
struct StoredCodes {
  QuantizedTensor tensor;
  std::vector<uint16_t> q_scale;  // f16 bits [in], of native checkpoints that keep one: the weight is divided by it
};

// A file that stands beside the weights and goes along with them into another checkpoint.
struct CompanionFile {
  std::string name;
  uint64_t bytes = 0;
  // Reads it. SystemError where it changed since the model was opened, which must still be open.
  std::function<std::string()> content;
};

class ModelSource {
 public:
  // Throws SystemError (not found: the message names the command that fetches org/name), FormatError, UnsupportedError.
  static std::unique_ptr<ModelSource> open(const std::string& model);
  virtual ~ModelSource() = default;

  const std::string& path() const noexcept { return path_; }  // resolved folder or file
  const Family& family() const noexcept { return *family_; }
  const ModelConfig& config() const noexcept { return config_; }
  // config.json as stored, or rebuilt from GGUF metadata. Without quantization_config when `plain`.
  const nlohmann::json& config_json() const noexcept { return *config_json_; }
  // "safetensors", "gguf"; "awq", "gptq", "gptq_v2", "marlin", "native": 4-bit linears in that layout
  std::string format() const { return format_; }
  bool quantized() const noexcept { return format_ != "safetensors" && format_ != "gguf"; }
  // What opening found that does not hinder, but that the user should know: files, config and tensors that contradict
  // each other, and which of them counts. One line each. Each command reports them once.
  const std::vector<std::string>& warnings() const noexcept { return warnings_; }

  // All tensors in a fixed order (by name), each linear once.
  virtual std::vector<CheckpointTensor> tensors() const = 0;
  // What the checkpoint holds beside the language model (vision tower, layers that the config does not count, and so
  // on), under its names in the file: neither read nor copied.
  virtual std::vector<CheckpointTensor> left_out() const = 0;
  virtual bool has(const std::string& name) const = 0;
  // How the file itself calls the tensor `name`, for messages: "output_norm.weight" of a GGUF. `name` where it is no
  // tensor of the model.
  virtual std::string stored_name(const std::string& name) const { return name; }
  // Likewise of a key of the config: "llama.block_count" for "num_hidden_layers".
  virtual std::string stored_key(const std::string& key) const { return key; }
  // Of the tensor that makes the logits: the embedding where it is tied.
  const std::string& head_tensor() const;
  // The stored bytes in a 16- or 32-bit float type (GGUF blocks: dequantized to f16 where `name` was quantized; f32
  // stays f32), for copying into the output.
  virtual OwnedTensor load_stored(const std::string& name) const = 0;
  // Converted to f32 and un-permuted: [rows, cols] (1-D tensors: [1, n]). Rows first_row .. +rows only, all: rows < 0.
  virtual Matrix load(const std::string& name, int64_t first_row = 0, int64_t rows = -1) const = 0;
  // The codes of a linear's weight where it is stored in at most 8 bits with group scales; nothing otherwise (also
  // where the native format keeps a q_scale beside them, and where GPTQ's groups are in act order: the codes and
  // consecutive groups alone are not the weight then).
  virtual std::optional<QuantizedTensor> load_quantized(const std::string& name) const = 0;
  // All that a 4-bit checkpoint stores of a linear's weight, for passing it on without floats; nothing for a tensor
  // that is not stored so. With Codes::kSkip the codes are left out.
  virtual std::optional<StoredCodes> load_codes(const std::string& name, Codes codes = Codes::kRead) const {
    static_cast<void>(name);
    static_cast<void>(codes);
    return std::nullopt;
  }
  // Rows of a matrix that is stored as codes, in Hugging Face's order, as they are multiplied: straight from the stored
  // words or blocks (GGUF), no float copy is made. Null for one that is stored in another way, and for rows of which a
  // layout has no whole words (AWQ, Marlin): load_codes() has them. NumericError as check_finite(), FormatError as
  // load_codes(), ArgumentError for rows that it has not.
  virtual std::unique_ptr<WeightMatrix> load_blocks(const std::string& name, int64_t first_row, int64_t rows) const;
  // The form in which load_codes() or load_blocks() make a matrix stay codes, for what it takes in memory: one zero for
  // each group where they may differ. Nothing for a matrix of floats.
  virtual std::optional<CodeForm> code_form(const std::string& name) const;
  // Whether linears stay codes where the model runs in int8.
  bool has_codes() const;
  // The files of a model in GGUF, for what they hold beside this: keys, and blocks as they are stored. Null for others.
  virtual const GgufSet* gguf() const { return nullptr; }
  // SystemError naming the file when a file of the weights is no longer what it was when the model was opened. Every
  // load() says so too, of the file that it reads.
  virtual void check_unchanged() const = 0;
  // Gives back the memory that loading `name` mapped.
  virtual void release(const std::string& name) const = 0;

  // The seven linears of a layer; checks shapes against the config (FormatError names tensor, expected, found).
  std::vector<LinearSlot> linears(int64_t layer) const;
  std::string norm_name(int64_t layer, NormKind kind) const;  // full tensor name; empty: the family has none
  // Every tensor that the config demands exists with its shape, before any work starts.
  void check() const;
  // NumericError naming file, tensor and element (its index in the whole tensor) for the first NaN or infinity among
  // the values of `name`, whatever they are stored in; of codes the scales are looked at (FormatError as load_codes).
  void check_finite(const std::string& name) const;

  virtual const Tokenizer& tokenizer() const = 0;  // loaded at the first call
  // Tokenizer and other files to carry along (tokenizer.json, tokenizer_config.json,
  // special_tokens_map.json, generation_config.json, chat_template.jinja, vocab.json, merges.txt, tokenizer.model).
  virtual std::vector<CompanionFile> companion_files() const = 0;
  // Digest of all that determines the model: config, tokenizer files, names, types, shapes, and the data: files up to
  // 1 GiB whole, of larger ones a sample of each tensor, size and time of last change. For "has the model changed".
  virtual Digest digest() const = 0;

 protected:
  ModelSource() = default;
  // Called at the end of opening. The stored tensors count where the config contradicts them: a head of its own beside
  // a config that says tied. Biases that the config has none of are left out where they hold zeros alone. So are
  // layers that the config does not count, and parts beside the language model, with a warning. Other tensors that the
  // family has no place for are kept for check(), which refuses them.
  void settle_contradictions();
  // Moves a tensor to left_out(), or says why it is there.
  virtual void leave_out(const std::string& name, const std::string& reason) = 0;
  // The index of the first NaN or infinity among the values of `name`, or -1.
  virtual int64_t first_not_finite(const std::string& name) const = 0;
  // What was read, for a message about a tensor that is missing: "model.safetensors".
  virtual std::string files_read(const std::string& missing) const = 0;
  std::string path_;
  std::string reading_note_;  // why these files were read where others could be meant; closes messages of check()
  std::string format_;
  const Family* family_ = nullptr;
  ModelConfig config_;
  std::shared_ptr<nlohmann::json> config_json_;
  std::vector<std::string> warnings_;

 private:
  void settle_head();
  void settle_biases();
  void settle_surplus();
  void refuse_surplus() const;
  void check_tensors() const;
  bool same_values(const std::string& a, const std::string& b, const std::vector<int64_t>& shape) const;
  std::vector<std::string> biases_without_place() const;

  std::vector<std::string> without_place_;  // tensors of the model that the family does not have
};

// The folder or file that `model` names; org/name is looked up in HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub.
std::string resolve_model(const std::string& model);

}  // namespace metal_marlin
