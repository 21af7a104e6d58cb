#include "pipeline/mixed_report.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/counted.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

// The item with the largest divergence first. Equal ones keep their order.
std::vector<size_t> ranking(const json& items) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return items[a].at("kl").get<double>() > items[b].at("kl").get<double>();
  });
  return order;
}

double sum_of_kl(const json& items) {
  double sum = 0;
  for (const json& item : items) sum += item.at("kl").get<double>();
  return sum;
}

std::string bits_text(const json& chosen) {
  const int64_t bits = chosen.at("bits").get<int64_t>();
  if (bits == 16) return "16";
  const int64_t group = chosen.at("group_size").get<int64_t>();
  return group < 0 ? fmt::format("{}, per row", bits) : fmt::format("{}, groups of {}", bits, group);
}

// How many weights got what: "4, groups of 64: 88 %; 8, groups of 64: 12 %".
std::string shares_text(const json& items) {
  std::map<std::string, double> shares;
  double all = 0;
  for (const json& item : items) {
    shares[bits_text(item.at("chosen"))] += item.at("weights").get<double>();
    all += item.at("weights").get<double>();
  }
  std::string out;
  for (const auto& [name, weights] : shares)
    out += fmt::format("{}{}: {:.1f} %", out.empty() ? "" : "; ", name, all > 0 ? 100 * weights / all : 0);
  return out;
}

// Reports of earlier versions have none.
double standard_error(const json& item) {
  return item.contains("kl_standard_error") ? item.at("kl_standard_error").get<double>() : 0;
}

bool chosen(const json& mixed) {
  return mixed.contains("estimated_kl");
}

std::string summary(const json& mixed) {
  const json& items = mixed.at("items");
  std::string out = fmt::format(
      "KL divergence of each set of linears alone, measured on {}: {:.4f} in all, {:.4f} when all are quantized",
      counted(mixed.at("tokens").get<int64_t>(), "token"), sum_of_kl(items), mixed.at("kl_together").get<double>());
  if (chosen(mixed)) {
    out += fmt::format(
        ". Chosen: {:.3f} bits per weight ({:.3f} with all that the file's layout adds), estimated KL divergence "
        "{:.4f}; weights by bits: {}",
        mixed.at("bits_per_weight").get<double>(), mixed.at("file_bits_per_weight").get<double>(),
        mixed.at("estimated_kl").get<double>(), shares_text(items));
  }
  return out;
}

}  // namespace

std::string mixed_text(const json& mixed, size_t rows) {
  const json& items = mixed.at("items");
  const double sum = std::max(sum_of_kl(items), 1e-300);
  std::string out = summary(mixed) + "\n";
  out += fmt::format("{:>5} {:>6} {:<8} {:>12} {:>11} {:<11} {:>7} {:>13}{}\n", "rank", "layer", "input", "weights",
                     "KL", "", "share", "KL/M weights", chosen(mixed) ? "   bits" : "");
  const std::vector<size_t> order = ranking(items);
  const size_t shown = rows > 0 ? std::min(rows, order.size()) : order.size();
  for (size_t i = 0; i < shown; ++i) {
    const json& item = items[order[i]];
    const double kl = item.at("kl").get<double>();
    const double weights = item.at("weights").get<double>();
    out += fmt::format("{:>5} {:>6} {:<8} {:>12} {:>11.6f} +- {:.6f} {:>5.1f} % {:>13.6f}{}\n", i + 1,
                       item.at("layer").get<int64_t>(), item.at("tap").get<std::string>(),
                       item.at("weights").get<int64_t>(), kl, standard_error(item), 100 * kl / sum,
                       weights > 0 ? kl / weights * 1e6 : 0, chosen(mixed) ? "   " + bits_text(item.at("chosen")) : "");
  }
  if (shown < order.size()) out += fmt::format("  ... and {} more, all in the JSON\n", order.size() - shown);
  return out;
}

