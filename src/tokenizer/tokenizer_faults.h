// What goes wrong with a tokenizer's files, also those that stand in place of a tokenizer's: what a hub answers where a
// file is missing.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin {

// In place of a template, which may be any text: the answers of hubs alone. Empty: none of them.
std::string answer_of_a_hub(std::string_view text);

// What is wrong with a tokenizer.json that the tokenizer's library refused, where it can be said in words of our own.
std::string tokenizer_fault_text(std::string_view text);

// What the library said last (tokenizer_c_last_error), cut where a text of the file made it long.
std::string tokenizer_failure();

}  // namespace metal_marlin
