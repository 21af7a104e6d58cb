#include "options/sources.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace metal_marlin {

SourceKind source_kind(const std::string& source) {
  if (source == "self") return SourceKind::kSelf;
  if (source == "builtin") return SourceKind::kBuiltin;
  const auto extension = std::filesystem::path(source).extension();
  if (extension == ".npz" || extension == ".gguf") return SourceKind::kStatistics;
  return extension == ".jsonl" ? SourceKind::kConversations : SourceKind::kText;
}

const char* source_kind_name(SourceKind kind) noexcept {
  constexpr const char* kNames[] = {"self", "builtin", "text", "conversations", "statistics"};
  return kNames[static_cast<int>(kind)];
}

bool has_source(const CalibrationOptions& options, SourceKind kind) {
  return std::any_of(options.calibration.begin(), options.calibration.end(),
                     [&](const std::string& s) { return source_kind(s) == kind; });
}

bool from_files(const CalibrationOptions& options) {
  return !options.calibration.empty() &&
         std::all_of(options.calibration.begin(), options.calibration.end(), [](const std::string& s) {
           const SourceKind kind = source_kind(s);
           return kind == SourceKind::kText || kind == SourceKind::kConversations;
         });
}

int64_t samples_of(const QuantizeOptions& options) {
  const bool few = options.effort == Effort::kFast && options.method == Method::kAwq;
  const int64_t usual = few && !from_statistics(options.calibration) ? kFastSamples : kSamples;
  return options.calibration.samples.value_or(usual);
}

int64_t builtin_sequences(const QuantizeOptions& options) {
  const double share = options.builtin_share.value_or(options.method == Method::kAwq ? kBuiltinShare : 0);
  if (!(share > 0) || !from_files(options.calibration)) return 0;
  return static_cast<int64_t>(std::ceil(share * static_cast<double>(samples_of(options)) - 0.5));
}

double builtin_share_of(const QuantizeOptions& options) {
  if (!from_files(options.calibration)) return 0;
  return options.builtin_share.value_or(builtin_sequences(options) > 0 ? kBuiltinShare : 0);
}

}  // namespace metal_marlin
