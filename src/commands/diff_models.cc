// diff: in what two checkpoints of one model differ.
#include <fmt/format.h>
#include <metal_marlin/diff.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "checkpoint/model_source.h"
#include "commands/two_models.h"
#include "core/border.h"
#include "core/interrupt.h"
#include "core/threads.h"
#include "report/render/printable.h"
#include "stages/unfold.h"

namespace metal_marlin {
namespace {

template <class T>
double differing(const std::vector<T>& a, const std::vector<T>& b) {
  size_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += a[i] != b[i] ? 1 : 0;
  return a.empty() ? 0 : static_cast<double>(count) / static_cast<double>(a.size());
}

// Largest relative difference of two lists of 16-bit floats, each of its type.
double largest_change(const std::vector<uint16_t>& a, ScaleType type_a, const std::vector<uint16_t>& b,
                      ScaleType type_b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = decode_scale(a[i], type_a);
    const double y = decode_scale(b[i], type_b);
    if (x == y) continue;
    largest = std::max(largest, x == 0 ? 1.0 : std::fabs(y - x) / std::fabs(x));
  }
  return largest;
}

// The share of groups whose zeros differ, or their minima.
double zero_changes(const QuantizedTensor& a, const QuantizedTensor& b) {
  if (a.minima.empty()) return differing(a.zeros, b.zeros);
  size_t count = 0;
  for (size_t i = 0; i < a.minima.size(); ++i) count += a.minimum(i) != b.minimum(i) ? 1 : 0;
  return static_cast<double>(count) / static_cast<double>(a.minima.size());
}

// Fills in what codes tell. True: the two hold the same weights, so that floats need not be made.
bool compare_codes(const ModelSource& a, const ModelSource& b, const std::string& name, DiffTensor& out) {
  const auto codes_a = a.load_codes(name);
  if (!codes_a) return false;
  const auto codes_b = b.load_codes(name);
  if (!codes_b) return false;
  const QuantizedTensor& x = codes_a->tensor;
  const QuantizedTensor& y = codes_b->tensor;
  if (x.bits != y.bits || x.group_size != y.group_size || x.minima.size() != y.minima.size() ||
      x.codes.size() != y.codes.size() || x.scales.size() != y.scales.size() || x.zeros.size() != y.zeros.size())
    return false;
  out.codes = differing(x.codes, y.codes);
  // Where groups are scattered in another way, the scales of one have no partner.
  if (x.group_index != y.group_index) return false;
  out.scales = largest_change(x.scales, x.scale_type, y.scales, y.scale_type);
  out.zeros = zero_changes(x, y);
  return *out.codes == 0 && *out.scales == 0 && *out.zeros == 0 && codes_a->q_scale == codes_b->q_scale;
}

DiffForm form_of(const CheckpointTensor& t) {
  DiffForm form{.stored_as = t.stored_as, .bits = {}, .group_size = {}};
  if (t.bits > 0) {
    form.bits = t.bits;
    form.group_size = t.group_size;
  }
  return form;
}

// Nothing where both hold the same values.
std::optional<DiffTensor> change_of(const TwoModels& two, const std::string& name) {
  const CheckpointTensor& a = two.of_a.at(name);
  const CheckpointTensor& b = two.of_b.at(name);
  DiffTensor out{.name = name,
                 .shape = a.shape,
                 .a = form_of(a),
                 .b = form_of(b),
                 .codes = {},
                 .scales = {},
                 .zeros = {},
                 .relative_difference = 0,
                 .max_difference = 0};
  const bool same = a.bits > 0 && b.bits > 0 && compare_codes(*two.a, *two.b, name, out);
  if (!same) {
    const Difference d =
        difference_of(two.a->stored_name(name), two.a->load(name), two.b->load(name), two.a->path(), two.b->path());
    out.relative_difference = d.relative();
    out.max_difference = d.max;
  }
  two.a->release(name);
  two.b->release(name);
  return same || out.max_difference == 0 ? std::nullopt : std::optional(out);
}

void put(std::vector<DiffTensor>& list, DiffTensor change, int64_t limit) {
  if (limit == 0 || static_cast<int64_t>(list.size()) < limit) list.push_back(std::move(change));
}

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.2f} %", *share * 100) : "-";
}

