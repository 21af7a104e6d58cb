#include "report/render/report_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <utility>

namespace metal_marlin {
namespace {

// "model.layers.12.mlp.up_proj.weight" -> 12, "up_proj".
std::pair<int64_t, std::string> place(const std::string& name) {
  int64_t layer = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '.' && i + 1 < name.size() && std::isdigit(static_cast<unsigned char>(name[i + 1])) != 0) {
      std::from_chars(name.data() + i + 1, name.data() + name.size(), layer);
      break;
    }
  }
  const std::string module = name.substr(0, name.rfind(".weight"));
  const std::string part = name.find('[') == std::string::npos ? "" : name.substr(name.find('['));
  return {layer, module.substr(module.rfind('.') + 1) + part};
}

// A step of 1, 2 or 5 times a power of ten that gives at most `most` ticks.
int64_t tick_step(int64_t last, int64_t most) {
  for (int64_t power = 1;; power *= 10) {
    for (const int64_t step : {power, 2 * power, 5 * power}) {
      if (last / step <= most || step > last) return step;
    }
  }
}

}  // namespace

std::string escape_html(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string error_plot(const std::vector<LinearRecord>& linears, const std::string& evaluated) {
  const bool held = !linears.empty() && linears.front().held_back_output_error;
  std::map<std::string, std::map<int64_t, double>> lines;
  int64_t last = 1;
  double top = 1e-9;
  for (const LinearRecord& l : linears) {
    const std::optional<double>& error = held ? l.held_back_output_error : l.output_error;
    if (!error) continue;
    const auto [layer, kind] = place(l.name);
    lines[kind][layer] = *error;
    last = std::max(last, layer);
    top = std::max(top, *error);
  }
  if (lines.empty()) return "";
  constexpr double kLeft = 56;
  constexpr double kRight = 14;  // half of the last layer's number
  constexpr double kWidth = 560;
  constexpr double kHeight = 240;
  constexpr double kTop = 10;
  constexpr const char* kDashes[] = {"none", "7 3", "2 3"};
  constexpr size_t kColours = 7;  // .c0 to .c6 of the page's style
  const auto look = [&](size_t at) {
    return fmt::format("class=\"line c{}\" stroke-dasharray=\"{}\"", at % kColours, kDashes[at % 3]);
  };
  // The key stands above the drawing as text of the page: names have any length, and the page any width.
  std::string key_html = "<p class=\"key\">";
  size_t count = 0;
  for (const auto& [kind, points] : lines) {
    key_html += fmt::format(
        "<span><svg viewBox=\"0 0 28 12\" aria-hidden=\"true\"><line {} x1=\"0\" x2=\"28\" y1=\"6\" y2=\"6\"/></svg> "
        "{}</span>\n",
        look(count++), escape_html(kind));
  }
  key_html += "</p>";
  std::string svg = fmt::format(
      "<h2>Output error by layer</h2><p class=\"small\">Relative, on {}.</p>{}<div class=\"wide\"><svg viewBox=\"0 0 "
      "{} {}\" role=\"img\" class=\"plot\"><title>Relative output error of each kind of linear by layer</title>",
      escape_html(held ? evaluated : "calibration text"), key_html, kLeft + kWidth + kRight, kHeight + 50);
  for (int i = 0; i <= 4; ++i) {
    const double y = kTop + kHeight - kHeight * i / 4.0;
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\"/><text x=\"{3}\" y=\"{4}\" "
        "text-anchor=\"end\">{5:.3f}</text>",
        kLeft, kLeft + kWidth, y, kLeft - 6, y + 4, top * i / 4);
  }
  const auto x_of = [&](int64_t layer) {
    return kLeft + kWidth * static_cast<double>(layer) / static_cast<double>(last);
  };
  const int64_t step = tick_step(last, 12);
  for (int64_t layer = 0; layer <= last; layer += step) {
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4}</text>",
        x_of(layer), kTop, kTop + kHeight + 4, kTop + kHeight + 18, layer);
    if (layer > last - step) break;
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">layer</text>", kLeft + kWidth / 2,
                     kTop + kHeight + 36);
  size_t at = 0;
  for (const auto& [kind, points] : lines) {
    std::string path;
    for (const auto& [layer, e] : points)
      path += fmt::format("{:.1f},{:.1f} ", x_of(layer), kTop + kHeight - kHeight * e / top);
    svg += fmt::format("<polyline {} points=\"{}\"><title>{}</title></polyline>", look(at++), path, escape_html(kind));
  }
  return svg + "</svg></div>";
}

}  // namespace metal_marlin