std::string mixed_html(const json& mixed) {
  if (mixed.is_null()) return "";
  const json& items = mixed.at("items");
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
  for (const json& item : items) top = std::max(top, item.at("kl").get<double>());
  std::string h = "<h2>Bits of each linear</h2><p>" + summary(mixed) + ".</p>";
  h += fmt::format(
      "<div class=\"wide\"><svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\"><title>KL divergence of each set of "
      "linears, by "
      "layer</title>",
      kWidth + 60, kHeight + 50);
  h += fmt::format(
      "<text x=\"4\" y=\"12\">KL, up to {:.5f}; bars of a layer: inputs of qkv, o, gate and up, down</text>", top);
  const double step = kWidth / static_cast<double>(std::max<size_t>(items.size(), 1));
  for (size_t i = 0; i < items.size(); ++i) {
    const json& item = items[i];
    const double height = kHeight * item.at("kl").get<double>() / top;
    h += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"><title>layer {} {}: KL {:.6f}; "
        "bits: {}</title></rect>",
        40 + step * static_cast<double>(i), 20 + kHeight - height, std::max(step * 0.85, 0.5), height,
        colour(item.at("chosen").at("bits").get<int64_t>()), item.at("layer").get<int64_t>(),
        item.at("tap").get<std::string>(), item.at("kl").get<double>(), bits_text(item.at("chosen")));
  }
  double x = 40;
  for (const auto& [width, name] : kColours) {
    h += fmt::format(
        "<rect x=\"{0}\" y=\"{1}\" width=\"12\" height=\"12\" fill=\"{2}\"/><text x=\"{3}\" y=\"{4}\">{5} bits</text>",
        x, kHeight + 30, name, x + 18, kHeight + 41, width);
    x += 90;
  }
  h += "</svg></div><div class=\"wide\"><table "
       "class=\"list\"><tr><th>rank</th><th>layer</th><th>input</th><th>weights</th><th>KL</th><th>chosen "
       "bits</th><th>KL estimated then</th></tr>";
  size_t rank = 0;
  for (const size_t i : ranking(items)) {
    const json& item = items[i];
    h += fmt::format(
        "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{:.6f} "
        "&plusmn; {:.6f}</td><td>{}</td><td class=\"n\">{:.6f}</td></tr>",
        ++rank, item.at("layer").get<int64_t>(), item.at("tap").get<std::string>(), item.at("weights").get<int64_t>(),
        item.at("kl").get<double>(), standard_error(item), bits_text(item.at("chosen")),
        item.at("chosen").at("estimated_kl").get<double>());
  }
  return h + "</table></div>";
}

void check_mixed_section(const json& mixed, const std::string& name) {
  if (mixed.is_null()) return;
  const auto fail = [&](const std::string& key, const char* expected) {
    throw FormatError(fmt::format("{}: mixed{}: expected {}; the report is damaged or not whole: run quantize again",
                                  name, key, expected));
  };
  if (!mixed.is_object()) fail("", "null or an object");
  const auto number = [&](const json& object, const char* key, const std::string& place) {
    if (!object.contains(key) || !object[key].is_number()) fail(fmt::format("{}/{}", place, key), "a number");
  };
  for (const char* key : {"tokens", "kl_together", "bits_per_weight", "file_bits_per_weight", "estimated_kl"})
    number(mixed, key, "");
  if (!mixed.contains("items") || !mixed.at("items").is_array()) fail("/items", "a list");
  constexpr const char* kInputNames[] = {"qkv", "o", "gate_up", "down"};
  for (size_t i = 0; i < mixed.at("items").size(); ++i) {
    const json& item = mixed.at("items")[i];
    const std::string place = fmt::format("/items/{}", i);
    if (!item.is_object()) fail(place, "an object");
    for (const char* key : {"layer", "weights", "kl"}) number(item, key, place);
    if (item.contains("kl_standard_error")) number(item, "kl_standard_error", place);
    const bool known = item.contains("tap") && std::any_of(std::begin(kInputNames), std::end(kInputNames),
                                                           [&](const char* input) { return item.at("tap") == input; });
    if (!known) fail(place + "/input", "qkv, o, gate_up or down");
    if (!item.contains("chosen") || !item.at("chosen").is_object()) fail(place + "/chosen", "an object");
    for (const char* key : {"bits", "group_size", "estimated_kl"}) number(item.at("chosen"), key, place + "/chosen");
  }
}

}  // namespace metal_marlin
