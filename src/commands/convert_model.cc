// convert: a quantized checkpoint into another format. Look at scales and zeros of every linear -> refuse or plan ->
// write, one tensor at a time, into a folder of ours -> move it to its place.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "checkpoint/model_source.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "core/half.h"
#include "core/machine.h"
#include "core/progress.h"
#include "core/threads.h"
#include "formats/text.h"
#include "layouts/gguf_types.h"
#include "layouts/layouts.h"
#include "pack/ggml_codes.h"
#include "plan/run_warnings.h"
#include "report/card_facts.h"
#include "report/render/printable.h"
#include "report/size.h"
#include "run/journal/journal.h"
#include "run/output/output_checks.h"
#include "run/output/output_folder.h"
#include "tokenizer/tokenizer.h"
#include "write/checkpoint_writer.h"
#include "write/manifest.h"
#include "write/outer_types.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

// Delivers each linear as the source stores it, and releases its pages as soon as it is read.
class SourceProvider : public TensorProvider {
 public:
  explicit SourceProvider(const ModelSource& source) : source_(source) {}
  QuantizedTensor quantized(const std::string& name) override {
    StoredCodes stored = *source_.load_codes(name);
    source_.release(name);
    return std::move(stored.tensor);
  }
  OwnedTensor changed(const std::string& name) override {
    throw ArgumentError(fmt::format("{}: a conversion changes no tensor", name));
  }

 private:
  const ModelSource& source_;
};

// Why the target cannot hold this linear; empty: it can.
std::string refusal(const Layout& layout, const StoredCodes& stored) {
  const QuantizedTensor& t = stored.tensor;
  if (std::any_of(stored.q_scale.begin(), stored.q_scale.end(), [](uint16_t s) { return s != f32_to_f16(1.0F); })) {
    return "a q_scale per input channel is stored beside it, which is read but not written";
  }
  if (!t.group_index.empty() && !layout.holds_act_order()) {
    return "its groups are in act order (g_idx), which only GPTQ formats can say; reordering the columns would change "
           "the model";
  }
  Grid grid = t.grid();
  if (t.group_size == t.in_features) grid.group_size = -1;
  if (const std::string reason = layout.refusal_of(grid); !reason.empty()) return "the format " + reason;
  if (const std::string reason = layout.refusal(t.out_features, t.in_features, t.group_size, t.bits); !reason.empty())
    return reason;
  return layout.refusal_of_zeros(t);
}

// The weights of the model's linears that are stored as blocks of a GGUF file: which of them are codes, and which are
// blocks that no other layout has.
struct GgufLinears {
  std::set<std::string> codes;
  std::map<std::string, std::string> blocks;  // name -> type
};
GgufLinears gguf_linears(const ModelSource& source) {
  GgufLinears out;
  if (source.format() != "gguf") return out;
  std::set<std::string> linears = {source.family().head};
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : source.linears(layer)) linears.insert(slot.weight);
  }
  for (const CheckpointTensor& t : source.tensors()) {
    if (linears.count(t.name) == 0 || !source.code_form(t.name)) continue;
    if (t.name == source.family().head) continue;  // becomes floats, as an embedding does
    const auto type = outer_type_named(t.stored_as);
    const auto grid = type ? grid_of_type(*type) : std::nullopt;
    if (grid && !grid->block) {
      out.codes.insert(t.name);
    } else {
      out.blocks[t.name] = t.stored_as;
    }
  }
  return out;
}

