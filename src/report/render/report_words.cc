#include "report/render/report_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string_view>

#include "layouts/layouts.h"
#include "records/options.h"
#include "records/strings.h"
#include "report/size.h"
#include "write/model_card.h"

namespace metal_marlin {

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

std::string model_name(const Report& report) {
  return source_name_of(report.input.path);
}

std::string method_text(const Report& report) {
  const int64_t group = option<int64_t>(report.options, "group_size").value_or(0);
  const std::string bits = report.mixed
                               ? fmt::format("{:.3f} bits, chosen for each linear", report.mixed->bits_per_weight)
                               : fmt::format("{} bits", option<int64_t>(report.options, "bits").value_or(0));
  return fmt::format("{}, {}, {}, {}", text_option(report, "method"), scheme_name(report), bits,
                     group < 0 ? std::string("one group for each row") : fmt::format("groups of {}", group));
}

std::string cost_text(const RunRecord& run) {
  return fmt::format("{}, {} of processors, peak memory {}", duration_text(run.seconds), duration_text(run.cpu_seconds),
                     memory_text(bytes_of(run.peak_memory_bytes)));
}

std::string text_option(const Report& report, const std::string& name) {
  return option<std::string>(report.options, name).value_or("");
}

const char* scheme_name(const Report& report) {
  return text_option(report, "scheme") == "sym" ? "symmetric" : "asymmetric";
}

std::string evaluation_note(const Report& report) {
  const std::string& kind = report.held_back.kind;
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
std::string evaluated_file(const Report& report) {
  if (report.held_back.kind != "file") return "";
  return std::filesystem::path(report.held_back.source).filename().string();
}

}  // namespace

std::string not_evaluated_reason(const Report& report) {
  return text_option(report, "evaluate") == "none" ? "--evaluate none"
                                                   : "there was no text for it; --evaluate FILE names one";
}

std::string evaluated_text(const Report& report) {
  const std::string file = evaluated_file(report);
  return file.empty() ? "text that was held back" : file;
}

const char* evaluated_heading(const Report& report) {
  return evaluated_file(report).empty() ? "held back" : "on the file";
}

std::string total_size_text(const Report& report) {
  const ModelRecord& m = report.model;
  std::string sizes = size_text(bytes_of(m.bytes));
  if (m.formats.size() > 1) {
    sizes.clear();
    for (const FormatRecord& f : m.formats)
      sizes += fmt::format("{}{} {}", sizes.empty() ? "" : ", ", f.format, size_text(bytes_of(f.bytes)));
  }
  return fmt::format("{}, before {}", sizes, size_text(bytes_of(m.source_bytes)));
}

std::string sized_format(const Report& report) {
  const std::vector<FormatRecord>& formats = report.model.formats;
  return formats.size() > 1 ? fmt::format(" ({})", formats.front().format) : "";
}

std::string use_command(const Report& report) {
  if (report.run.output.empty()) return "";
  const std::vector<FormatRecord>& formats = report.model.formats;  // each in a folder of its own
  const std::string folder =
      report.run.output + (formats.size() > 1 ? "/" + format_folder(formats.front().format) : "");
  return report.input.chat_template ? fmt::format("metal-marlin chat {}", folder)
                                    : fmt::format("metal-marlin generate {} -p TEXT", folder);
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

template <class Record>
void publish_record(Record& record, const std::vector<std::string>& paths) {
  std::vector<std::string> longest_first = paths;  // one may be the beginning of another
  std::sort(longest_first.begin(), longest_first.end(),
            [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  StringVisitor([&](std::string& text) { text = published_text(std::move(text), longest_first); }, false).visit(record);
}

}  // namespace

void publish(Report& report, const std::vector<std::string>& paths) {
  publish_record(report, paths);
}

void publish(TextRecord& text, const std::vector<std::string>& paths) {
  publish_record(text, paths);
}

}  // namespace metal_marlin
