// Options of a table (src/options/) as options of a command.
#pragma once

#include <metal_marlin/error.h>

#include <algorithm>
#include <string>
#include <vector>

#include "command.h"
#include "options/tables.h"

namespace metal_marlin::cli {

struct Rows {
  std::string group;              // those of a group; empty: of all
  std::vector<std::string> keys;  // only these; empty: all
  std::string heading;            // of help, instead of the table's own
  bool advanced = false;          // with a heading: whether they are for few users
};

// The groups of a table's rows, in their order.
template <class Options>
std::vector<std::string> groups_of(const OptionTable<Options>& table) {
  std::vector<std::string> groups;
  for (const OptionRow<Options>& row : table.rows())
    if (std::find(groups.begin(), groups.end(), row.group) == groups.end()) groups.push_back(row.group);
  return groups;
}

// Adds an option that calls `set` with the value of each occurrence and refuses the text where it returns false.
// `option` must outlive the command.
void add_option(Command& command, const Option& option, const Rows& rows, const OptionValue& default_value,
                const std::function<bool(const OptionValue&)>& set);

// The options of `table` that the command line has, in their order; each writes its member of `options`.
template <class Options>
void add_options(Command& command, const OptionTable<Options>& table, Options& options, const Rows& rows = {}) {
  for (const OptionRow<Options>& row : table.rows()) {
    const bool listed = rows.keys.empty() || std::find(rows.keys.begin(), rows.keys.end(), row.key) != rows.keys.end();
    if (row.name.empty() || !listed || (!rows.group.empty() && row.group != rows.group)) continue;
    add_option(command, row, rows, row.get(options),
               [&options, &row](const OptionValue& v) { return row.set(options, v); });
  }
}

}  // namespace metal_marlin::cli
