#include "arguments/options.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/counted.h"
#include "core/files/text_file.h"
#include "options/ignored.h"
#include "records/json_writer.h"
#include "tokenizer/grammar.h"

namespace metal_marlin::cli {

void warn_of_idle(Console& console, const Command& command, const std::vector<IdleOption>& options) {
  std::vector<IgnoredOption> ignored;
  for (const IdleOption& o : options) {
    if (!o.reason.empty()) ignored.push_back({o.name, "", o.reason, command.was_given(o.name)});
  }
  if (const std::string text = ignored_options_warning(ignored); !text.empty()) console.warning(text);
}

void check_sampling(const GenerateOptions& options) {
  for (const std::string& stop : options.stop) {
    if (stop.empty()) throw UsageError{"--stop: expected a text that ends the answer, found an empty one"};
  }
}

void require_no_waiting(const std::string& path, const char* expected) {
  namespace fs = std::filesystem;
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (fs::is_directory(status)) throw SystemError(fmt::format("{}: expected {}, found a folder", path, expected));
  if (!fs::exists(status) || fs::is_regular_file(status)) return;
  if (path == "/dev/stdin" || path.starts_with("/dev/fd/") || path.starts_with("/proc/self/fd/")) return;
  throw SystemError(fmt::format("{}: expected {}, found a pipe or a device; give what a program writes as /dev/stdin",
                                path, expected));
}

void add_schema_options(Command& command, SchemaOptions& schema) {
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
  if (file) {
    require_no_waiting(schema.file, "a file with a JSON schema");
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
  nlohmann::ordered_json json = {{"text", text}};
  json.update(value_of<nlohmann::ordered_json>(stats));
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace metal_marlin::cli
