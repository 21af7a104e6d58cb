#include <fmt/format.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/mixed_precision.h>
#include <metal_marlin/quantize.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "core/border.h"
#include "core/enum_names.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "core/files/held_folder.h"
#include "core/files/made_folders.h"
#include "core/threads.h"
#include "formats/npz.h"
#include "formats/safetensors.h"
#include "layouts/layouts.h"
#include "layouts/native.h"
#include "scale/search.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

struct Job {
  const std::string& model;
  const std::string& output;
  const std::string& activations;
  int64_t group_size;
  double salient_ratio;
  const std::string& method;
  const std::string& scheme;
  const Observer& observer;
};

void note(const Observer& observer, const std::string& text) {
  if (observer.on_note) observer.on_note(text);
}

// ---- a model with a config
// -------------------------------------------------------------------------------------------

void quantize_by_structure(const Job& job, AWQModelStats& stats) {
  QuantizeOptions options;
  options.calibration.calibration = {job.activations};
  options.evaluation.text = "none";
  options.formats = {"native"};
  options.method = Method::kAwqSalient;
  options.scheme = job.scheme == "sym" ? Scheme::kSymmetric : Scheme::kAsymmetric;
  options.range = RangeChoice::kGram;
  options.group_size = job.group_size;
  options.salient_ratio = job.salient_ratio;
  options.activation_method = enum_named<Statistic>(job.method);
  note(job.observer, fmt::format("Processing: {}", job.model));
  const Report report = quantize_model(job.model, job.output, options, job.observer).report;
  std::map<std::string, uint64_t> stored;
  const Inspection inspection = inspect_model(job.model, true);
  for (const InspectedTensor& t : inspection.tensors.value()) stored[t.name] = t.bytes;
  double weights = 0;
  std::map<std::string, int> quantized;
  for (const LinearRecord& linear : report.linears) {
    // Linears of a fused tensor are listed one by one, "NAME[q]".
    ++quantized[linear.name.substr(0, linear.name.find('['))];
    weights += static_cast<double>(linear.shape.at(0)) * static_cast<double>(linear.shape.at(1));
  }
  for (const auto& [name, parts] : quantized) stats.original_bytes += stored[name];
  stats.quantized_count = static_cast<int64_t>(quantized.size());
  stats.quantized_bytes = static_cast<uint64_t>(std::llround(report.model.linears_bits_per_weight * weights / 8));
  stats.bits_per_weight = report.model.bits_per_weight;
  std::set<std::string> named;
  for (const SkippedRecord& s : report.skipped) {
    stats.skipped.emplace_back(s.name, s.reason);
    named.insert(s.name);
  }
  for (const std::string& name : report.kept_in_16_bits) {
    if (named.insert(name).second) stats.skipped.emplace_back(name, "no linear of a block: copied as it is");
  }
}

// ---- files of tensors
// ------------------------------------------------------------------------------------------------

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

ElementType element_of(const TensorView& t) {
  switch (t.dtype) {
    case DType::kF16:
      return ElementType::kF16;
    case DType::kBF16:
      return ElementType::kBF16;
    case DType::kF64:
      return ElementType::kF64;
    default:
      return ElementType::kF32;
  }
}

// Key of the activations, or empty.
std::string activation_key(const NpzFile& npz, const std::string& name) {
  if (npz.contains(name)) return name;
  if (name.ends_with(".weight")) {
    const std::string module = name.substr(0, name.size() - 7);
    if (npz.contains(module)) return module;
  }
  return {};
}

// Why a tensor is not quantized; empty: it is. `warn`: for want of activations that fit.
std::string refusal(const TensorView& t, const NpzFile& npz, int64_t group_size, bool& warn) {
  std::string lower = t.name;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (!contains(lower, "weight")) return "not a weight";
  for (const char* part : {"embed", "norm", "bias", "lm_head"}) {
    if (contains(lower, part)) return fmt::format("its name contains \"{}\"", part);
  }
  if (layer_role(t.name) == "moe_router" || contains(lower, "router")) return "a router";
  if (t.shape.size() != 2) return fmt::format("expected a matrix, found {}", shape_string(t.shape));
  if (t.dtype != DType::kF16 && t.dtype != DType::kBF16 && t.dtype != DType::kF32 && t.dtype != DType::kF64) {
    return fmt::format("stored as {}", dtype_name(t.dtype));
  }
  if (t.shape[0] < 1 || t.shape[1] < 1) return "empty";
  warn = true;
  if (const std::string unfit = layout_named("native").refusal(t.shape[0], t.shape[1], group_size, kAwqQuantBits);
      !unfit.empty()) {
    return fmt::format("{}: {}", t.name, unfit);
  }
  const std::string key = activation_key(npz, t.name);
  if (key.empty()) return fmt::format("Missing activations for {}", t.name);
  const NpyHeader header = npz.header(key);
  if (header.shape.size() < 2 || header.shape.size() > 3 || header.columns() != t.shape[1] || header.rows() < 1) {
    return fmt::format("Activation shape mismatch for {} (got {}, expected [B, T, {}])", t.name,
                       shape_string(header.shape), t.shape[1]);
  }
  warn = false;
  return {};
}

