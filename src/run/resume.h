// What a run finds in its output folder, and what follows from it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "recipe/recipe.h"
#include "run/journal/journal.h"
#include "run/output/output_folder.h"

namespace metal_marlin {

enum class Start : uint8_t {
  kFresh,     // nothing is there, or --overwrite or --no-resume says that it may go
  kResume,    // the journal of this very run
  kRedo,      // the result of this very run, but a file of it is missing or has another size
  kComplete,  // the whole result of this very run
};

const char* start_name(Start start) noexcept;  // "fresh", "resume", "redo", "complete"

// Reads only, so that --dry-run can ask too. Warns where work is thrown away. ArgumentError, with what differs, when an
// interrupted run or a result of other options, of another model or of another version is there and the options do not
// say that it may go. SystemError when files of somebody else are there. FormatError when the interrupted run's
// run.json is damaged or missing and the options do not say that the run may go: it is kept.
Start decide_start(const OutputFolder& output, const Journal& journal, const ModelSource& source,
                   const IdentityRecord& identity, const QuantizeOptions& options, const OutputFolder::Warn& warn);

// The report.json of a finished result in the folder. FormatError when it is damaged.
Report finished_report(const Folder& folder);

// The run was interrupted when its whole result was staged: puts it into place. False: there is no such result.
bool finish_placing(OutputFolder& output, const IdentityRecord& identity, const OutputFolder::Warn& warn);

}  // namespace metal_marlin
