// What a report says in words, for its summary, its text and its page.
#pragma once

#include <metal_marlin/report_records.h>

#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

// How a page of render_report_html() begins; it tells our pages from other files.
std::string_view page_start();

struct Verdict {
  const char* word = "";    // "close to the original"
  const char* reason = "";  // with what it compares
};
// Of a mean KL divergence in nats against the original.
Verdict kl_verdict(double mean);

// "SmolLM2-135M-Instruct": the source's name without folders.
std::string model_name(const Report& report);
// "awq, asymmetric, 4 bits, groups of 128".
std::string method_text(const Report& report);
// "12 min 30 s, 24 min of processors, peak memory 476 MiB".
std::string cost_text(const RunRecord& run);
// An option that is a text; empty where it is none.
std::string text_option(const Report& report, const std::string& name);
const char* scheme_name(const Report& report);  // "symmetric"
// What kind of text the figures are of, and what that means for them: "the model's own text: ... "; empty: a file that
// the user has named, or nothing was evaluated.
std::string evaluation_note(const Report& report);
// Why nothing was evaluated: "--evaluate none", or that there was no text. Of a report without figures.
std::string not_evaluated_reason(const Report& report);
// Of which text the errors behind the figures are: "wiki.test.txt", the file that was named, without folders, or "text
// that was held back".
std::string evaluated_text(const Report& report);
// The same as a table's heading: "on the file", "held back".
const char* evaluated_heading(const Report& report);
// "113.9 MB, before 269.1 MB", of several formats "awq 113.9 MB, native 114.2 MB, before 269.1 MB".
std::string total_size_text(const Report& report);
// Where there are several formats, the first, which parts and bits per weight are of, as " (native)"; else empty.
std::string sized_format(const Report& report);
// "metal-marlin chat OUT", with the output's name without folders; empty: the report does not tell.
std::string use_command(const Report& report);

// `text` with every absolute path cut to its last part: pages are passed on.
std::string without_folders(const std::string& text);
// A path as a report holds it, which may be published: a relative one as it was typed, an absolute one without the
// folders of this machine. Of a snapshot in the Hugging Face cache "models--org--name/snapshots/REVISION" is left, else
// the last part.
std::string published_path(const std::string& path);
// All strings of a record with the absolute paths in them made so. `paths`: those that are known to occur, which may
// hold spaces.
void publish(Report& report, const std::vector<std::string>& paths);
void publish(TextRecord& text, const std::vector<std::string>& paths);

}  // namespace metal_marlin
