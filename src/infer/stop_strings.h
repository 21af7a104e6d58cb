// Ends a text before the first of some strings, while it is streamed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

class StopStrings {
 public:
  // Empty strings are refused: ArgumentError.
  explicit StopStrings(std::vector<std::string> stops);

  // Takes the next piece of text and returns what may be shown: all but an end that could begin a stop string. Once a
  // stop string is complete, what stands before it is returned, stopped() is true, and further pieces are dropped.
  // Where several end in one piece the one that begins first counts.
  std::string push(std::string_view piece);
  // The text that was held back, at the end of the stream.
  std::string finish();
  bool stopped() const noexcept { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace metal_marlin
