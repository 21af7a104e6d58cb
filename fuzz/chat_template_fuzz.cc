// Chat templates through the Rust library: any bytes give a text, or an Error within bounds of memory and time. What
// follows the first NUL are the messages.
#include <metal_marlin/error.h>

#include "fuzz_input.h"
#include "tokenizer/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  const std::string_view all = fuzz::as_text(data, size);
  const size_t cut = std::min(all.find('\0'), all.size());
  const std::string_view messages =
      cut < all.size() ? all.substr(cut + 1)
                       : std::string_view(R"([{"role":"user","content":"hi"},{"role":"assistant","content":"yo"}])");
  try {
    ChatTemplate chat(std::string(all.substr(0, cut)), {"<s>", "</s>", "", ""});
    chat.set_now(0);
    chat.apply_text(messages, true, R"({"tools": [{"name": "f", "parameters": {}}]})");
  } catch (const Error&) {
  }
  return 0;
}
