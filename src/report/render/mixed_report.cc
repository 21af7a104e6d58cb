#include "report/render/mixed_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/counted.h"
#include "report/render/report_plot.h"

namespace metal_marlin {
namespace {

// The item with the largest divergence first. Equal ones keep their order.
using Items = std::vector<SensitivityItem>;

std::vector<size_t> ranking(const Items& items) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return items[a].kl > items[b].kl; });
  return order;
}

double sum_of_kl(const Items& items) {
  double sum = 0;
  for (const SensitivityItem& item : items) sum += item.kl;
  return sum;
}

std::string bits_text(const ChosenGridRecord& chosen) {
  if (chosen.bits == 16) return "16";
  return chosen.group_size < 0 ? fmt::format("{}, per row", chosen.bits)
                               : fmt::format("{}, groups of {}", chosen.bits, chosen.group_size);
}

// How many weights got what: "4, groups of 64: 88 %; 8, groups of 64: 12 %".
std::string shares_text(const Items& items) {
  std::map<std::string, double> shares;
  double all = 0;
  for (const SensitivityItem& item : items) {
    shares[bits_text(item.chosen.value())] += static_cast<double>(item.weights);
    all += static_cast<double>(item.weights);
  }
  std::string out;
  for (const auto& [name, weights] : shares)
    out += fmt::format("{}{}: {:.1f} %", out.empty() ? "" : "; ", name, all > 0 ? 100 * weights / all : 0);
  return out;
}

std::string measured_text(const SensitivityRecord& s) {
  return fmt::format(
      "KL divergence of each set of linears alone, measured on {}: {:.4f} in all, {:.4f} when all are quantized",
      counted(s.tokens, "token"), sum_of_kl(s.items), s.kl_together);
}

std::string summary(const MixedRecord& mixed) {
  return measured_text(mixed) +
         fmt::format(
             ". Chosen: {:.3f} bits per weight ({:.3f} with all that the file's layout adds), estimated KL "
             "divergence {:.4f}; weights by bits: {}",
             mixed.bits_per_weight, mixed.file_bits_per_weight, mixed.estimated_kl, shares_text(mixed.items));
}

// `chosen`: with a column of the bits that were chosen.
std::string rows_text(const Items& items, size_t rows, bool chosen) {
  const double sum = std::max(sum_of_kl(items), 1e-300);
  std::string out = fmt::format("{:>5} {:>6} {:<8} {:>12} {:>11} {:<11} {:>7} {:>13}{}\n", "rank", "layer", "input",
                                "weights", "KL", "", "share", "KL/M weights", chosen ? "   bits" : "");
  const std::vector<size_t> order = ranking(items);
  const size_t shown = rows > 0 ? std::min(rows, order.size()) : order.size();
  for (size_t i = 0; i < shown; ++i) {
    const SensitivityItem& item = items[order[i]];
    const auto weights = static_cast<double>(item.weights);
    out += fmt::format("{:>5} {:>6} {:<8} {:>12} {:>11.6f} +- {:.6f} {:>5.1f} % {:>13.6f}{}\n", i + 1, item.layer,
                       item.tap, item.weights, item.kl, item.kl_standard_error, 100 * item.kl / sum,
                       weights > 0 ? item.kl / weights * 1e6 : 0, chosen ? "   " + bits_text(*item.chosen) : "");
  }
  if (shown < order.size()) out += fmt::format("  ... and {} more, all in the JSON\n", order.size() - shown);
  return out;
}
}  // namespace

std::string sensitivity_text(const SensitivityRecord& sensitivity, size_t rows) {
  return measured_text(sensitivity) + "\n" + rows_text(sensitivity.items, rows, false);
}

std::string mixed_text(const MixedRecord& mixed, size_t rows) {
  return summary(mixed) + "\n" + rows_text(mixed.items, rows, true);
}

nlohmann::json mixed_words(const MixedRecord& mixed) {
  nlohmann::json items = nlohmann::json::array();
  for (const size_t i : ranking(mixed.items)) {
    const SensitivityItem& item = mixed.items[i];
    items.push_back({{"layer", item.layer},
                     {"input", item.tap},
                     {"weights", item.weights},
                     {"kl", item.kl},
                     {"standard_error", item.kl_standard_error},
                     {"bits", bits_text(*item.chosen)},
                     {"estimated_kl", item.chosen->estimated_kl}});
  }
  return {{"summary", summary(mixed)}, {"items", std::move(items)}};
}

std::string mixed_plot(const MixedRecord& mixed) {
  const Items& items = mixed.items;
  constexpr double kWidth = 860;
  constexpr double kHeight = 180;
  constexpr std::pair<int, const char*> kColours[] = {{3, "#b00020"}, {4, "#9aa7b4"}, {8, "#1565c0"}, {16, "#00796b"}};
  const auto colour = [&](int64_t bits) {
    for (const auto& [width, name] : kColours) {
      if (bits == width) return name;
    }
    return "#444";
  };
  double top = 1e-12;
  for (const SensitivityItem& item : items) top = std::max(top, item.kl);
  std::string h = fmt::format(
      "<svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\"><title>KL divergence of each set of linears, by "
      "layer</title>",
      kWidth + 60, kHeight + 50);
  h += fmt::format(
      "<text x=\"4\" y=\"12\">KL, up to {:.5f}; bars of a layer: inputs of qkv, o, gate and up, down</text>", top);
  const double step = kWidth / static_cast<double>(std::max<size_t>(items.size(), 1));
  for (size_t i = 0; i < items.size(); ++i) {
    const SensitivityItem& item = items[i];
    const double height = kHeight * item.kl / top;
    h += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"><title>layer {} {}: KL {:.6f}; "
        "bits: {}</title></rect>",
        40 + step * static_cast<double>(i), 20 + kHeight - height, std::max(step * 0.85, 0.5), height,
        colour(item.chosen->bits), item.layer, escape_html(item.tap), item.kl, bits_text(*item.chosen));
  }
  double x = 40;
  for (const auto& [width, name] : kColours) {
    h += fmt::format(
        "<rect x=\"{0}\" y=\"{1}\" width=\"12\" height=\"12\" fill=\"{2}\"/><text x=\"{3}\" y=\"{4}\">{5} bits</text>",
        x, kHeight + 30, name, x + 18, kHeight + 41, width);
    x += 90;
  }
  return h + "</svg>";
}

}  // namespace metal_marlin
