#include "pipeline/resume.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "pipeline/run_identity.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const json::json_pointer kFingerprint("/run/fingerprint");
constexpr uint64_t kLargestReport = uint64_t{256} << 20;

bool is_of(const json& report, uint64_t fingerprint) {
  return report.is_object() && report.contains(kFingerprint) &&
         report.at(kFingerprint) == json(fmt::format("{:016x}", fingerprint));
}

// The identity that a report states. A report of an old version has none: then only its options, in which files stand
// by name and cannot be compared.
json identity_of(const json& report) {
  const json::json_pointer place("/run/identity");
  if (report.contains(place) && report.at(place).is_object()) return report.at(place);
  json out = json::object();
  if (report.contains("options") && report["options"].is_object()) out["options"] = report["options"];
  return out;
}

// Whether the journal is of the run with this fingerprint. A damaged one is of no run where it may be replaced.
bool continues(const Journal& journal, uint64_t fingerprint, bool overwrite) {
  try {
    return journal.fingerprint() == fingerprint;
  } catch (const FormatError&) {
    if (!overwrite) throw;
    return false;
  }
}

// The first file that the report lists and that is not in the folder with its size; empty: all are.
std::string missing_file(const Folder& folder, const json& report) {
  const Manifest manifest = read_manifest(folder);
  for (const std::string& name : manifest.files) {
    if (name == "report.html") continue;  // rendered from report.json
    const size_t slash = name.find('/');
    const std::string format = slash == std::string::npos ? std::string() : name.substr(0, slash);
    const std::string file = slash == std::string::npos ? name : name.substr(slash + 1);
    if (!format.empty() && folder.status(format).kind != FileKind::kFolder) return name;
    const FileStatus found = format.empty() ? folder.status(file) : folder.open_folder(format).status(file);
    if (found.kind != FileKind::kRegular) return name;
    for (const json& listed : report["files"]) {
      if (!listed.is_object() || listed.value("name", json()) != file || !listed.contains("bytes")) continue;
      if (!format.empty() && listed.value("format", json()) != format) continue;
      if (listed["bytes"] != json(found.identity.size)) return name;
    }
  }
  return {};
}

}  // namespace

const char* start_name(Start start) noexcept {
  constexpr const char* kNames[] = {"fresh", "resume", "redo", "complete"};
  return kNames[static_cast<int>(start)];
}

json finished_report(const Folder& folder) {
  if (folder.status("report.json").kind != FileKind::kRegular) return nullptr;
  json report = json::parse(
      read_text_file(folder.open_file("report.json"), folder.path_of("report.json"), kLargestReport), nullptr, false);
  const bool ours =
      report.is_object() && report.contains(kFingerprint) && report.contains("files") && report["files"].is_array();
  return ours ? std::move(report) : json(nullptr);
}

Start decide_start(const OutputFolder& output, const Journal& journal, const ModelSource& source, const json& identity,
                   const QuantizeOptions& options, const OutputFolder::Warn& warn) {
  if (!output.exists()) return Start::kFresh;
  const uint64_t fingerprint = run_fingerprint(identity);
  const Manifest manifest = output.manifest();
  const std::vector<std::string> foreign = foreign_names(output.folder(), manifest);
  const auto refuse = [&](const std::vector<std::string>& names) {
    throw ArgumentError(
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
      throw ArgumentError(
          fmt::format("{}: holds an interrupted run that is another ({}); repeat its command to go on with it, choose "
                      "another folder, or start over with --overwrite",
                      output.path(), identity_difference(journal.identity(), identity)));
    }
    warn(same
             ? std::string("starting over, as --no-resume says")
             : fmt::format("{}: an interrupted run that cannot be continued by this command is removed, as --overwrite "
                           "says",
                           output.path()));
  } else if (const json report = finished_report(output.folder()); !options.overwrite && !report.is_null()) {
    if (!is_of(report, fingerprint)) {
      throw ArgumentError(
          fmt::format("{}: holds another result ({}); choose another folder, or replace it with --overwrite",
                      output.path(), identity_difference(identity_of(report), identity)));
    }
    const std::string missing = missing_file(output.folder(), report);
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
  } else if (!manifest.empty() || !foreign.empty()) {
    throw ArgumentError(fmt::format(
        "{}: expected an empty or new folder, found {}{}; choose another folder{}", output.path(),
        some_names(foreign.empty() ? std::vector<std::string>{*manifest.files.begin()} : foreign),
        unreadable_list_text(output.folder()), foreign.empty() ? ", or replace what is there with --overwrite" : ""));
  }
  return Start::kFresh;
}

bool finish_placing(OutputFolder& output, const json& identity, const OutputFolder::Warn& warn) {
  if (!output.staged("report.json")) {
    // The last file has been moved, and the journal is still there.
    if (!output.placing()) return false;
    const json report = finished_report(output.folder());
    if (!is_of(report, run_fingerprint(identity)) || !missing_file(output.folder(), report).empty()) return false;
    output.remove_journal();
    return true;
  }
  const Folder staged = output.folder().open_folder(kJournalName).open_folder("result");
  const json report = finished_report(staged);
  if (!is_of(report, run_fingerprint(identity))) return false;
  if (!output.placing()) {
    if (!missing_file(staged, report).empty()) return false;
  }
  output.place(warn);
  return true;
}

}  // namespace metal_marlin
