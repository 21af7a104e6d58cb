// OUT/.metal-marlin/place.json: which names are on their way into OUT, so that the next run can end what an
// interruption left. Anybody may have put that file there.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "platform/folder.h"
#include "write/manifest.h"

namespace metal_marlin {

inline constexpr const char* kResult = "result";       // the staged result's folder, in the journal folder
inline constexpr const char* kPlacing = "place.json";  // likewise

struct Placing {
  std::optional<std::set<std::string>> old;    // names of the old content
  std::optional<std::set<std::string>> fresh;  // of the new one, which is moved file by file
  std::string folder;                          // beside OUT: where the staged result, or the old content, is
};

// What the journal folder's file says. A file that is damaged, or cannot be ours, counts as none; a name that
// is_listed_name() refuses, and whatever else it holds, is not taken from it.
Placing read_placing(const Folder& journal);
// Of the journal in the folder `output`; empty where there is none.
Placing placing_in(const Folder& output);
void write_placing(const Folder& journal, const Placing& what);
// Adds the names in it to a list of our files.
void add_noted(const Placing& placing, Manifest& manifest);

}  // namespace metal_marlin
