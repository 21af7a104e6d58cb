#include "run/run_streams.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <utility>
#include <vector>

#include "core/machine.h"
#include "layouts/layouts.h"
#include "quantize/rounding/rounded_rows.h"
#include "tokenizer/token_set.h"
#include "write/outer_types.h"

namespace metal_marlin {
namespace {

constexpr double kSnapshotSeconds = 120;

// By the names in the journal.
std::vector<std::pair<const char*, Stream*>> named(const RunStreams& streams) {
  return {{"calibration", streams.calibration.get()},
          {"reference", streams.reference.get()},
          {"quantized", streams.quantized.get()}};
}

}  // namespace

RowRounding outer_rounding(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options) {
  const Layout& layout = layout_named(options.formats.front());
  std::map<std::string, GgmlType> types;
  std::map<std::string, Grid> grids;
  for (const std::string& name : {source.family().embedding, source.head_tensor()}) {
    const auto type = outer_type(source, layout, recipe.outer, name);
    if (type && !stored_in(source, name, *type)) types[name] = *type;
    if (const auto grid = outer_grid(source, layout, recipe.outer, recipe.grid.group_size, name)) grids[name] = *grid;
  }
  if (types.empty() && grids.empty()) return {};
  return [types = std::move(types), grids = std::move(grids)](const std::string& tensor, Matrix& rows) {
    if (const auto it = types.find(tensor); it != types.end()) round_outer_rows(it->second, rows);
    if (const auto it = grids.find(tensor); it != grids.end()) rows = dequantize(round_rows(rows, it->second));
  };
}

RunStreams make_streams(const ModelSource& source, const Recipe& recipe, const RunTexts& texts,
                        const std::string& scratch_folder, const RowRounding& rounding) {
  const auto stream = [&](const TokenSet& set, MatmulPrecision precision, const char* name,
                          const RowRounding& embedding = {}) {
    StreamOptions options;
    options.precision = precision;
    options.embedding = embedding;
    if (!scratch_folder.empty()) options.scratch = (std::filesystem::path(scratch_folder) / name).string();
    return std::make_unique<Stream>(source, set.lengths(), options);
  };
  RunStreams streams;
  streams.calibration = stream(texts.calibration, recipe.precision, "scratch-calibration");
  streams.reference = stream(texts.held_back, MatmulPrecision::kF32, "scratch-reference");
  streams.quantized = stream(texts.held_back, MatmulPrecision::kF32, "scratch-quantized", rounding);
  return streams;
}

void embed_texts(const RunTexts& texts, RunStreams& streams) {
  streams.calibration->embed(texts.calibration);
  streams.reference->embed(texts.held_back);
  streams.quantized->embed(texts.held_back);
}

void save_states(int64_t layer, const RunStreams& streams, Journal& journal) {
  std::vector<TensorView> views;
  for (const auto& [name, stream] : named(streams)) {
    if (stream->rows() > 0) views.push_back(stream->saved(name));
  }
  journal.write_states(layer, views);
}

void restore_states(int64_t layer, const Journal& journal, RunStreams& streams) {
  const auto all = named(streams);
  const std::vector<OwnedTensor> saved = journal.read_states(layer);
  for (const OwnedTensor& t : saved) {
    const auto it = std::find_if(all.begin(), all.end(), [&](const auto& entry) { return entry.first == t.name; });
    if (it == all.end() || !it->second->restore(t)) {
      throw FormatError(
          fmt::format("{}: unexpected saved states \"{}\"; run again with --no-resume", journal.folder(), t.name));
    }
  }
  for (const auto& [name, stream] : all) {
    const auto of_stream = [&, &wanted = name](const OwnedTensor& t) { return t.name == wanted; };
    if (stream->rows() == 0 || std::any_of(saved.begin(), saved.end(), of_stream)) continue;
    throw FormatError(
        fmt::format("{}: expected saved states \"{}\" before block {}, found none; run again with "
                    "--no-resume",
                    journal.folder(), name, layer));
  }
}

SnapshotClock::SnapshotClock() : last_(wall_seconds()) {
  const char* text = std::getenv("METAL_MARLIN_SNAPSHOT_SECONDS");
  if (text == nullptr) return;
  char* end = nullptr;
  fixed_interval_ = std::strtod(text, &end);
  if (end == text || *end != 0 || !(fixed_interval_ >= 0))
    throw ArgumentError(fmt::format("METAL_MARLIN_SNAPSHOT_SECONDS: expected seconds >= 0, found '{}'", text));
}

bool SnapshotClock::due() const {
  const double interval = fixed_interval_ >= 0 ? fixed_interval_ : std::max(kSnapshotSeconds, 10 * cost_);
  return wall_seconds() - last_ >= interval;
}

void SnapshotClock::saved(double seconds) {
  cost_ = seconds;
  last_ = wall_seconds();
}

}  // namespace metal_marlin