std::string form_text(const DiffForm& form) {
  if (!form.bits) return form.stored_as;
  return fmt::format("{} {}b g{}", form.stored_as, *form.bits, form.group_size.value_or(0));
}

std::string table(const std::vector<DiffTensor>& changes, uint64_t count) {
  std::string out = fmt::format("{:<52} {:>9} {:>9} {:>9} {:>10}  {}\n", "tensor", "codes", "scales", "zeros",
                                "||B-A||/||A||", "A / B");
  for (const DiffTensor& t : changes) {
    out += fmt::format("{:<52} {:>9} {:>9} {:>9} {:>13.5f}  {} / {}\n", t.name, percent(t.codes), percent(t.scales),
                       percent(t.zeros), t.relative_difference, form_text(t.a), form_text(t.b));
  }
  if (changes.size() < count) out += fmt::format("... and {} more\n", count - changes.size());
  return out;
}

}  // namespace

DiffResult diff_models(const std::string& a, const std::string& b, const DiffOptions& options) try {
  if (options.limit < 0) {
    throw ArgumentError("limit", fmt::format("--limit: expected 0 or more, found {}", options.limit));
  }
  const ThreadCount thread_count(options.machine.threads);
  const TwoModels two = open_two(a, b);
  DiffResult result;
  result.a = two.a->path();
  result.b = two.b->path();
  std::vector<std::string> linears;
  std::set<std::string> seen;
  for (int64_t layer = 0; layer < two.a->config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : two.a->linears(layer)) {
      if (two.of_b.count(slot.weight) > 0 && seen.insert(slot.weight).second) linears.push_back(slot.weight);
    }
  }
  result.linears = linears.size();
  for (const std::string& name : linears) {
    stop_if_asked();
    if (auto change = change_of(two, name)) {
      ++result.changed_linears;
      put(result.linear_changes, std::move(*change), options.limit);
    }
  }
  for (const auto& [name, tensor] : two.of_a) {
    if (two.of_b.count(name) == 0 || seen.count(name) > 0) continue;
    stop_if_asked();
    ++result.others;
    if (auto change = change_of(two, name)) {
      ++result.changed_others;
      put(result.other_changes, std::move(*change), options.limit);
    }
  }
  result.only_in_a = two.only_in_a();
  result.only_in_b = two.only_in_b();
  result.equal =
      result.changed_linears == 0 && result.changed_others == 0 && result.only_in_a.empty() && result.only_in_b.empty();
  result.warnings = two.warnings();
  return result;
} catch (...) {
  rethrow_as_error("diff_models");
}

std::string render_diff(const DiffResult& result) try {
  DiffResult r = result;
  make_printable(r);
  std::string out = fmt::format("A {}\nB {}\n", r.a, r.b);
  out += r.equal ? fmt::format("equal: {} linears and {} other tensors\n", r.linears, r.others)
                 : fmt::format("{} of {} linears and {} of {} other tensors differ\n", r.changed_linears, r.linears,
                               r.changed_others, r.others);
  if (!r.linear_changes.empty()) out.append("\n").append(table(r.linear_changes, r.changed_linears));
  if (!r.other_changes.empty()) out.append("\n").append(table(r.other_changes, r.changed_others));
  for (const std::string& name : r.only_in_a) out += fmt::format("only in A: {}\n", name);
  for (const std::string& name : r.only_in_b) out += fmt::format("only in B: {}\n", name);
  for (const std::string& warning : r.warnings) out += fmt::format("warning: {}\n", warning);
  return out;
} catch (...) {
  rethrow_as_error("render_diff");
}

}  // namespace metal_marlin