// Of a GGUF target: the type that most linears have must be that of its name.
void require_named_type(const ModelSource& source, const Layout& layout, const CheckpointPlan& plan) {
  if (!layout.own_grid()) return;
  std::map<std::string, size_t> types;
  for (const QuantizedLinear& l : plan.quantized) {
    ++types[std::string(ggml_type_info(*gguf_type(l)).name)];
  }
  const auto most =
      std::max_element(types.begin(), types.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (layout.name() == "gguf:" + most->first) return;
  throw UnsupportedError(fmt::format("{}: its codes are those of {}: choose --to gguf:{}, or quantize to {}",
                                     source.path(), most->first, most->first, layout.name()));
}

CheckpointPlan plan_conversion(const ModelSource& source, const GgufLinears& gguf, const Layout& layout,
                               Tracker& tracker) {
  CheckpointPlan plan;
  plan.converted_from = source.format();
  const StoredLayout* from = find_stored_layout(source.format());
  plan.keep_types = from != nullptr && from->method() == std::string_view(layout.method());
  plan.held_bytes = 8u << 20;  // small parts among the codes of one linear after the other fragment the heap
  plan.whole_bytes = 16u << 20;
  std::map<int64_t, size_t> sizes;
  std::map<int, size_t> widths;
  bool rows = true;  // every linear has one group per row
  if (!gguf.blocks.empty()) {
    const auto& [name, type] = *gguf.blocks.begin();
    throw UnsupportedError(
        fmt::format("{}: tensor {} cannot be stored in format {}: the blocks of {} have scales of few "
                    "bits, or levels that are not even, which no format but GGUF holds; quantize "
                    "rounds it anew, --to f16 keeps its values",
                    source.path(), source.stored_name(name), layout.name(), type));
  }
  const auto tensors = source.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const CheckpointTensor& tensor = tensors[i];
    if (tensor.stored_as != source.format() && gguf.codes.count(tensor.name) == 0) continue;
    tracker.enter("check", static_cast<int64_t>(i), static_cast<int64_t>(tensors.size()));
    const StoredCodes stored = *source.load_codes(tensor.name, Codes::kSkip);
    source.release(tensor.name);
    const QuantizedTensor& t = stored.tensor;
    if (const std::string reason = refusal(layout, stored); !reason.empty()) {
      throw UnsupportedError(fmt::format("{}: tensor {} cannot be stored in format {}: {}", source.path(), tensor.name,
                                         layout.name(), reason));
    }
    plan.quantized.push_back(
        {tensor.name, t.out_features, t.in_features, t.group_size, "", t.bits, t.symmetric && t.minima.empty()});
    plan.symmetric = plan.symmetric && t.symmetric;
    plan.act_order = plan.act_order || !t.group_index.empty();
    rows = rows && t.group_size == t.in_features;
    ++sizes[t.group_size];
    ++widths[t.bits];
  }
  if (plan.quantized.empty()) {
    throw FormatError(
        fmt::format("{}: its config says {}, but no tensor is stored so", source.path(), source.format()));
  }
  require_named_type(source, layout, plan);
  const auto fewer = [](const auto& a, const auto& b) { return a.second < b.second; };
  plan.group_size = rows ? -1 : std::max_element(sizes.begin(), sizes.end(), fewer)->first;
  plan.bits = std::max_element(widths.begin(), widths.end(), fewer)->first;
  // One linear with other zeros makes all asymmetric, but in GGUF, where each has a type of its own.
  if (!layout.own_grid()) {
    for (QuantizedLinear& l : plan.quantized) l.symmetric = plan.symmetric;
  }
  for (const QuantizedLinear& l : plan.quantized) {
    if (l.bits != plan.bits && layout.one_grid(plan.symmetric)) {
      throw UnsupportedError(
          fmt::format("{}: tensor {} cannot be stored in format {}: it has {} bits, others {}, and only native and "
                      "GPTQ have several widths",
                      source.path(), l.name, layout.name(), l.bits, plan.bits));
    }
    if (!layout.one_grid(plan.symmetric) || rows || l.group_size == std::min(plan.group_size, l.in_features)) continue;
    throw UnsupportedError(
        fmt::format("{}: tensor {} cannot be stored in format {}: it has groups of {}, the others of {}, and only "
                    "native and GPTQ have several sizes",
                    source.path(), l.name, layout.name(), l.group_size, plan.group_size));
  }
  return plan;
}

