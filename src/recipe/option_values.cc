#include "recipe/option_values.h"

#include "options/choices.h"
#include "options/tables.h"
#include "recipe/presets.h"

namespace metal_marlin {

OptionValues option_values(const QuantizeOptions& o, const Recipe& r) {
  QuantizeOptions shown = options_in_force(o);
  shown.group_size = r.grid.group_size;
  shown.machine.precision = r.precision;
  shown.mixed_bits = chooses_bits(o);
  OptionValues values;
  for (const auto& row : quantize_options().rows()) {
    if (row.shapes != Shapes::kNothing) values[row.key] = row.get(shown);
  }
  values["group_size_option"] = o.group_size ? std::to_string(*o.group_size) : std::string("auto");
  return values;
}

}  // namespace metal_marlin
