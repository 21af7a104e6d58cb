#include "options.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/counted.h"
#include "source/grammar.h"
#include "source/text.h"

namespace metal_marlin::cli {
namespace {

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
constexpr double kMostReal = std::numeric_limits<double>::max();

}  // namespace

void add_calibration_options(Command& command, CalibrationOptions& options, SharedTexts& texts, bool statistics) {
  command.group("Calibration");
  const std::string texts_help =
      "Where the activations come from: text that the model makes itself; text that comes with the program; a UTF-8 "
      "text file; conversations or texts in "
      "JSON Lines (FILE.jsonl: messages, ShareGPT's conversations, text). Give it several times to mix sources";
  command.repeated(
      "--calibration", options.calibration, "self|builtin|FILE",
      texts_help + (statistics ? ". Or, alone, an .npz of statistics (made by 'calibrate') or of raw activations" : ""),
      Completes::kFiles);
  command.integer("--samples", options.samples, 1, kMostSequences, "Number of calibration sequences");
  command.advanced();
  command.reals("--calibration-weights", options.calibration_weights, 1e-6, 1e6,
                "Proportions in which several sources give sequences, one number for each in their order",
                "equal ones");
  command.integer("--select", options.select, 1, kMostSequences,
                  "Of these sequences calibrate on the N that cover the channels of the activations best; costs a "
                  "forward pass of all of them",
                  "all of them");
  command.integer("--sequence-length", options.sequence_length, 8, kMostSequenceLength,
                  "Tokens of each calibration sequence");
  command.unsigned_integer("--seed", options.seed, "Seed of the self-made text");
  command.real("--temperature;--temp", options.temperature, 0.01, 10, "Sampling temperature of the self-made text");
  add_bos_option(command, texts);
}

void add_bos_option(Command& command, SharedTexts& texts) {
  command.choice("--bos", texts.bos, {"auto", "always", "never"},
                 "Whether sequences begin with the BOS token; auto: as the tokenizer's settings say");
}

void add_machine_options(Command& command, MachineOptions& options, SharedTexts& texts, bool memory, bool precision) {
  command.group("Machine");
  if (memory)
    command.size("--memory", options.memory_bytes, "Peak resident memory to stay within, e.g. 4GiB or 700MB",
                 "what the machine has, less a margin");
  command.integer("-t,--threads", texts.threads, 1, 4096, "Threads; the result does not depend on it",
                  "all that the process may use");
  command.advanced();
  if (precision)
    command.choice("--precision", options.precision, {"auto", "f32", "bf16"},
                   "Matrix products of the forward pass that makes statistics (evaluate: of the model); auto: bf16 "
                   "where the processor multiplies it faster, evaluate f32");
}

void add_sampling_options(Command& command, GenerateOptions& options) {
  command.group("Sampling");
  command.integer("-n,--predict;--max-tokens", options.predict, -1, kMost,
                  "Tokens at most; -1: until the end token or a full context");
  command.integer("-c,--ctx-size;--context", options.context, 0, kMost,
                  "Context in tokens; 0: the model's own, at most 4096");
  command.real("--temp;--temperature", options.temp, 0, 100, "Temperature; 0: always the likeliest token");
  command.integer("--top-k", options.top_k, 0, kMost, "Keep the k likeliest tokens; 0: off");
  command.real("--top-p", options.top_p, 0, 1, "Keep the likeliest tokens that hold this probability; 1: off");
  command.real("--min-p", options.min_p, 0, 1,
               "Keep tokens of at least this share of the best one's probability; 0: off");
  command.unsigned_integer("-s,--seed", options.seed, "Seed of the sampling");
  command.advanced();
  command.real("--repeat-penalty", options.repeat_penalty, 1e-3, kMostReal, "Penalty on repeated tokens; 1: off");
  command.integer("--repeat-last-n", options.repeat_last_n, 0, kMost, "Tokens that the penalty looks back on");
  command.flag("--ignore-eos", options.ignore_eos, "Go on after the end token");
  command.repeated("--stop", options.stop, "TEXT", "End before this text");
  command.integer("--speculate", options.speculate, 0, 32,
                  "Draft up to so many tokens from earlier text and check them in one step; the text stays the same");
}

void add_schema_options(Command& command, SchemaOptions& schema) {
  command.text("--json-schema", schema.text, "TEXT", "Answer with a JSON value that fits this JSON schema");
  command.text("--json-schema-file", schema.file, "FILE", "The same with the schema in a file", Completes::kFiles);
}

void set_schema(const Command& command, const SchemaOptions& schema, GenerateOptions& options) {
  const bool text = command.was_given("json-schema");
  const bool file = command.was_given("json-schema-file");
  if (text && file) {
    throw UsageError{"--json-schema and --json-schema-file exclude each other: expected one of them, found both"};
  }
  if (!text && !file) return;
  options.json_schema_name = text ? "--json-schema" : schema.file;
  options.json_schema = text ? schema.text : std::string();
  if (file) {
    std::error_code code;
    if (std::filesystem::is_directory(schema.file, code))
      throw SystemError(fmt::format("{}: expected a file with a JSON schema, found a folder", schema.file));
    errno = 0;
    std::ifstream stream(schema.file, std::ios::binary);
    // One byte more than is accepted, so that the check below says so.
    std::string content(kLargestJsonSchema + 1, '\0');
    if (stream) stream.read(content.data(), static_cast<std::streamsize>(content.size()));
    if (!stream.is_open() || stream.bad()) {
      throw SystemError(fmt::format("{}: the JSON schema cannot be read: {}", schema.file,
                                    std::generic_category().message(errno != 0 ? errno : EIO)));
    }
    content.resize(static_cast<size_t>(stream.gcount()));
    options.json_schema = without_byte_order_mark(std::move(content));
  }
  if (options.json_schema.find_first_not_of(" \t\r\n") == std::string::npos) {
    throw FormatError(fmt::format("{}: expected a JSON schema, found an empty text", options.json_schema_name));
  }
  check_json_schema(options.json_schema, options.json_schema_name);
}

Bos bos_of(const SharedTexts& texts) {
  if (texts.bos == "always") return Bos::kAlways;
  if (texts.bos == "never") return Bos::kNever;
  return Bos::kAuto;
}

namespace {

double rate(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

}  // namespace

std::string stats_text(const GenerateStats& stats) {
  std::string more;
  if (stats.reused_tokens > 0) more += fmt::format(" ({} of them known)", stats.reused_tokens);
  std::string drafts;
  if (stats.drafted_tokens > 0) {
    drafts = fmt::format("; drafts: {} of {} kept", stats.accepted_tokens, stats.drafted_tokens);
  }
  return fmt::format(
      "loaded in {:.2f} s; prompt: {}{}, {:.1f} tokens/s; generated: {}, {:.1f} tokens/s{}; stopped by: "
      "{}",
      stats.load_seconds, counted(stats.prompt_tokens, "token"), more,
      rate(stats.prompt_tokens - stats.reused_tokens, stats.prompt_seconds), counted(stats.generated_tokens, "token"),
      rate(stats.generated_tokens, stats.generate_seconds), drafts, stats.stop);
}

std::string stats_json(const std::string& text, const GenerateStats& stats) {
  const nlohmann::ordered_json json = {{"text", text},
                                       {"prompt_tokens", stats.prompt_tokens},
                                       {"reused_tokens", stats.reused_tokens},
                                       {"generated_tokens", stats.generated_tokens},
                                       {"drafted_tokens", stats.drafted_tokens},
                                       {"accepted_tokens", stats.accepted_tokens},
                                       {"load_seconds", stats.load_seconds},
                                       {"prompt_seconds", stats.prompt_seconds},
                                       {"generate_seconds", stats.generate_seconds},
                                       {"stop", stats.stop}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace metal_marlin::cli
