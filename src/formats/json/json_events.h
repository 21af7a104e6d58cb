// The events of a JSON text for a handler: nothing is built, nesting takes no stack.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace metal_marlin {

// False where the text is no JSON, or the handler ends the walk by returning false. A NUL byte makes a text no JSON,
// wherever it stands; the handler has then seen what comes before it.
bool walk_json(std::string_view text, nlohmann::json_sax<nlohmann::json>& handler);

// For a handler to which all values are alike. Each function ends the walk by returning false.
class JsonCounter : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() final { return value(); }
  bool boolean(bool) final { return value(); }
  bool number_integer(number_integer_t) final { return value(); }
  bool number_unsigned(number_unsigned_t) final { return value(); }
  bool number_float(number_float_t, const string_t&) final { return value(); }
  bool string(string_t&) final { return value(); }
  bool binary(binary_t&) final { return value(); }
  bool start_object(std::size_t) final { return open(); }
  bool start_array(std::size_t) final { return open(); }
  bool end_object() final { return close(); }
  bool end_array() final { return close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) final { return false; }

 private:
  virtual bool value() = 0;  // that is no object or array
  virtual bool open() = 0;   // an object or array
  virtual bool close() = 0;
};

}  // namespace metal_marlin
