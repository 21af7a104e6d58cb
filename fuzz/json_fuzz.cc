// JSON: bounds hold for every value that is built, and what is refused has a message that can be printed.
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "formats/json/bounded_json.h"
#include "formats/json/strict_json.h"
#include "fuzz_input.h"

namespace {

using namespace metal_marlin;
using fuzz::require;
using nlohmann::json;

struct Measure {
  int depth = 0;
  uint64_t values = 0;
  uint64_t keys = 0;  // of the object with the most
};

// Of a value that is at most as deep as the bounds let it be. An object holds a key that stands twice once.
void measure(const json& value, int above, Measure& out) {
  ++out.values;
  if (!value.is_structured()) return;
  out.depth = std::max(out.depth, above + 1);
  if (value.is_object()) out.keys = std::max<uint64_t>(out.keys, value.size());
  for (const json& entry : value) measure(entry, above + 1, out);
}

// Takes every text and sees whether a key stands twice in an object.
class Events : public StrictJson {
 public:
  Events() : StrictJson("fuzz") {}

 protected:
  void begin_object() override {}
  void begin_array() override {}
  void on_key(const std::string&) override {}
  void on_null() override {}
  void on_bool(bool) override {}
  void on_string(std::string&) override {}
  void on_unsigned(uint64_t) override {}
  void on_negative(int64_t) override {}
  void on_float(double) override {}
  void wrong(const std::string& found) override { fail(found); }
};

bool printable(std::string_view text) {
  return text.size() < 2000 && std::none_of(text.begin(), text.end(),
                                            [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::as_text(data, size);
  json value = parse_json_or_discard(text);
  bool refused = false;
  try {
    const json again = parse_json(text, "fuzz");
    require(!value.is_discarded() && again == value, "both ways to parse give the same value");
  } catch (const FormatError& e) {
    refused = true;
    require(std::string_view(e.what()).starts_with("fuzz") && printable(e.what()), "a message begins with the file");
  }
  require(refused == value.is_discarded(), "what one way refuses, the other does");
  bool events = true;
  try {
    Events().parse(text);
  } catch (const FormatError& e) {
    events = false;
    require(printable(e.what()), "a message can be printed");
  }
  if (value.is_discarded()) return 0;
  const bool marked = text.starts_with("\xEF\xBB\xBF");  // a byte order mark, which no header may have
  require(events || marked, "what is parsed as a value is parsed as events");
  Measure found;
  measure(value, 0, found);
  require(found.depth <= kDeepestJson, "no value is deeper than the bound");
  // Of a key that stands twice the value keeps the last: the text may hold more than the value.
  const bool whole = !json_excess(text, {.values = found.values});
  require(!whole || !json_excess(text, {.depth = found.depth, .keys = found.keys}),
          "a value within its bounds is accepted");
  if (found.depth > 0)
    require(json_excess(text, {.depth = found.depth - 1}).has_value(), "a value beyond the bound of depth is refused");
  require(json_excess(text, {.values = found.values - 1}).has_value(), "a value beyond the bound of values is refused");
  if (found.keys > 0) {
    require(json_excess(text, {.keys = found.keys - 1}).has_value(), "an object beyond the bound of keys is refused");
  }
  return 0;
}
