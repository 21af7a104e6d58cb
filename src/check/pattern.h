// Patterns of module names in configs, as engines match them: Python's re.match, which is anchored at the beginning
// alone. A config may come from a stranger: time is linear in pattern times name, whatever the pattern.
#pragma once

#include <memory>
#include <string>

namespace metal_marlin {

class Pattern {
 public:
  // Literals, ., classes, \d \w \s, groups, |, *, +, ?, {m,n} up to 64, ^ and $. What else there is (look-around,
  // references, \b) and patterns of more than 2,000 characters are not known().
  explicit Pattern(const std::string& text);

  bool known() const noexcept { return automaton_ != nullptr; }
  // Whether `name` begins with a match, or is one as a whole; known() must hold.
  bool matches(const std::string& name, bool whole = false) const;

 private:
  struct Automaton;
  std::shared_ptr<const Automaton> automaton_;
};

}  // namespace metal_marlin
