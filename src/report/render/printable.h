// Text of files on its way to a terminal or a page.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "records/strings.h"

namespace metal_marlin {

// One string made safe to show by escaped() (formats/text.h), cut at 1,000 characters.
std::string printable(const std::string& text);

// All strings and keys of a record, or of JSON, made safe to show: what a renderer takes from it then needs no further
// care. The JsonText in a record stays as it is.
template <class Record>
void make_printable(Record& record) {
  StringVisitor([](std::string& text) { text = printable(text); }, true).visit(record);
}
void make_printable(nlohmann::json& value);

}  // namespace metal_marlin
