#include "kernels/dispatch.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <hwy/targets.h>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "core/threads.h"
#include "kernels/instruction_sets.h"
#include "kernels/tables.h"

namespace metal_marlin {
namespace {

struct Row {
  Isa isa;
  const char* name;
  int64_t target;  // Highway's bit; 0: needs nothing
};
constexpr std::array<Row, 5> kRows = {{{Isa::kScalar, "scalar", 0},
                                       {Isa::kSse4, "sse4", HWY_SSE4},
                                       {Isa::kAvx2, "avx2", HWY_AVX2},
                                       {Isa::kAvx512, "avx512", HWY_AVX3},
                                       // Every 64-bit ARM processor has NEON. Highway's bit would also want AES,
                                       // which no kernel uses and a Raspberry Pi 4 lacks.
                                       {Isa::kNeon, "neon", 0}}};

std::array<std::optional<KernelTable>, kRows.size()> make_tables() {
  std::array<std::optional<KernelTable>, kRows.size()> tables;
  const int64_t have = static_cast<int64_t>(hwy::SupportedTargets());
  for (size_t i = 0; i < kRows.size(); ++i) {
    const Isa isa = kRows[i].isa;
    KernelTable table;
    internal::fill_scalar(table);
    if (isa != Isa::kScalar) {
      if (kRows[i].target != 0 && (have & kRows[i].target) == 0) continue;
      if (!internal::fill_elementwise(isa, table) || !internal::fill_reductions(isa, table) ||
          !internal::fill_products(isa, table) || !internal::fill_kv_attention(isa, table)) {
        continue;
      }
    }
    table.isa = isa;
    tables[i] = table;
  }
  return tables;
}

const std::array<std::optional<KernelTable>, kRows.size()>& tables() {
  static const auto t = make_tables();
  return t;
}

}  // namespace

const KernelTable* kernels(Isa isa) noexcept {
  const auto& t = tables()[static_cast<size_t>(isa)];
  return t ? &*t : nullptr;
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (const auto& row : kRows) {
    if (kernels(row.isa) != nullptr) isas.push_back(row.isa);
  }
  return isas;
}

const char* isa_name(Isa isa) noexcept {
  return kRows[static_cast<size_t>(isa)].name;
}

const KernelTable& kernels_by_name(const std::string& name) {
  const auto isas = supported_isas();
  if (name.empty()) return *kernels(isas.back());
  std::string names;
  bool known = false;
  for (const Isa isa : isas) {
    if (name == isa_name(isa)) return *kernels(isa);
    names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  for (const CodeInstructionSet& set : code_instruction_sets()) {
    if (set.name == std::string_view(isa_name(set.floats))) continue;  // named above
    const KernelTable* floats = kernels(set.floats);
    const bool have = floats != nullptr && machine_has(set.isa);
    if (have && name == set.name) return *floats;
    if (have) names += ", " + std::string(set.name);
    known |= name == set.name;
  }
  known |= std::any_of(kRows.begin(), kRows.end(), [&](const Row& row) { return name == row.name; });
  throw ArgumentError(fmt::format("METAL_MARLIN_ISA: {} instruction set '{}'; set it to one of {}, or unset it",
                                  known ? "this machine lacks the" : "unknown", name, names));
}

const KernelTable& kernels() {
  static const KernelTable& chosen = [&]() -> const KernelTable& {
    const char* name = std::getenv("METAL_MARLIN_ISA");
    return kernels_by_name(name == nullptr ? "" : name);
  }();
  return chosen;
}

void accumulate_stats(const float* x, int64_t rows, int64_t cols, double* sum_abs, float* max_abs,
                      double* sum_squares) {
  constexpr int64_t kColumns = 128;  // 512 bytes of a row: whole cache lines, and few streams per thread
  parallel_for((cols + kColumns - 1) / kColumns, [&](int64_t i) {
    const int64_t c = i * kColumns;
    kernels().accumulate_stats(x + c, rows, std::min(kColumns, cols - c), cols, sum_abs + c, max_abs + c,
                               sum_squares + c);
  });
}

}  // namespace metal_marlin