// Every tensor becomes float16.
CheckpointPlan plan_dequantization(const ModelSource& source) {
  CheckpointPlan plan;
  plan.converted_from = source.format();
  return plan;
}

// NaN and infinity in what is copied are found before anything is written; the scales of codes were looked at.
void check_copied_tensors(const ModelSource& source, const CheckpointPlan& plan, Tracker& tracker) {
  std::set<std::string> codes;
  for (const QuantizedLinear& l : plan.quantized) codes.insert(l.name);
  for (const CheckpointTensor& tensor : source.tensors()) {
    if (codes.count(tensor.name) > 0) continue;
    tracker.enter("check", 0, 0);
    source.check_finite(tensor.name);
  }
}

// The folder is new, empty, or holds what this program wrote and nothing else.
void check_output_folder(const ModelSource& source, const OutputFolder& output, bool overwrite) {
  const Journal journal(output.path());
  if (journal.exists() || !journal.file_without_run().empty()) {
    throw SystemError(fmt::format(
        "{}: holds an interrupted run of quantize; end it with its command, or choose another folder", output.path()));
  }
  const Manifest manifest = output.manifest();
  const std::vector<std::string> foreign = foreign_names(output.folder(), manifest);
  if (!foreign.empty()) {
    throw SystemError(fmt::format(
        "{}: expected an empty or new folder, or a result of this program and nothing else, found {}{}; move "
        "it away, or choose another folder{}",
        output.path(), some_names(foreign), unreadable_list_text(output.folder()),
        overwrite ? "" : " (--overwrite replaces what this program wrote, and only that)"));
  }
  if (manifest.empty()) return;
  refuse_model_inside(source, output.path());
  if (!overwrite && !output.interrupted()) {
    throw ArgumentError("output", fmt::format("{}: expected an empty or new folder; use --overwrite to replace the "
                                              "result in it",
                                              output.path()));
  }
}

// Removes the unfinished result when the conversion ends by an error.
class StagedResult {
 public:
  explicit StagedResult(OutputFolder& folder) : folder_(folder) {}
  ~StagedResult() {
    try {
      // The next run completes a result that is being moved file by file.
      if (!placed && !folder_.interrupted()) folder_.remove_journal();
    } catch (const Error&) {
      return;  // the next run in this folder removes it
    }
  }
  StagedResult(const StagedResult&) = delete;
  StagedResult& operator=(const StagedResult&) = delete;

  bool placed = false;

 private:
  OutputFolder& folder_;
};

}  // namespace

