#include "formats/json/json_bounds.h"

#include <fmt/format.h>

#include <vector>

#include "formats/json/json_events.h"

namespace metal_marlin {
namespace {

// Ends the parsing, by returning false, where a bound is exceeded.
class BoundsCheck : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit BoundsCheck(const JsonBounds& bounds) : bounds_(bounds) {}

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (keys_.size() == 1) outermost_ = name;
    return ++keys_.back() <= bounds_.keys || exceeds(fmt::format("{} keys in an object", bounds_.keys));
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

  std::optional<JsonExcess> excess;

 private:
  bool exceeds(std::string bound) {
    excess = {outermost_, std::move(bound)};
    return false;
  }
  bool value() { return ++values_ <= bounds_.values || exceeds(fmt::format("{} values", bounds_.values)); }
  bool open() {
    if (std::ssize(keys_) >= bounds_.depth) return exceeds(fmt::format("{} levels of nesting", bounds_.depth));
    keys_.push_back(0);
    return value();
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  const JsonBounds& bounds_;
  uint64_t values_ = 0;
  std::vector<uint64_t> keys_;  // of each object or array that is open
  std::string outermost_;
};

}  // namespace

std::optional<JsonExcess> json_excess(std::string_view text, const JsonBounds& bounds) {
  BoundsCheck check(bounds);
  walk_json(text, check);
  return std::move(check.excess);
}

}  // namespace metal_marlin
