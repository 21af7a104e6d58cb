// A layout that is read and written: what it can hold, the tensors of a linear, and what a config says of them. Reading
// is the base's. Writing, converting, the options and the model card ask this class and know no layout by name.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/values.h"
#include "formats/safetensors.h"
#include "layouts/layout_plan.h"
#include "layouts/stored_layout.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

// The files of a checkpoint.
enum class ContainerKind : uint8_t { kSafetensors, kGguf };

// Words for the model card.
struct CardWords {
  const char* tag;            // for hubs: "awq"
  const char* text;           // in a sentence: "AWQ gemm"
  bool transformers;          // whether transformers loads it
  const char* packages = "";  // that transformers needs for it
  bool servers = false;       // whether vLLM and SGLang load it
  bool mlx = false;           // whether mlx-lm loads it
  bool llama_cpp = false;     // whether llama.cpp loads it
  std::string otherwise;      // a sentence where that is not all
};

class Layout : public StoredLayout {
 public:
  virtual CardWords card_words(const LayoutPlan& plan) const = 0;
  // The folder of this format where a run writes several: its name, which may have a colon, with a dash there.
  std::string folder() const;
  virtual ContainerKind container() const noexcept { return ContainerKind::kSafetensors; }
  // general.file_type of a GGUF file; nothing in other containers.
  virtual std::optional<uint32_t> gguf_file_type() const noexcept { return std::nullopt; }
  std::string text() const override { return card_words({}).text; }

  // ---- What it can hold

  // Returns why no linear of this grid can be stored, e.g. "has no zero points". Empty: it can. Here: widths(), minima,
  // the type of the scales.
  virtual std::string refusal_of(const Grid& grid) const;
  // Returns why a linear of this shape and width cannot be stored, for the list of skipped linears. Empty: it can.
  virtual std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int bits) const = 0;
  // The grid of a format that leaves no choice of bits, groups and scheme: of most linears; of the linear at a place;
  // of that linear where the user asks for other bits. Nothing: the options choose; at a place: no grid of the format
  // can hold the linear.
  virtual std::optional<Grid> own_grid() const { return std::nullopt; }
  virtual std::optional<Grid> own_grid(const LinearPlace&) const { return std::nullopt; }
  virtual std::optional<Grid> own_grid(const LinearPlace&, int) const { return std::nullopt; }
  // Whether all linears that are not left in 16 bits share one grid.
  virtual bool one_grid(bool symmetric) const noexcept {
    static_cast<void>(symmetric);
    return false;
  }
  // Whether most models have linears that do not fit, so that leaving these in 16 bits would surprise.
  virtual bool picky() const noexcept { return false; }
  // The smallest groups to choose where the caller gave no size: kernels for the format commonly have no smaller ones.
  virtual int64_t least_group() const noexcept { return 16; }
  // Whether it has minima in place of zeros. It then holds zeros where their products with the scales are exact.
  virtual bool holds_minima() const noexcept { return false; }
  // Returns why it cannot hold these zeros, scales and minima (the codes are not looked at). Empty: it can.
  virtual std::string refusal_of_zeros(const QuantizedTensor& tensor) const;
  // The least zero that it can hold.
  virtual int least_zero() const noexcept { return 0; }
  virtual bool holds_act_order() const noexcept { return false; }
  // Whether embedding and head can be codes too.
  virtual bool holds_embedding() const noexcept { return false; }
  // Whether readers load a head that is stored as codes.
  virtual bool readers_load_head() const noexcept { return true; }

  // ---- Writing a checkpoint

  // The parts of a linear with the shapes that pack() gives them. Their names are as in PackedTensor.
  virtual std::vector<TensorInfo> parts(const QuantizedLinear& linear) const = 0;
  // ArgumentError naming `name` for what the layout cannot hold.
  virtual PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const = 0;
  // The type in which a float tensor of type `stored` is written.
  virtual DType kept_type(DType stored, const LayoutPlan& plan) const;
  virtual const char* weights_suffix() const noexcept { return ".safetensors"; }
  virtual bool always_has_index() const noexcept { return false; }  // else where there are several files
  virtual std::map<std::string, std::string> metadata(const LayoutPlan& plan) const;
  // Checks the plan as a whole (what refusal() cannot see).
  virtual void check(const LayoutPlan& plan) const;
  // Sets quantization_config and the keys that belong to it.
  virtual void configure(const LayoutPlan& plan, const std::vector<std::string>& kept_modules,
                         nlohmann::json& config) const = 0;
  // Returns the files that go beside config.json, made from the finished config: name -> content.
  virtual std::map<std::string, std::string> more_files(const nlohmann::json& config) const;

 protected:
  // "holds 4 bits, not 8"; empty: it holds them.
  std::string refusal_of_width(int bits) const;
};

// Throws ArgumentError naming the first linear whose groups or bits are not the plan's. `what` is e.g. "an AWQ
// checkpoint".
void require_one_grid(const LayoutPlan& plan, const char* what);
// Sets the model's type in the config to float16, in which the scales are stored: engines allocate them in that type.
void set_model_type_f16(nlohmann::json& config);
// Returns why the layout cannot hold the linear, by widths() and refusal(); empty when it can.
std::string refusal_of_linear(const Layout& layout, const QuantizedLinear& linear);

}  // namespace metal_marlin
