// A layout: what the tensors of a quantized linear are called in a checkpoint, how codes, scales and zeros lie in them,
// what they can hold, and what config.json says of them. One file per layout, one row in layouts.cc: reading, writing,
// converting, the options and the model card ask this class and know no layout by name.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/values.h"
#include "formats/safetensors.h"
#include "layouts/layout_plan.h"
#include "layouts/packed_config.h"
#include "pack/bits/code_lines.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

class ConfigReader;

// What a tensor per input channel beside the codes means.
enum class ChannelPart : uint8_t { kNone, kScale, kGroup };

// Names of a layout's tensors: what follows the name of the linear's weight less ".weight". Empty: the layout has none.
struct PartNames {
  const char* codes = "";
  const char* scales = "";
  const char* zeros = "";     // or minima
  const char* channels = "";  // per input channel, optional
  ChannelPart channel_part = ChannelPart::kNone;
  // A tensor beside the codes without which they are no codes for sure, because their name is a common one.
  const char* evidence = "";
  const char* shape = "";  // of the weight
  bool zeros_optional = false;

  bool codes_are_named_as_weights() const noexcept { return std::string_view(codes) == ".weight"; }
};

// Words for the model card.
struct CardWords {
  const char* tag;            // for hubs: "awq"
  const char* text;           // in a sentence: "AWQ gemm"
  bool transformers;          // whether transformers loads it
  const char* packages = "";  // that transformers needs for it
  bool servers = false;       // whether vLLM and SGLang load it
  bool mlx = false;           // whether mlx-lm loads it
  std::string otherwise;      // a sentence where that is not all
};

class Layout {
 public:
  virtual ~Layout() = default;

  // As options call it, and ModelSource::format(): "awq".
  virtual const char* name() const noexcept = 0;
  virtual CardWords card_words(const LayoutPlan& plan) const = 0;

  // ---- What it can hold

  virtual std::span<const int> widths() const noexcept = 0;  // bits of a code; none: a layout of floats
  bool holds_width(int64_t bits) const noexcept;
  // Returns why no linear of this grid can be stored, e.g. "has no zero points". Empty: it can. Here: widths(), minima,
  // the type of the scales.
  virtual std::string refusal_of(const Grid& grid) const;
  // Returns why a linear of this shape and width cannot be stored, for the list of skipped linears. Empty: it can.
  virtual std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int bits) const = 0;
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
  // Whether readers load a head that is stored as codes.
  virtual bool readers_load_head() const noexcept { return true; }

  // ---- Its tensors

  // The names that a linear's tensors may have; those that are written come first.
  virtual std::span<const PartNames> part_names() const noexcept = 0;
  // The parts of a linear with the shapes that pack() gives them. Their names are as in PackedTensor.
  virtual std::vector<TensorInfo> parts(const QuantizedLinear& linear) const = 0;
  // ArgumentError naming `name` for what the layout cannot hold.
  virtual PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const = 0;
  // [out, in] of the linear whose codes these are. FormatError naming `name` unless they have two dimensions.
  std::vector<int64_t> logical_shape(const PackedLinear& linear, const std::string& name) const;
  // The order of the words, where kernels' tiles are made straight from them (pack/bits/code_lines.h).
  virtual std::optional<WordOrder> word_order() const noexcept { return std::nullopt; }
  // Whether the rows of each part are those of the weight, so that some of them can be read alone.
  virtual bool has_rows() const noexcept { return false; }
  // group_size -1: the whole row. FormatError naming `name`, expected and found.
  virtual QuantizedTensor unpack(const PackedLinear& linear, int64_t group_size, const std::string& name,
                                 Codes codes) const = 0;

  // ---- Reading a checkpoint's config

  // "quant_method" of the config.
  virtual const char* method() const noexcept = 0;
  virtual bool has_method(std::string_view method) const noexcept { return method == this->method(); }
  // Whether a "quantization_config" with such a method is of this layout.
  virtual bool recognises(const ConfigReader& settings) const = 0;
  // Why settings of this method that no layout recognises are refused: "AWQ version gemv is not supported; ..".
  virtual std::string unknown_variant(const ConfigReader& settings) const;
  // Whether bits and group size stand in places of its own in the config, which read_settings() reads.
  virtual bool has_own_sizes() const noexcept { return false; }
  // What only this layout's config says. UnsupportedError, FormatError naming the file and the key.
  virtual void read_settings(const ConfigReader& settings, PackedConfig& out) const;
  // Sets bits and group size of a linear, of the module of this name, whose tensors are known. Here: the config's bits.
  virtual void describe(const PackedConfig& config, const std::string& module, const std::string& name,
                        PackedLinear& linear) const;
  // What the metadata of a file say of its linears; nothing: the layout has no such metadata. FormatError,
  // UnsupportedError naming `file`.
  virtual std::optional<FileMetadata> read_metadata(const std::map<std::string, std::string>& metadata,
                                                    const std::string& file) const;
  // Compares config and tensors: config/labels.h.
  virtual void settle_labels(PackedConfig& packed, nlohmann::json& config, const std::vector<NamedLinear>& linears,
                             const std::string& path, std::vector<std::string>& warnings) const;

  // ---- Writing a checkpoint

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
  // Of codes of this stored shape.
  virtual std::vector<int64_t> shape_of_codes(const PackedLinear& linear, int64_t rows, int64_t columns,
                                              const std::string& name) const = 0;
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
