// JSON taken apart while it is parsed: nothing is built that the caller did not ask for, duplicate keys are visible,
// and whatever a subclass does not handle is an error. Nesting costs no stack.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace metal_marlin {

class StrictJson {
 public:
  // `where` opens every message: the file's name; `first_byte`: at which the text begins in it.
  explicit StrictJson(std::string where, uint64_t first_byte = 0)
      : where_text_(std::move(where)), first_byte_(first_byte) {}
  virtual ~StrictJson() = default;
  StrictJson(const StrictJson&) = delete;
  StrictJson& operator=(const StrictJson&) = delete;

  // Throws FormatError: not UTF-8, no JSON, anything after the value, or what a handler refused.
  void parse(std::string_view text);

 protected:
  virtual void begin_object() { wrong("an object"); }
  virtual void end_object() {}
  virtual void begin_array() { wrong("an array"); }
  virtual void end_array() {}
  virtual void on_key(const std::string& key) = 0;
  virtual void on_null() { wrong("null"); }
  virtual void on_bool(bool) { wrong("a boolean"); }
  virtual void on_string(std::string&) { wrong("a string"); }
  virtual void on_unsigned(uint64_t) { wrong("a number"); }
  virtual void on_negative(int64_t value) { wrong("the number " + std::to_string(value)); }
  virtual void on_float(double value) { wrong("the number " + std::to_string(value)); }
  // A value came where the format has none of that kind; throws through fail().
  [[noreturn]] virtual void wrong(const std::string& found) = 0;

  [[noreturn]] void fail(const std::string& what) const;
  // From on_key: the value of this key, whatever it is, goes unseen.
  void skip_value() noexcept { skipping_ = true; }

 private:
  friend class StrictJsonAdapter;
  std::string where_text_;
  uint64_t first_byte_;
  bool skipping_ = false;
};

}  // namespace metal_marlin
