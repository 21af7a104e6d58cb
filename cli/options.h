// Options that several subcommands share.
#pragma once

#include <metal_marlin/generate.h>
#include <metal_marlin/options.h>

#include <string>

#include "command.h"

namespace metal_marlin::cli {

constexpr const char* kModelHelp =
    "Folder in Hugging Face layout, .safetensors or .gguf file, or org/name in the Hugging Face cache";

// Options whose text form differs from their value.
struct SharedTexts {
  std::string bos = "auto";
  int64_t threads = 0;
};

void add_calibration_options(Command& command, CalibrationOptions& options, SharedTexts& texts, bool statistics);
// --memory and --threads, and --precision where matrix products of a calibration stream are made.
void add_machine_options(Command& command, MachineOptions& options, SharedTexts& texts, bool memory, bool precision);
void add_bos_option(Command& command, SharedTexts& texts);
void add_sampling_options(Command& command, GenerateOptions& options);

// --json-schema and --json-schema-file.
struct SchemaOptions {
  std::string text;
  std::string file;
};
void add_schema_options(Command& command, SchemaOptions& schema);
// Reads and checks the schema that was given, if any; before a model is loaded. UsageError for both at once,
// SystemError for a file that cannot be read, FormatError for a schema that cannot be used.
void set_schema(const Command& command, const SchemaOptions& schema, GenerateOptions& options);

Bos bos_of(const SharedTexts& texts);
// "--stats": what a generation took, as one line for stderr.
std::string stats_text(const GenerateStats& stats);
std::string stats_json(const std::string& text, const GenerateStats& stats);

}  // namespace metal_marlin::cli
