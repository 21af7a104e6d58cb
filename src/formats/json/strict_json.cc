#include "formats/json/strict_json.h"

#include <metal_marlin/error.h>

#include "formats/json/json_events.h"
#include "formats/json/json_fault.h"

namespace metal_marlin {

// Passes the parser's events to the handlers, and drops those of a value that is skipped.
class StrictJsonAdapter : public nlohmann::json_sax<nlohmann::json> {
 public:
  StrictJsonAdapter(StrictJson& target, std::string_view text) : target_(target), text_(text) {}

  bool null() override {
    if (!skipped()) target_.on_null();
    return true;
  }
  bool boolean(bool value) override {
    if (!skipped()) target_.on_bool(value);
    return true;
  }
  bool number_integer(number_integer_t value) override {
    if (!skipped()) target_.on_negative(value);
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!skipped()) target_.on_unsigned(value);
    return true;
  }
  bool number_float(number_float_t value, const string_t&) override {
    if (!skipped()) target_.on_float(value);
    return true;
  }
  bool string(string_t& value) override {
    if (!skipped()) target_.on_string(value);
    return true;
  }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override {
    if (!open()) target_.begin_object();
    return true;
  }
  bool key(string_t& value) override {
    if (depth_ == 0) target_.on_key(value);
    return true;
  }
  bool end_object() override {
    if (!close()) target_.end_object();
    return true;
  }
  bool start_array(std::size_t) override {
    if (!open()) target_.begin_array();
    return true;
  }
  bool end_array() override {
    if (!close()) target_.end_array();
    return true;
  }
  bool parse_error(std::size_t read, const std::string& token, const nlohmann::detail::exception& reason) override {
    target_.fail(json_fault_text(text_, target_.first_byte_, json_fault(text_, read, token, reason.what())));
  }

 private:
  // Returns whether this event belongs to a skipped value.
  bool skipped() {
    if (depth_ > 0) return true;
    return std::exchange(target_.skipping_, false);
  }
  bool open() {
    if (depth_ == 0 && !std::exchange(target_.skipping_, false)) return false;
    ++depth_;
    return true;
  }
  bool close() {
    if (depth_ == 0) return false;
    --depth_;
    return true;
  }

  StrictJson& target_;
  std::string_view text_;
  uint64_t depth_ = 0;  // of the skipped value
};

void StrictJson::parse(std::string_view text) {
  // The parser below takes a zero byte for the end of its input and skips a byte order mark.
  if (text.find('\0') != std::string_view::npos || text.starts_with("\xEF\xBB\xBF"))
    fail(json_fault_text(text, first_byte_));
  StrictJsonAdapter adapter(*this, text);
  walk_json(text, adapter);
}

void StrictJson::fail(const std::string& what) const {
  throw FormatError(where_text_ + ": " + what);
}

}  // namespace metal_marlin
