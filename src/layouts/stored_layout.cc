#include "layouts/stored_layout.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "families/config/config_reader.h"
#include "formats/text.h"

namespace metal_marlin {

bool StoredLayout::holds_width(int64_t bits) const noexcept {
  const auto held = widths();
  return std::find(held.begin(), held.end(), bits) != held.end();
}

std::vector<int64_t> StoredLayout::logical_shape(const PackedLinear& linear, const std::string& name) const {
  const TensorView& codes = *linear.codes;
  if (codes.shape.size() != 2) {
    throw FormatError(fmt::format("{}: expected two dimensions, found {}", name, shape_string(codes.shape)));
  }
  const int64_t rows = codes.shape[0];
  const int64_t columns = codes.shape[1];
  constexpr int64_t kLargest = int64_t{1} << 58;  // of a stored dimension: products with the codes of a word fit
  if (rows < 0 || columns < 0 || rows > kLargest || columns > kLargest) {
    throw FormatError(fmt::format("{}: the shape {} is out of range", name, shape_string(codes.shape)));
  }
  return shape_of_codes(linear, rows, columns, name);
}

std::string StoredLayout::unknown_variant(const ConfigReader& settings) const {
  return fmt::format("quant_method {} is not supported", shown(settings.find_string("quant_method").value_or("")));
}

void StoredLayout::read_settings(const ConfigReader&, PackedConfig&) const {}

void StoredLayout::describe(const PackedConfig& config, const std::string&, const std::string&,
                            PackedLinear& linear) const {
  linear.bits = config.bits;
}

std::optional<FileMetadata> StoredLayout::read_metadata(const std::map<std::string, std::string>&,
                                                        const std::string&) const {
  return std::nullopt;
}

void StoredLayout::settle_labels(PackedConfig&, nlohmann::json&, const std::vector<NamedLinear>&, const std::string&,
                                 std::vector<std::string>&) const {}

}  // namespace metal_marlin
