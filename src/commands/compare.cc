// compare: how the weights of two checkpoints differ.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>
#include <metal_marlin/inspect.h>

#include <algorithm>
#include <set>
#include <span>

#include "checkpoint/model_source.h"
#include "commands/two_models.h"
#include "core/border.h"
#include "core/threads.h"
#include "model/block.h"
#include "report/render/printable.h"
#include "stages/unfold.h"

namespace metal_marlin {

namespace {

// Undoes what folding moved between neighbours in all linears of a block.
void unfold(const ModelSource& source, Block& a, Block& b) {
  Unfolding unfolding(source.family(), source.config());
  for (int k = 0; k < kLinears; ++k) {  // v stands before o, up before down
    const auto kind = static_cast<LinearKind>(k);
    NormKind norm{};
    const bool fed = Unfolding::norm_before(kind, norm);
    const std::span<const float> norm_a = fed ? std::span<const float>(a.norm(norm)) : std::span<const float>();
    const std::span<const float> norm_b = fed ? std::span<const float>(b.norm(norm)) : std::span<const float>();
    unfolding.undo(kind, norm_a, norm_b, a.linear(kind).weight, b.linear(kind).weight);
  }
}

}  // namespace

Comparison compare_models(const std::string& a, const std::string& b, const MachineOptions& machine) try {
  const ThreadCount thread_count(machine.threads);
  const TwoModels two = open_two(a, b);
  const auto& source_a = two.a;
  const auto& source_b = two.b;
  const auto& of_a = two.of_a;
  const auto& of_b = two.of_b;
  Comparison result;
  result.a = source_a->path();
  result.b = source_b->path();
  Difference total;
  std::set<std::string> seen;
  const auto row = [&](const std::string& name, const std::string& stored, const Difference& d) {
    const CheckpointTensor& t = of_a.at(stored);
    result.tensors.push_back({name, t.shape, d.relative(), d.max, {t.stored_as, of_b.at(stored).stored_as}});
    seen.insert(stored);
  };
  for (int64_t layer = 0; layer < source_a->config().num_hidden_layers; ++layer) {
    Block block_a = load_block(*source_a, layer);
    Block block_b = load_block(*source_b, layer);
    unfold(*source_a, block_a, block_b);
    Difference sum;
    const auto slots = source_a->linears(layer);
    for (const LinearSlot& slot : slots) {
      const Difference d = difference_of(source_a->stored_name(slot.weight), block_a.linear(slot.kind).weight,
                                         block_b.linear(slot.kind).weight, source_a->path(), source_b->path());
      const bool fused =
          std::count_if(slots.begin(), slots.end(), [&](const LinearSlot& s) { return s.weight == slot.weight; }) > 1;
      row(fused ? fmt::format("{}[{}]", slot.weight, linear_kind_name(slot.kind)) : slot.weight, slot.weight, d);
      sum.add(d);
      source_a->release(slot.weight);
      source_b->release(slot.weight);
    }
    for (const NormKind kind : {NormKind::kInput, NormKind::kPreFeedForward})
      seen.insert(source_a->norm_name(layer, kind));
    total.add(sum);
    result.layers.push_back({layer, sum.relative(), sum.max});
  }
  for (const auto& [name, t] : of_a) {
    if (of_b.count(name) == 0 || seen.count(name) > 0) continue;
    row(name, name,
        difference_of(source_a->stored_name(name), source_a->load(name), source_b->load(name), source_a->path(),
                      source_b->path()));
    source_a->release(name);
    source_b->release(name);
  }
  result.only_in_a = two.only_in_a();
  result.only_in_b = two.only_in_b();
  result.relative_error = total.relative();
  result.warnings = two.warnings();
  return result;
} catch (...) {
  rethrow_as_error("compare_models");
}

std::string render_comparison(const Comparison& comparison) try {
  Comparison r = comparison;
  make_printable(r);
  std::string out = fmt::format("A {}\nB {}\nrelative error of the linears of B: {:.5f}\n", r.a, r.b, r.relative_error);
  out += fmt::format("\n{:>6} {:>14} {:>12}\n", "layer", "relative error", "max error");
  for (const ComparedLayer& l : r.layers)
    out += fmt::format("{:>6} {:>14.5f} {:>12.5f}\n", l.layer, l.relative_error, l.max_error);
  out += fmt::format("\n{:<58} {:>14} {:>12}  {}\n", "tensor", "relative error", "max error", "stored as");
  for (const ComparedTensor& t : r.tensors) {
    out += fmt::format("{:<58} {:>14.5f} {:>12.5f}  {}\n", t.name, t.relative_error, t.max_error,
                       fmt::join(t.stored_as, " / "));
  }
  for (const std::string& name : r.only_in_a) out += fmt::format("only in A: {}\n", name);
  for (const std::string& name : r.only_in_b) out += fmt::format("only in B: {}\n", name);
  for (const std::string& warning : r.warnings) out += fmt::format("warning: {}\n", warning);
  return out;
} catch (...) {
  rethrow_as_error("render_comparison");
}

}  // namespace metal_marlin
