// Where the text of a calibration comes from, as the option names it.
#pragma once

#include <metal_marlin/quantize.h>

#include <cstdint>
#include <string>

namespace metal_marlin {

enum class SourceKind : uint8_t { kSelf, kBuiltin, kText, kConversations, kStatistics };
SourceKind source_kind(const std::string& source);
const char* source_kind_name(SourceKind kind) noexcept;  // "self", "builtin", "text", "conversations", "statistics"
bool has_source(const CalibrationOptions& options, SourceKind kind);
// The statistics come from a file.
inline bool from_statistics(const CalibrationOptions& options) {
  return has_source(options, SourceKind::kStatistics);
}

// Text (or conversations) of a file, or statistics.
inline bool is_file(SourceKind kind) {
  return kind != SourceKind::kSelf && kind != SourceKind::kBuiltin;
}
// The text comes from files alone.
bool from_files(const CalibrationOptions& options);
// Sequences of a calibration, and of --effort fast.
inline constexpr int64_t kSamples = 128;
inline constexpr int64_t kFastSamples = 16;
// The number of sequences that is asked for, or that follows from method and effort.
int64_t samples_of(const QuantizeOptions& options);
// The share of the program's own text that the recipe `awq` takes where nothing else is asked for.
inline constexpr double kBuiltinShare = 1.0 / 16;
// The share that is asked for, or that follows from the method and gives at least one sequence; 0 unless the text comes
// from files alone.
double builtin_share_of(const QuantizeOptions& options);
// How many sequences of the program's own text are asked for beside files: builtin_share_of of samples_of, rounded to
// nearest, halves down. 0 unless the text comes from files alone.
int64_t builtin_sequences(const QuantizeOptions& options);
// Whether the evaluation reads a text that the caller names.
inline bool names_text(const EvaluationOptions& options) {
  return !options.text.empty() && options.text != "none";
}

}  // namespace metal_marlin
