#include "tokenizer/page.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>

#include "tokenizer/tokenizer_c/tokenizer_c.h"

namespace metal_marlin {

std::string render_page(std::string_view page, const nlohmann::json& context) {
  const std::string text = context.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const tokenizer_c_text out = tokenizer_c_render_page(page.data(), page.size(), text.data(), text.size());
  if (out.data == nullptr) {
    const std::string why = tokenizer_c_last_error();
    if (why == "stopped") throw Interrupted("interrupted");
    throw UnsupportedError(fmt::format("the page cannot be rendered: {}", why));
  }
  std::string result(out.data, out.size);
  tokenizer_c_text_free(out);
  return result;
}

}  // namespace metal_marlin
