// The texts of a run as its journal keeps them: a resumed run takes them instead of reading or sampling again.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "run/journal/journal.h"
#include "text/texts.h"

namespace metal_marlin {

struct StoredTexts {
  RunTexts texts;
  std::vector<std::string> warnings;  // that were given when they were made
};

// Writes the tokens and texts.json, without which the tokens are not taken. The journal must have begun.
void store_texts(Journal& journal, const RunTexts& texts, std::span<const std::string> warnings);
// Nothing where the run was interrupted before its texts were stored. FormatError where they are damaged, or a token
// is none of the model's `vocabulary`.
std::optional<StoredTexts> stored_texts(const Journal& journal, int64_t vocabulary);

}  // namespace metal_marlin
