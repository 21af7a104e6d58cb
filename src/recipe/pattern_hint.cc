#include "recipe/pattern_hint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <numeric>
#include <vector>

#include "formats/text.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"

namespace metal_marlin {
namespace {

// Letters to insert, remove or replace.
size_t edits_between(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= name.size();) {
    const size_t end = std::min(name.find('.', at), name.size());
    parts.push_back(name.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

bool is_number(const std::string& part) {
  return !part.empty() && std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

// `pattern` with each misspelt part replaced by the part of a name that is nearest to it.
std::string corrected(const std::string& pattern, std::span<const std::string> names) {
  std::string out;
  for (const std::string& part : parts_of(pattern)) {
    const size_t first = std::min(part.find_first_not_of('*'), part.size());
    const size_t last = part.find_last_not_of('*');
    const std::string word = last == std::string::npos ? std::string() : part.substr(first, last + 1 - first);
    std::string nearest = word;
    size_t least = word.size() / 3 + 1;
    for (const std::string& name : names) {
      for (const std::string& known : parts_of(name)) {
        if (is_number(known) || is_number(word) || word.find_first_of("?[]*\\") != std::string::npos) continue;
        const size_t edits = edits_between(word, known);
        if (edits < least) {
          nearest = known;
          least = edits;
        }
      }
    }
    out += (out.empty() ? "" : ".") + part.substr(0, first) + nearest +
           (last == std::string::npos ? std::string() : part.substr(last + 1));
  }
  return out;
}

}  // namespace

std::string pattern_hint(const std::string& pattern, std::span<const std::string> names) {
  std::string hint = fmt::format("names look like {}", escaped(names.front()));
  const auto matches = [&](const std::string& p) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return matches_any({p}, name); });
  };
  for (const std::string& base : {pattern, corrected(pattern, names)}) {
    const std::string core = base.starts_with("*") || base.starts_with(".") ? base : "." + base;
    for (const std::string& near : {base, base + ".weight", base + ".*", base + "*", "*" + core, "*" + core + ".weight",
                                    "*" + core + ".*", "*" + base + "*"}) {
      if (near.empty() || near.find("**") != std::string::npos || !matches(near)) continue;
      return hint + fmt::format("; did you mean '{}'?", escaped(near));
    }
  }
  return hint;
}

}  // namespace metal_marlin
