// Records as JSON, and back.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "records/block_record.h"

namespace metal_marlin {

// Called for the first value that does not fit, and must throw: where ("linears/0/shape"), what was expected ("a
// list"), what was found (as JSON, escaped and shortened, or "nothing").
using RecordFault =
    std::function<void(const std::string& place, const std::string& expected, const std::string& found)>;

// Instantiated for Report, Plan, BlockRecord, IdentityRecord, TextRecord, SensitivityRecord, SensitivityReport and the
// records of a journal's files (journal_records.h); json_of() for ModelRecord, OptionValue and OptionValues too.
template <class Record>
nlohmann::json json_of(const Record& record);
// Keys that the record does not have are passed over.
template <class Record>
Record record_of(const nlohmann::json& value, const RecordFault& fault);

// The same of a file that may be damaged without harm: nothing where a value does not fit. Instantiated for
// SensitivityRecord, FileRecord and IdentityRecord.
template <class Record>
std::optional<Record> record_if_whole(const nlohmann::json& value);

}  // namespace metal_marlin
