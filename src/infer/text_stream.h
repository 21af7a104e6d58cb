// Tokens in, whole UTF-8 out: a character whose bytes are spread over several tokens appears with the last of them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace metal_marlin {

class TextStream {
 public:
  // decode: ids to text, incomplete characters as U+FFFD. `context`: the tokens before the first push() (the end of
  // the prompt), for decoders that treat the start of a text differently.
  TextStream(std::function<std::string(std::span<const int32_t>)> decode, std::span<const int32_t> context);

  // The text that is certain now and was not returned before; may be empty.
  std::string push(int32_t token);
  // The rest, an incomplete character as U+FFFD.
  std::string finish();

 private:
  std::string advance(bool final);

  std::function<std::string(std::span<const int32_t>)> decode_;
  std::vector<int32_t> ids_;  // a short window: tokens already returned as text (context), then those that are not
  size_t done_ = 0;           // how many of ids_ are context
};

}  // namespace metal_marlin
