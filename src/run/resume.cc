#include "run/resume.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/files/atomic_file.h"
#include "core/files/digest.h"
#include "formats/json/bounded_json.h"
#include "records/json_records.h"
#include "report/report_check.h"
#include "report/size.h"
#include "run/output/output_checks.h"
#include "run/output/placing.h"
#include "run/run_identity.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kLargestReport = uint64_t{256} << 20;

// What a report.json says of the result that it stands for. The rest of it may be damaged.
struct ReportHead {
  std::string fingerprint;
  std::optional<IdentityRecord> identity;
  std::vector<FileRecord> files;
};

std::string report_text(const Folder& folder) {
  return read_text_file(folder.open_file("report.json"), folder.path_of("report.json"), kLargestReport);
}

// Nothing where there is no report of a finished run, or none that can be read. A report of an old version has no
// identity: then only its options are known, in which files stand by name and cannot be compared.
std::optional<ReportHead> report_head(const Folder& folder) {
  if (folder.status("report.json").kind != FileKind::kRegular) return std::nullopt;
  const json report = parse_json_or_discard(report_text(folder));
  const auto at = [&](const char* pointer) {
    const json::json_pointer place(pointer);
    return report.is_object() && report.contains(place) ? report.at(place) : json();
  };
  const json files = at("/files");
  const json fingerprint = at("/run/fingerprint");
  if (!fingerprint.is_string() || !files.is_array()) return std::nullopt;
  ReportHead head;
  head.fingerprint = fingerprint.get<std::string>();
  for (const json& file : files) {
    if (auto record = record_if_whole<FileRecord>(file)) head.files.push_back(std::move(*record));
  }
  const json identity = at("/run/identity");
  head.identity = record_if_whole<IdentityRecord>(identity.is_object() ? identity : json{{"options", at("/options")}});
  return head;
}

bool is_of(const std::optional<ReportHead>& report, const std::string& fingerprint) {
  return report && report->fingerprint == fingerprint;
}

// Whether the journal is of the run with this fingerprint. A damaged one is of no run where it may be replaced.
bool continues(const Journal& journal, const std::string& fingerprint, bool overwrite) {
  try {
    return journal.fingerprint() == fingerprint;
  } catch (const FormatError&) {
    if (!overwrite) throw;
    return false;
  }
}

// The first file that the report lists and that is not in the folder with its size; empty: all are.
std::string missing_file(const Folder& folder, const ReportHead& report) {
  const Manifest manifest = read_manifest(folder);
  for (const std::string& name : manifest.files) {
    if (name == "report.html") continue;  // rendered from report.json
    const size_t slash = name.find('/');
    const std::string format = slash == std::string::npos ? std::string() : name.substr(0, slash);
    const std::string file = slash == std::string::npos ? name : name.substr(slash + 1);
    if (!format.empty() && folder.status(format).kind != FileKind::kFolder) return name;
    const FileStatus found = format.empty() ? folder.status(file) : folder.open_folder(format).status(file);
    if (found.kind != FileKind::kRegular) return name;
    for (const FileRecord& listed : report.files) {
      if (listed.name != file || (!format.empty() && listed.format != format)) continue;
      if (bytes_of(listed.bytes) != found.identity.size) return name;
    }
  }
  return {};
}

}  // namespace

const char* start_name(Start start) noexcept {
  constexpr const char* kNames[] = {"fresh", "resume", "redo", "complete"};
  return kNames[static_cast<int>(start)];
}

Report finished_report(const Folder& folder) {
  return parse_report(report_text(folder), folder.path_of("report.json"));
}

Start decide_start(const OutputFolder& output, const Journal& journal, const ModelSource& source,
                   const IdentityRecord& identity, const QuantizeOptions& options, const OutputFolder::Warn& warn) {
  if (!output.exists()) return Start::kFresh;
  const std::string fingerprint = run_fingerprint(identity);
  const Manifest manifest = output.manifest();
  const std::vector<std::string> foreign = foreign_names(output.folder(), manifest);
  const auto refuse = [&](const std::vector<std::string>& names) {
    throw SystemError(
        fmt::format("{}: holds {}, which no run of this program wrote{}; move it away, or choose another folder",
                    output.path(), some_names(names), unreadable_list_text(output.folder())));
  };
  if (!manifest.empty()) refuse_model_inside(source, output.path());
  if (journal.exists()) {
    const bool same = continues(journal, fingerprint, options.overwrite);
    if (options.resume && same) {
      if (!foreign.empty()) refuse(foreign);
      return Start::kResume;
    }
    if (!same && !options.overwrite) {
      const bool earlier = journal.fingerprint()->size() != Digest::kDigits;
      throw ArgumentError(
          "output",
          fmt::format(
              "{}: holds an interrupted run that is another ({}); repeat its command{} to go on with it, choose "
              "another folder, or start over with --overwrite",
              output.path(), identity_difference(journal.identity(), identity),
              earlier ? " with the version that began it" : ""));
    }
    warn(same
             ? std::string("starting over, as --no-resume says")
             : fmt::format("{}: an interrupted run that cannot be continued by this command is removed, as --overwrite "
                           "says",
                           output.path()));
  } else if (const auto report = options.overwrite ? std::nullopt : report_head(output.folder()); report) {
    if (!is_of(report, fingerprint)) {
      throw ArgumentError(
          "output", fmt::format("{}: holds another result ({}); choose another folder, or replace it with --overwrite",
                                output.path(), identity_difference(report->identity, identity)));
    }
    const std::string missing = missing_file(output.folder(), *report);
    if (missing.empty()) return Start::kComplete;
    warn(fmt::format("{} is missing or has another size; doing the work again", output.folder().path_of(missing)));
    if (!foreign.empty()) refuse(foreign);
    return Start::kRedo;
  }
  if (const std::string left = journal.file_without_run(); !left.empty()) {
    if (!options.overwrite) {
      throw FormatError(
          fmt::format("{}/{}: run.json is missing, without which the interrupted run there cannot be continued (found "
                      "{}); start over with --overwrite, or choose another folder",
                      output.path(), kJournalName, left));
    }
    warn(fmt::format("{}/{}: what an interrupted run without its run.json left there is removed, as --overwrite says",
                     output.path(), kJournalName));
  }
  if (options.overwrite) {
    if (!foreign.empty()) refuse(foreign);
  } else if (!foreign.empty()) {
    throw SystemError(fmt::format("{}: expected an empty or new folder, found {}{}; choose another folder",
                                  output.path(), some_names(foreign), unreadable_list_text(output.folder())));
  } else if (!manifest.empty()) {
    throw ArgumentError(
        "output",
        fmt::format("{}: expected an empty or new folder, found {}{}; choose another folder, or replace what is there "
                    "with --overwrite",
                    output.path(), *manifest.files.begin(), unreadable_list_text(output.folder())));
  }
  return Start::kFresh;
}

bool finish_placing(OutputFolder& output, const IdentityRecord& identity, const OutputFolder::Warn& warn) {
  if (!output.staged("report.json")) {
    // The last file has been moved, and the journal is still there.
    if (!output.placing()) return false;
    const auto report = report_head(output.folder());
    if (!is_of(report, run_fingerprint(identity)) || !missing_file(output.folder(), *report).empty()) return false;
    output.remove_journal();
    return true;
  }
  const Folder staged = output.folder().open_folder(kJournalName).open_folder(kResult);
  const auto report = report_head(staged);
  if (!is_of(report, run_fingerprint(identity))) return false;
  if (!output.placing()) {
    if (!missing_file(staged, *report).empty()) return false;
  }
  output.place(warn);
  return true;
}

}  // namespace metal_marlin
