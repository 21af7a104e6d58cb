// A JSON parser that calls a handler for each event. It builds no tree, shows duplicate keys, and makes an error of
// everything that a subclass does not handle. Nesting takes no stack.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace metal_marlin {

class StrictJson {
 public:
  // `where`, the file's name, begins every message. `first_byte` is the byte of the file at which the text begins.
  explicit StrictJson(std::string where, uint64_t first_byte = 0)
      : where_text_(std::move(where)), first_byte_(first_byte) {}
  virtual ~StrictJson() = default;
  StrictJson(const StrictJson&) = delete;
  StrictJson& operator=(const StrictJson&) = delete;

  // Throws FormatError for text that is no UTF-8 or no JSON, for anything after the value, and for what a handler
  // refuses.
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
  // Called for a value of a kind that the format does not have there. It must throw through fail().
  [[noreturn]] virtual void wrong(const std::string& found) = 0;

  [[noreturn]] void fail(const std::string& what) const;
  // Call it from on_key to skip the value of this key, whatever it is.
  void skip_value() noexcept { skipping_ = true; }

 private:
  friend class StrictJsonAdapter;
  std::string where_text_;
  uint64_t first_byte_;
  bool skipping_ = false;
};

}  // namespace metal_marlin
