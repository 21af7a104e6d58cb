// Bounds of a JSON text that comes from a file, checked before any value of it is built: deep values take the stack of
// whatever walks, prints or destroys them, many small values take many times the text's size.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

namespace metal_marlin {

// Deeper than any configuration, shallow enough for whatever walks a value recursively.
inline constexpr int kDeepestJson = 64;

// For an object that keeps the order of its keys (ordered_json), which looks through all of them for each.
inline constexpr uint64_t kMostOrderedKeys = 2000;

struct JsonBounds {
  int depth = kDeepestJson;                                // levels of nesting
  uint64_t values = std::numeric_limits<uint64_t>::max();  // of all kinds and levels
  uint64_t keys = std::numeric_limits<uint64_t>::max();    // of one object
};

struct JsonExcess {
  std::string key;    // of the outermost object, whose value exceeds the bound; empty where there is none
  std::string bound;  // "64 levels of nesting", "1000 values", "1000 keys in an object"
};

// What exceeds the bounds first. Nothing for a text within them, or that is no JSON before it exceeds them. Takes time
// that is linear in the text, and no memory but for its longest string. (The library's parser with a callback does not
// do here: after each object it looks through all of the array that the object stands in.)
std::optional<JsonExcess> json_excess(std::string_view text, const JsonBounds& bounds = {});

}  // namespace metal_marlin
