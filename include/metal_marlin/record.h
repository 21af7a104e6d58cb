// What records have in common. A record is a struct that describes its fields in one place:
//
//   static void describe(auto& field, auto& self);
//
// calls for each of them, `self` being the record,
//
//   field(key, self.member, text)        always in JSON
//   field.since(key, self.member, text)  the same; files of earlier versions may lack it, and it keeps its default then
//   field.maybe(key, self.member, text)  an optional, absent in JSON while it is empty
//
// where `key` is its name in JSON (in most cases the member's own) and `text` says what it holds. An empty optional is
// null in JSON but for `maybe`. JSON, the tables in docs/ and the Python classes come from that description alone.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace metal_marlin {

// The value of an option: none, a switch, a number, a text or a list.
using OptionValue = std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, std::vector<std::string>,
                                 std::vector<double>>;
using OptionValues = std::map<std::string, OptionValue>;

// JSON that another program wrote, as it is.
struct JsonText {
  std::string text = "null";
};

}  // namespace metal_marlin