ConvertResult convert_model(const std::string& model, const std::string& output, const ConvertOptions& options,
                            const Observer& observer) try {
  const ThreadCount thread_count(options.threads);
  const CheckpointWriter writer = CheckpointWriter::of(options.to);
  const auto source = ModelSource::open(model);
  source->check();
  const bool to_floats = writer.layout().widths().empty();
  const GgufLinears gguf = gguf_linears(*source);
  if (!source->quantized() && !to_floats && gguf.codes.empty() && gguf.blocks.empty()) {
    throw UnsupportedError(
        fmt::format("{}: expected a quantized checkpoint ({}), found {}; quantize "
                    "makes one from it, --to f16 a folder in float16",
                    source->path(), fmt::join(checkpoint_formats(), ", "), source->format()));
  }
  if (output.empty()) throw ArgumentError("output", "output: expected a folder, got nothing");
  refuse_own_folder(*source, output);
  Tracker tracker(observer);
  const OutputFolder::Warn warn = [&](const std::string& text) { tracker.warn(text); };
  OutputFolder folder(output, OutputFolder::Use::kWrite, warn);
  check_output_folder(*source, folder, options.overwrite);
  tracker.warn_of(source->warnings());
  // The tokenizer's files are copied as they are, so a fault in them is a warning.
  try {
    for (const std::string& warning : source->tokenizer().warnings()) tracker.warn(warning);
  } catch (const Error& e) {
    tracker.warn(fmt::format("the tokenizer goes along, but cannot be used as it is: {}", e.what()));
  }
  CheckpointPlan plan =
      to_floats ? plan_dequantization(*source) : plan_conversion(*source, gguf, writer.layout(), tracker);
  if (!to_floats) {
    // The codes are the same, so what was measured of them holds.
    CardFacts facts = card_facts(source->path());
    plan.base_model = std::move(facts.name);
    plan.calibration = std::move(facts.calibration);
    plan.evaluation = std::move(facts.evaluation);
    plan.figures = facts.figures;
  }
  check_copied_tensors(*source, plan, tracker);
  const std::string& head = source->family().head;
  if (!writer.layout().readers_load_head() && std::any_of(plan.quantized.begin(), plan.quantized.end(),
                                                          [&](const QuantizedLinear& l) { return l.name == head; })) {
    tracker.warn(
        fmt::format("{}: the head ({}) is quantized, and readers of {} checkpoints do not load a "
                    "quantized head; use gptq, gptq_v2 or native",
                    source->path(), head, writer.layout().card_words(plan).text));
  }
  SourceProvider provider(*source);
  StagedResult staged(folder);
  const std::string place = folder.stage();
  const WriteReport written = writer.write(*source, plan, provider, place, [&](int64_t done, int64_t total) {
    if (total > 0) tracker.set_fraction(static_cast<double>(done) / static_cast<double>(total));
    tracker.enter("write", done, total);
  });
  std::vector<std::string> names;
  for (const WrittenFile& file : written.files) names.push_back(file.name);
  write_text_file((fs::path(place) / kManifestName).string(),
                  manifest_text(names, to_floats ? quantized_storage(*source) : std::string()));
  source->check_unchanged();
  folder.place(warn);
  staged.placed = true;

  ConvertResult result;
  result.model = source->path();
  result.output = output;
  result.from = source->format();
  result.to = options.to;
  result.linears = plan.quantized.size();
  result.kept = source->tensors().size() - plan.quantized.size();
  if (!to_floats) {
    result.group_size = plan.group_size;
    result.symmetric = plan.symmetric;
    result.bits = plan.bits;
  }
  result.bits_per_weight = written.bits_per_weight;
  result.bytes = written.total_bytes();
  for (const WrittenFile& file : written.files) result.files.push_back({file.name, file.bytes});
  for (const ClampedTensor& c : written.clamped) {
    ClampedRecord& clamped = result.clamped.emplace_back();
    clamped.name = c.name;
    clamped.clamped = c.clamped;
    clamped.flushed = c.flushed;
    clamped.largest = c.largest;
  }
  for (const std::string& text : float16_warnings(*source, written, {})) tracker.warn(text);
  result.warnings = tracker.warnings();
  result.seconds = tracker.seconds();
  result.peak_memory_bytes = peak_resident_bytes();
  return result;
} catch (...) {
  rethrow_as_error("convert_model");
}

std::string render_conversion(const ConvertResult& result) try {
  ConvertResult r = result;
  make_printable(r);
  if (!r.group_size) {
    return fmt::format("{} -> {}: {}\n{}: {}, {:.1f} s\n", r.from, r.to, counted(r.kept, "tensor"), r.output,
                       size_text(r.bytes), r.seconds);
  }
  return fmt::format("{} -> {}: {} ({}, {}), {}\n{}: {}, {:.3f} bits per weight, {:.1f} s\n", r.from, r.to,
                     counted(r.linears, "linear"),
                     *r.group_size < 0 ? std::string("one group per row") : fmt::format("groups of {}", *r.group_size),
                     r.symmetric.value_or(true) ? "symmetric" : "asymmetric", counted(r.kept, "other tensor"), r.output,
                     size_text(r.bytes), r.bits_per_weight, r.seconds);
} catch (...) {
  rethrow_as_error("render_conversion");
}

}  // namespace metal_marlin
