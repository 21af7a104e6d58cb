#include "layouts/config/gptq_settings.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "formats/text.h"

namespace metal_marlin {

std::string gptq_variant(const ConfigReader& q) {
  if (q.find_bool("is_marlin_format").value_or(false)) return "marlin";
  return first_string(q, {"checkpoint_format", "format"}, "gptq");
}

void check_gptq_settings(const ConfigReader& q) {
  if (const auto type = q.find_string("pack_dtype"); type && *type != "int32") {
    throw UnsupportedError(
        fmt::format("{}: pack_dtype {} is not supported; supported is int32", q.file(), shown(*type)));
  }
  if (q.has("rotation") && q.find_string("rotation").value_or("") != "") {
    throw UnsupportedError(fmt::format("{}: rotation {} is not supported: the model computes on rotated states",
                                       q.file(), shown(*q.find_string("rotation"))));
  }
}

}  // namespace metal_marlin
