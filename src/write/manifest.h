// Which files of a folder this program has written there: only these are ever replaced or deleted.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "platform/folder.h"

namespace metal_marlin {

// quantize lists its files in report.json, convert in this file.
inline constexpr const char* kManifestName = ".metal-marlin.json";
// The folder of an interrupted run, inside the output folder.
inline constexpr const char* kJournalName = ".metal-marlin";

// Names relative to the folder: "config.json", "awq/config.json". Each is one or two plain names; the first of two is a
// checkpoint format. The lists themselves are included.
struct Manifest {
  std::set<std::string> files;

  bool empty() const noexcept { return files.empty(); }
  bool lists(const std::string& name) const { return files.count(name) > 0; }
};

// The most names that a list of ours has. A longer list is of somebody else, and counts as none.
inline constexpr size_t kMostListed = 10'000;

// Whether `name` is one that a Manifest can hold: it never leads out of the folder.
bool is_listed_name(const std::string& name);

// What the lists in `folder` say. A list that is no file, cannot be parsed, or is not ours counts as none, and so does
// an entry with any other name: it may be of somebody else.
Manifest read_manifest(const Folder& folder);
// The content of the file kManifestName that lists these names. `quantized_as`: how the linears were stored that are
// written as floats there
// ("Q4_1"); empty where they were floats.
std::string manifest_text(const std::vector<std::string>& names, const std::string& quantized_as = {});
// quantized_as of the manifest in a folder; empty where there is none, or the path is no folder.
std::string quantized_before(const std::string& folder);

// What stands in `folder` and is not in `manifest`, ascending: "notes.txt", "awq/notes.txt", or "config.json (a
// symbolic link)" where something else took the place of a listed file. The journal and temporary files of ours are
// left out.
std::vector<std::string> foreign_names(const Folder& folder, const Manifest& manifest);
// "" or "; its report.json, which would say what this program wrote there, cannot be read" (or lists too many files):
// for the message about names that are taken for those of others because of that.
std::string unreadable_list_text(const Folder& folder);
// "a, b and 3 more".
std::string some_names(const std::vector<std::string>& names);

// Deletes the listed files, the lists last, and the format folders that are empty then.
void remove_listed(const Folder& folder, const Manifest& manifest);

// ArgumentError when the file `path` belongs to a checkpoint that this program wrote; its report.html does not count.
// Nor may it be named as weights are.
void refuse_checkpoint_file(const std::string& path);

}  // namespace metal_marlin
