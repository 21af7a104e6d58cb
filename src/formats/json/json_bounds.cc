#include "formats/json/json_bounds.h"

#include <fmt/format.h>

#include <vector>

#include "formats/json/json_events.h"

namespace metal_marlin {
namespace {

// Ends the parsing, by returning false, where a bound is exceeded.
class BoundsCheck : public JsonCounter {
 public:
  explicit BoundsCheck(const JsonBounds& bounds) : bounds_(bounds) {}

  bool key(string_t& name) override {
    if (keys_.size() == 1) outermost_ = name;
    return ++keys_.back() <= bounds_.keys || exceeds(fmt::format("{} keys in an object", bounds_.keys));
  }

  std::optional<JsonExcess> excess;

 private:
  bool exceeds(std::string bound) {
    excess = {outermost_, std::move(bound)};
    return false;
  }
  bool value() override { return ++values_ <= bounds_.values || exceeds(fmt::format("{} values", bounds_.values)); }
  bool open() override {
    if (std::ssize(keys_) >= bounds_.depth) return exceeds(fmt::format("{} levels of nesting", bounds_.depth));
    keys_.push_back(0);
    return value();
  }
  bool close() override {
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
