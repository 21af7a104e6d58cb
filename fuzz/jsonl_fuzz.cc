// JSON Lines: any bytes give tokens, or an Error; read as a file they are those of the lines one by one.
#include <metal_marlin/error.h>

#include <limits>

#include "fuzz_input.h"
#include "text/jsonl_text.h"
#include "tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  static const fuzz::Folder folder;
  static const Tokenizer tokenizer = Tokenizer::from_folder(TEST_DATA "/models/llama");
  const std::string_view text = fuzz::as_text(data, size);
  const std::string path = folder.write("t.jsonl", text);
  std::vector<int32_t> of_file, of_lines;
  bool refused = false;
  try {
    of_file = tokenize_jsonl(path, tokenizer, std::numeric_limits<int64_t>::max());
  } catch (const Error&) {
    refused = true;
  }
  // The reader takes CR LF and CR for line ends, and a byte order mark away.
  if (text.find('\r') != std::string_view::npos || text.starts_with("\xef\xbb\xbf")) return 0;
  try {
    JsonlText documents(path, tokenizer);
    std::string_view rest = text;
    for (int64_t number = 1; !rest.empty(); ++number) {
      const std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
      const auto ids = tokenizer.encode(documents.render(line, number), false);
      of_lines.insert(of_lines.end(), ids.begin(), ids.end());
    }
  } catch (const Error&) {
    fuzz::require(refused, "a file with a line that is refused is refused");
  }
  if (!refused) fuzz::require(of_file == of_lines, "the tokens of a file are those of its lines");
  return 0;
}
