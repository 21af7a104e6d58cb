#include "run/output/move_result.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "run/output/placing.h"

namespace metal_marlin {

namespace fs = std::filesystem;

void move_result(const Folder& journal, const Manifest& old, const Folder& output) {
  const Folder staged = journal.open_folder(kResult);
  std::vector<std::string> names;
  const auto rank = [](const std::string& name) {
    return name == "report.json" || name == kManifestName ? 2 : fs::path(name).filename() == "config.json" ? 1 : 0;
  };
  for (const std::string& name : staged.names()) {
    if (staged.status(name).kind != FileKind::kFolder) {
      names.push_back(name);
      continue;
    }
    for (const std::string& file : staged.open_folder(name).names()) names.push_back(name + "/" + file);
  }
  std::stable_sort(names.begin(), names.end(),
                   [&](const std::string& a, const std::string& b) { return rank(a) < rank(b); });
  const std::set<std::string> staged_names(names.begin(), names.end());
  std::set<std::string> fresh = staged_names;
  if (const Placing before = read_placing(journal); before.fresh) {
    fresh.insert(before.fresh->begin(), before.fresh->end());  // an earlier try may have moved it
  } else {
    write_placing(journal, {old.files, staged_names, {}});
  }
  // An old config.json goes before the first new file comes: a mixture must not be loadable.
  Manifest gone;
  for (const std::string& name : old.files) {
    const bool waits = staged_names.count(name) > 0;
    if (fresh.count(name) == 0 || (waits && fs::path(name).filename() == "config.json")) gone.files.insert(name);
  }
  remove_listed(output, gone);
  for (const std::string& name : names) {
    const size_t slash = name.find('/');
    if (slash == std::string::npos) {
      staged.rename(name, output, name);
      continue;
    }
    const std::string format = name.substr(0, slash);
    const std::string file = name.substr(slash + 1);
    if (output.status(format).kind == FileKind::kNone) output.make_folder(format);
    staged.open_folder(format).rename(file, output.open_folder(format), file);
  }
  output.sync();
}

}  // namespace metal_marlin
