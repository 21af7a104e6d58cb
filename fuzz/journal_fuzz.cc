// The files of a journal: any bytes give a block, tokens and states, or an Error. The first byte says which file it is.
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>

#include "fuzz_input.h"
#include "run/journal/journal.h"
#include "tokenizer/token_set.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  static const fuzz::Folder folder;
  static const Journal journal(folder.path());
  static const bool made = std::filesystem::create_directory(journal.folder());
  fuzz::require(made, "the journal's folder can be made");
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::as_text(data + 1, size - 1);
  const auto write = [&](const char* name) { folder.write(".metal-marlin/" + std::string(name), bytes); };
  try {
    switch (data[0] % 5) {
      case 0: {
        write("block-00000.safetensors");
        for (const auto& [name, tensor] : journal.read_block(0).quantized) validate(tensor, name);
        break;
      }
      case 1: {
        write("tokens.safetensors");
        TokenSet calibration, held_back;
        journal.read_tokens(calibration, held_back);
        break;
      }
      case 2:
        write("states-00000.safetensors");
        journal.read_states(0);
        break;
      case 3:
        write("run.json");
        journal.fingerprint();
        journal.identity();
        break;
      default:
        write("block-00000.json");
        journal.read_block_record(0);
    }
  } catch (const Error&) {
  }
  return 0;
}
