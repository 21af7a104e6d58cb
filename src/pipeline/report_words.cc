#include "pipeline/report_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "pipeline/size.h"
#include "write/model_card.h"

namespace metal_marlin {

using nlohmann::json;

// The figures compared with are llama.cpp's own of Llama 3 8B on WikiText-2 against float16 (its page on perplexity):
// Q8_0 0.0014, Q6_K 0.0057, Q5_K_M 0.011, Q4_K_M 0.031, Q3_K_M 0.10, Q2_K 0.33 to 0.45.
Verdict kl_verdict(double mean) {
  if (!(mean >= 0)) return {"not known", "no KL divergence was measured"};
  if (mean < 0.01)
    return {"very close to the original", "as 6 to 8 bits are in a model of 8 B weights: llama.cpp's Q6_K has 0.006"};
  if (mean < 0.05)
    return {"close to the original",
            "as good 4-bit formats are in a model of 8 B weights: llama.cpp's Q4_K_M has 0.031"};
  if (mean < 0.15) {
    return {"noticeably different from the original",
            "usual for 4 bits in models below 1 B weights; in one of 8 B llama.cpp's 3-bit Q3_K_M has 0.10"};
  }
  if (mean < 0.3)
    return {"clearly different from the original",
            "between 3 and 2 bits in a model of 8 B weights: llama.cpp's Q3_K_M has 0.10, Q2_K 0.33 to 0.45"};
  if (mean < 0.5)
    return {"far from the original",
            "as 2 bits are in a model of 8 B weights: llama.cpp's Q2_K has 0.33 to 0.45; expect mistakes"};
  return {"very far from the original", "more than 2 bits cost a model of 8 B weights: expect useless answers"};
}

std::string model_name(const json& report) {
  return source_name_of(report.at("input").at("path").get<std::string>());
}

std::string method_text(const json& report) {
  const json& o = report.at("options");
  const json& mixed = report.at("mixed");
  const int64_t group = o.at("group_size").get<int64_t>();
  const std::string bits =
      mixed.is_null() ? fmt::format("{} bits", o.at("bits").get<int64_t>())
                      : fmt::format("{:.3f} bits, chosen for each linear", mixed.at("bits_per_weight").get<double>());
  return fmt::format("{}, {}, {}, {}", o.at("method").get<std::string>(),
                     o.at("scheme") == "sym" ? "symmetric" : "asymmetric", bits,
                     group < 0 ? std::string("one group for each row") : fmt::format("groups of {}", group));
}

std::string evaluation_note(const json& report) {
  const json kind = report.at("held_back").value("kind", json());
  if (kind == "self") {
    return "text that the model made itself, on which it is sure of itself: on other text the figures are higher; for "
           "comparable ones name a text: --evaluate FILE";
  }
  if (kind == "calibration") {
    return "a part of the calibration text that was held back: on text of another kind the figures are higher; for "
           "comparable ones name a text: --evaluate FILE";
  }
  return "";
}

namespace {

// The file that --evaluate named; empty: the text was held back, or nothing was evaluated.
std::string evaluated_file(const json& report) {
  const json& held_back = report.at("held_back");
  if (held_back.value("kind", json()) != "file") return "";
  return std::filesystem::path(held_back.at("source").get<std::string>()).filename().string();
}

}  // namespace

std::string not_evaluated_reason(const json& r) {
  return r.at("options").value("evaluate", json()) == "none" ? "--evaluate none"
                                                             : "there was no text for it; --evaluate FILE names one";
}

std::string evaluated_text(const json& report) {
  const std::string file = evaluated_file(report);
  return file.empty() ? "text that was held back" : file;
}

const char* evaluated_heading(const json& report) {
  return evaluated_file(report).empty() ? "held back" : "on the file";
}

std::string total_size_text(const json& report) {
  const json& m = report.at("model");
  std::string sizes = size_text(m.at("bytes").get<uint64_t>());
  if (const json formats = m.value("formats", json::array()); formats.size() > 1) {
    sizes.clear();
    for (const json& f : formats) {
      sizes += fmt::format("{}{} {}", sizes.empty() ? "" : ", ", f.at("format").get<std::string>(),
                           size_text(f.at("bytes").get<uint64_t>()));
    }
  }
  return fmt::format("{}, before {}", sizes, size_text(m.at("source_bytes").get<uint64_t>()));
}

std::string sized_format(const json& report) {
  const json formats = report.at("model").value("formats", json::array());
  return formats.size() > 1 ? fmt::format(" ({})", formats[0].at("format").get<std::string>()) : "";
}

std::string use_command(const json& report) {
  const json output = report.at("run").value("output", json());
  if (!output.is_string() || output.get<std::string>().empty()) return "";
  const json chat = report.at("input").value("chat_template", json());
  const bool talks = chat.is_boolean() && chat.get<bool>();
  const json formats = report.at("model").value("formats", json::array());  // each in a folder of its own
  const std::string folder =
      output.get<std::string>() + (formats.size() > 1 ? "/" + formats[0].at("format").get<std::string>() : "");
  return talks ? fmt::format("metal-marlin chat {}", folder) : fmt::format("metal-marlin generate {} -p TEXT", folder);
}

std::string without_folders(const std::string& text) {
  constexpr std::string_view kBefore = " \t\"'([,=;:";
  constexpr std::string_view kAfter = " \t\"')],;:";
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const bool starts = text[at] == '/' && (at == 0 || kBefore.find(text[at - 1]) != std::string_view::npos);
    if (!starts) {
      out += text[at++];
      continue;
    }
    const size_t end = std::min(text.find_first_of(kAfter, at), text.size());
    const std::string path = text.substr(at, end - at);
    const size_t last = path.find_last_not_of('/');
    out += last == std::string::npos ? path : path.substr(path.find_last_of('/', last) + 1);
    at = end;
  }
  return out;
}

std::string published_path(const std::string& path) {
  const std::filesystem::path p(path);
  if (!p.is_absolute()) return path;
  std::filesystem::path out;
  for (const auto& part : p) {
    if (!out.empty() || part.string().starts_with("models--")) out /= part;
  }
  if (!out.empty()) return out.string();
  const std::filesystem::path whole = p.has_filename() ? p : p.parent_path();
  return whole.has_filename() ? whole.filename().string() : path;
}

namespace {

std::string published_text(std::string text, const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    const std::string shorter = published_path(path);
    for (size_t at = 0; shorter != path && (at = text.find(path, at)) != std::string::npos; at += shorter.size())
      text.replace(at, path.size(), shorter);
  }
  return without_folders(text);
}

void publish_sorted(json& value, const std::vector<std::string>& paths) {
  if (value.is_string()) value = published_text(value.get<std::string>(), paths);
  if (!value.is_structured()) return;
  for (json& entry : value) publish_sorted(entry, paths);
}

}  // namespace

void publish(json& value, const std::vector<std::string>& paths) {
  std::vector<std::string> longest_first = paths;  // one may be the beginning of another
  std::sort(longest_first.begin(), longest_first.end(),
            [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  publish_sorted(value, longest_first);
}

}  // namespace metal_marlin
