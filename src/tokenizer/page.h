// Pages of HTML by a template of ours.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace metal_marlin {

// Renders a Jinja template that is part of this program; those that come with a model are for ChatTemplate. Every value
// that it prints is escaped, but for what it marks as safe. `context`: its variables, an object; the values in it may
// be a stranger's. UnsupportedError where the page takes more memory or time than its size explains, or the template
// asks for something that `context` does not have.
std::string render_page(std::string_view page, const nlohmann::json& context);

}  // namespace metal_marlin
