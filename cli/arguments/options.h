// Options that several subcommands share.
#pragma once

#include <metal_marlin/generate.h>
#include <metal_marlin/options.h>

#include <string>
#include <vector>

#include "command.h"
#include "console/console.h"

namespace metal_marlin::cli {

constexpr const char* kModelHelp =
    "Folder in Hugging Face layout, .safetensors or .gguf file, or org/name in the Hugging Face cache";

// --json-schema-file, beside --json-schema of the table.
struct SchemaOptions {
  std::string file;
};
void add_schema_options(Command& command, SchemaOptions& schema);
// Reads and checks the schema that was given, if any; before a model is loaded. UsageError for both at once,
// SystemError for a file that cannot be read, FormatError for a schema that cannot be used.
void set_schema(const Command& command, const SchemaOptions& schema, GenerateOptions& options);

// An option of a command, no row of a table, that has no effect on this run.
struct IdleOption {
  std::string name;
  std::string reason;  // empty: it has an effect
};
// Warns of those that were given, as the library warns of its own.
void warn_of_idle(Console& console, const Command& command, const std::vector<IdleOption>& options);

// UsageError for sampling options that no text could be generated with, before a model is loaded.
void check_sampling(const GenerateOptions& options);

// SystemError for a folder, and for a pipe or a device under a name of its own: opening it may wait for ever. What the
// shell hands over is read: /dev/stdin, and /dev/fd/N of a process substitution.
void require_no_waiting(const std::string& path, const char* expected);

// "--stats": what a generation took, as one line for stderr.
std::string stats_text(const GenerateStats& stats);
std::string stats_json(const std::string& text, const GenerateStats& stats);

}  // namespace metal_marlin::cli