class FileQuantizer {
 public:
  FileQuantizer(const Job& job, const NpzFile& npz, AWQModelStats& stats) : job_(job), npz_(npz), stats_(stats) {}

  void run(const fs::path& path) {
    note(job_.observer, fmt::format("Processing: {}", path.filename().string()));
    const SafetensorsFile file(path.string());
    std::vector<TensorInfo> infos;
    LayoutPlan plan;
    plan.group_size = job_.group_size;
    plan.symmetric = job_.scheme == "sym";
    std::set<std::string> quantized;
    for (const TensorView& t : file.tensors()) {
      bool warn = false;
      const std::string reason = refusal(t, npz_, job_.group_size, warn);
      if (!reason.empty()) {
        if (warn && job_.observer.on_warning) job_.observer.on_warning(reason + ", skipping");
        stats_.skipped.emplace_back(t.name, reason);
        infos.push_back({t.name, t.dtype, t.shape});
        kept_bytes_ += t.bytes.size();
        weights_ += static_cast<double>(t.elements());
        continue;
      }
      QuantizedLinear& linear = plan.quantized.emplace_back();
      linear.name = t.name;
      linear.out_features = t.shape[0];
      linear.in_features = t.shape[1];
      linear.group_size = job_.group_size;
      for (TensorInfo& part : native_parts(linear, true)) {
        part.name = t.name + part.name.substr(std::string("weight").size());
        infos.push_back(std::move(part));
      }
      quantized.insert(t.name);
    }
    std::string name = path.filename().string();
    name.resize(name.size() - std::string(".safetensors").size());
    SafetensorsWriter writer((fs::path(job_.output) / (name + ".awq.safetensors")).string(), infos,
                             native_metadata(plan, true));
    const auto order = writer.order();
    for (const TensorInfo& info : order) {
      const TensorView* source = file.find(info.name);
      if (source != nullptr && !quantized.contains(info.name)) {
        writer.write(info.name, source->bytes);
        file.release(*source);
        continue;
      }
      if (source != nullptr) quantize(*source);
      auto part = parts_.find(info.name);
      writer.write(info.name, std::as_bytes(std::span(part->second)));
      stats_.quantized_bytes += part->second.size();
      parts_.erase(part);
      if (source != nullptr) file.release(*source);
    }
    writer.commit();
  }
  double bits_per_weight() const {
    return weights_ > 0 ? 8.0 * static_cast<double>(kept_bytes_ + stats_.quantized_bytes) / weights_ : 0;
  }

 private:
  void quantize(const TensorView& t) {
    const std::string key = activation_key(npz_, t.name);
    const NpyHeader header = npz_.header(key);
    Matrix rows(header.rows(), header.columns());
    NpzRows reader = npz_.rows(key);
    reader.read(rows.rows(), rows.data());
    const int64_t k = t.shape[1];
    const ElementType type = element_of(t);
    // A header of odd length puts tensors at odd addresses.
    Buffer aligned;
    const std::byte* data = t.bytes.data();
    if (reinterpret_cast<uintptr_t>(data) % element_size(type) != 0) {
      aligned = Buffer(t.bytes.size());
      std::copy(t.bytes.begin(), t.bytes.end(), aligned.data());
      data = aligned.data();
    }
    const ArrayView weights{data, type, {k, t.shape[0]}, {1, k}};
    const ArrayView activations{rows.data(), ElementType::kF32, {rows.rows(), k}};
    AWQResult r;
    try {
      r = awq_quantize(weights, activations, job_.group_size, job_.salient_ratio, job_.method, job_.scheme,
                       job_.observer);
    } catch (const NumericError& e) {
      throw NumericError(fmt::format("{}: {}", t.name, e.what()));
    }
    parts_[t.name] = std::move(r.Q.bytes);
    parts_[t.name + ".scales"] = std::move(r.scales.bytes);
    parts_[t.name + ".zeros"] = std::move(r.zeros.bytes);
    parts_[t.name + ".q_scale"] = std::move(r.q_scale.bytes);
    ++stats_.quantized_count;
    stats_.original_bytes += t.bytes.size();
    weights_ += static_cast<double>(t.elements());
  }

