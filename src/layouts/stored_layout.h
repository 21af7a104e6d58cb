// A layout that is read: what the tensors of a quantized linear are called in a checkpoint, how codes, scales and zeros
// lie in them, and what config.json says of them. Layout (layouts/layout.h) adds what writing needs; a layout that
// nothing here writes is only this. One file per layout, one row in layouts.cc: reading asks this class and knows no
// layout by name.
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
  // Of codes that are named as weights. Another type beside scales is refused, but for floats of 8 bits, which have
  // scales too.
  DType weight_type = DType::kU32;
  bool floats_alike = false;  // floats of 8 bits are stored under the same names, so that these prove no codes
  // Small tensors that say in numbers what the others are, all optional.
  std::span<const char* const> notes = {};

  bool codes_are_named_as_weights() const noexcept { return std::string_view(codes) == ".weight"; }
};

class StoredLayout {
 public:
  virtual ~StoredLayout() = default;

  // As options call it, and ModelSource::format(): "awq".
  virtual const char* name() const noexcept = 0;
  // In a sentence: "AWQ gemm".
  virtual std::string text() const { return name(); }
  virtual std::span<const int> widths() const noexcept = 0;  // bits of a code; none: a layout of floats
  bool holds_width(int64_t bits) const noexcept;

  // ---- Its tensors

  // The names that a linear's tensors may have; those that are written come first.
  virtual std::span<const PartNames> part_names() const noexcept = 0;
  // [out, in] of the linear whose codes these are. FormatError naming `name` unless they have two dimensions.
  std::vector<int64_t> logical_shape(const PackedLinear& linear, const std::string& name) const;
  // The order of the words, where kernels' tiles are made straight from them (pack/bits/code_lines.h).
  virtual std::optional<WordOrder> word_order() const noexcept { return std::nullopt; }
  // Whether the rows of each part are those of the weight, so that some of them can be read alone.
  virtual bool has_rows() const noexcept { return false; }
  // group_size -1: the whole row. FormatError naming `name`, expected and found.
  virtual QuantizedTensor unpack(const PackedLinear& linear, int64_t group_size, const std::string& name,
                                 Codes codes) const = 0;

  // ---- A checkpoint's config

  // "quant_method" of the config.
  virtual const char* method() const noexcept = 0;
  virtual bool has_method(std::string_view method) const noexcept { return method == this->method(); }
  // Whether a "quantization_config" with such a method is of this layout.
  virtual bool recognises(const ConfigReader& settings) const = 0;
  // Why settings of this method that no layout recognises are refused: "AWQ version x is not supported; ..".
  virtual std::string unknown_variant(const ConfigReader& settings) const;
  // Whether its tensors say all that there is to know, so that a checkpoint of them needs no config.
  virtual bool describes_itself() const noexcept { return false; }
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

 protected:
  // Of codes of this stored shape.
  virtual std::vector<int64_t> shape_of_codes(const PackedLinear& linear, int64_t rows, int64_t columns,
                                              const std::string& name) const = 0;
};

}  // namespace metal_marlin
