// Text of files on its way to a terminal or a page.
#pragma once

#include <metal_marlin/plan_records.h>
#include <metal_marlin/report_records.h>

#include <nlohmann/json_fwd.hpp>

namespace metal_marlin {

// All strings and keys of `value` made safe to show by escaped() (formats/text.h), each cut at 4,096 characters: what a
// renderer takes from it then needs no further care.
void make_printable(nlohmann::json& value);
void make_printable(Report& report);
void make_printable(Plan& plan);
void make_printable(nlohmann::ordered_json& value);

}  // namespace metal_marlin