  const Job& job_;
  const NpzFile& npz_;
  AWQModelStats& stats_;
  std::map<std::string, std::vector<std::byte>> parts_;  // until their turn in the file
  uint64_t kept_bytes_ = 0;
  double weights_ = 0;
};

std::vector<fs::path> tensor_files(const std::string& model) {
  std::vector<fs::path> files;
  if (is_folder(model)) {
    for (const fs::path& entry : entries_of(model)) {
      if (entry.extension() == ".safetensors") files.push_back(entry);
    }
    std::sort(files.begin(), files.end());
  } else if (fs::path(model).extension() == ".safetensors") {
    files.emplace_back(model);
  }
  if (files.empty())
    throw ArgumentError(
        "model_path",
        fmt::format("model_path: expected a .safetensors file or a folder with such files or a config.json, found {}",
                    model));
  return files;
}

// Activations of another model would leave everything as it is.
void expect_activations_of_some(const std::vector<fs::path>& files, const NpzFile& npz, int64_t group_size) {
  std::string wanted;
  std::string ungrouped;
  for (const fs::path& path : files) {
    const SafetensorsFile file(path.string());
    for (const TensorView& t : file.tensors()) {
      bool warn = false;
      if (refusal(t, npz, group_size, warn).empty()) return;
      if (warn && !layout_named("native").refusal(t.shape[0], t.shape[1], group_size, kAwqQuantBits).empty()) {
        if (ungrouped.empty()) ungrouped = fmt::format("{} of {}: {}", t.shape[1], path.filename().string(), t.name);
      } else if (warn && wanted.empty())
        wanted = fmt::format("\"{}\" of shape [B, T, {}]", t.name, t.shape[1]);
    }
  }
  if (wanted.empty() && !ungrouped.empty()) {
    throw ArgumentError(
        "group_size",
        fmt::format("group_size: expected a divisor of the in_features of some matrix, such as {}, found {}", ungrouped,
                    group_size));
  }
  if (wanted.empty()) return;  // no tensor that could be quantized
  throw FormatError(
      fmt::format("{}: expected activations of the model's tensors under their names (with or without .weight), as {}, "
                  "found those of "
                  "none",
                  npz.path(), wanted));
}

bool has_structure(const std::string& model) {
  const fs::path path(model);
  if (!path_exists(path)) return true;  // a name in the cache, or an error that says what to do
  if (is_folder(path)) return path_exists(path / "config.json");
  return path.extension() == ".gguf" || path_exists(path.parent_path() / "config.json");
}

}  // namespace

AWQModelStats awq_quantize_model(const std::string& model_path, const std::string& output_path,
                                 const std::string& activations_path, int64_t group_size, double salient_ratio,
                                 const std::string& activation_method, const std::string& scheme,
                                 const Observer& observer) try {
  const ThreadCount thread_count;
  expect_group_size(group_size);
  if (!(salient_ratio >= 0 && salient_ratio <= 1)) {
    throw ArgumentError("salient_ratio", fmt::format("salient_ratio: expected 0 to 1, found {}", salient_ratio));
  }
  parse_activation_method(activation_method);
  grid_of(scheme, group_size);
  AWQModelStats stats;
  stats.group_size = group_size;
  stats.salient_ratio = salient_ratio;
  const Job job{model_path,    output_path,       activations_path, group_size,
                salient_ratio, activation_method, scheme,           observer};
  if (has_structure(model_path)) {
    quantize_by_structure(job, stats);
  } else {
    const std::vector<fs::path> files = tensor_files(model_path);
    const NpzFile npz(activations_path);
    std::error_code code;
    const fs::path folder = is_folder(model_path) ? fs::path(model_path) : absolute_path(model_path).parent_path();
    if (fs::equivalent(folder, output_path, code)) {
      throw ArgumentError(
          "output_path",
          fmt::format("output_path: expected another folder than the model's own, found {}", output_path));
    }
    expect_activations_of_some(files, npz, group_size);
    MadeFolders made(output_path);
    const HeldFolder held(std::make_shared<const Folder>(output_path));
    FileQuantizer quantizer(job, npz, stats);
    for (const fs::path& file : files) quantizer.run(file);
    made.keep();
    stats.bits_per_weight = quantizer.bits_per_weight();
  }
  stats.skipped_count = static_cast<int64_t>(stats.skipped.size());
  if (stats.quantized_bytes > 0) {
    stats.compression_ratio = static_cast<double>(stats.original_bytes) / static_cast<double>(stats.quantized_bytes);
  }
  return stats;
} catch (...) {
  rethrow_as_error("awq_quantize_model");
}

}  // namespace metal_marlin
