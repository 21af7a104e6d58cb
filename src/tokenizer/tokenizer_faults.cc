#include "tokenizer/tokenizer_faults.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "formats/foreign_file.h"
#include "formats/json/bounded_json.h"
#include "formats/json/json_fault.h"
#include "formats/text.h"
#include "tokenizer/tokenizer_c/tokenizer_c.h"

namespace metal_marlin {

using Json = nlohmann::json;

static constexpr size_t kLargestPage = size_t{1} << 20;

std::string answer_of_a_hub(std::string_view text) {
  if (text.size() > 200 || text.find('{') != std::string_view::npos) return {};
  for (const char* answer : {"Entry not found", "Repository not found", "Invalid username or password", "Not Found",
                             "404: Not Found", "Access to model", "Access denied", "Unauthorized", "Forbidden",
                             "Invalid credentials", "Internal Server Error", "Bad Gateway", "Too Many Requests"}) {
    if (text.starts_with(answer)) return foreign_weights_text(text);
  }
  return {};
}

std::string tokenizer_fault_text(std::string_view text) {
  if (find_json_fault(text)) return json_fault_text(text);
  // An error page is small. A large file is not built as values, which take many times its size.
  if (text.size() > kLargestPage) return {};
  const Json json = parse_json_or_discard(text);
  if (const std::string page = error_page_text(json); !page.empty()) return page;
  if (json.is_discarded() || (json.is_object() && json.contains("model"))) return {};
  if (!json.is_object()) return fmt::format("expected an object with the key \"model\", found {}", json.type_name());
  std::string keys;
  size_t count = 0;
  for (const auto& [key, unused] : json.items()) {
    if (++count > 4) break;
    keys += (keys.empty() ? "" : ", ") + shown(key);
  }
  return fmt::format("no tokenizer: expected the key \"model\", found {}; download the file again",
                     keys.empty() ? "an empty object" : "only " + keys + (count > 4 ? ", ..." : ""));
}

std::string tokenizer_failure() {
  constexpr size_t kLongest = 400;
  std::string said = tokenizer_c_last_error();
  return said.size() <= kLongest ? said : escaped(said, kLongest);
}

}  // namespace metal_marlin
