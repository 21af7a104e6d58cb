#include "tokenizer/token_set.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "core/counted.h"
#include "core/files/text_file.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {

int64_t TokenSet::tokens() const noexcept {
  int64_t n = 0;
  for (const auto& s : sequences) n += static_cast<int64_t>(s.size());
  return n;
}

int64_t TokenSet::longest() const noexcept {
  size_t n = 0;
  for (const auto& s : sequences) n = std::max(n, s.size());
  return static_cast<int64_t>(n);
}

std::vector<int64_t> TokenSet::lengths() const {
  std::vector<int64_t> out;
  for (const auto& s : sequences) out.push_back(static_cast<int64_t>(s.size()));
  return out;
}

std::vector<int32_t> TokenSet::flat() const {
  std::vector<int32_t> out;
  out.reserve(static_cast<size_t>(tokens()));
  for (const auto& s : sequences) out.insert(out.end(), s.begin(), s.end());
  return out;
}

std::vector<int32_t> tokenize_file(const std::string& path, const Tokenizer& tokenizer) {
  return tokenizer.encode(read_utf8_text(path), false);
}

int32_t bos_to_add(Bos bos, const Tokenizer& tokenizer) {
  if (bos == Bos::kNever || (bos == Bos::kAuto && !tokenizer.adds_bos())) return -1;
  const auto id = tokenizer.bos_id();
  if (!id) throw ArgumentError("bos", "--bos always: the tokenizer has no BOS token; use --bos never");
  return *id;
}

TokenSet cut_chunks(const std::vector<int32_t>& ids, size_t begin, size_t end, int64_t length, int64_t count,
                    int32_t bos) {
  TokenSet out;
  for (size_t at = begin; static_cast<int64_t>(out.sequences.size()) < count && at < end;) {
    const bool add = bos >= 0 && ids[at] != bos;
    const size_t take = static_cast<size_t>(length) - (add ? 1 : 0);
    if (take > end - at) break;
    std::vector<int32_t> s;
    s.reserve(static_cast<size_t>(length));
    if (add) s.push_back(bos);
    s.insert(s.end(), ids.begin() + static_cast<int64_t>(at), ids.begin() + static_cast<int64_t>(at + take));
    out.sequences.push_back(std::move(s));
    at += take;
  }
  return out;
}

CalibrationSplit split_tokens(const std::vector<int32_t>& ids, int64_t samples, int64_t sequence_length,
                              int64_t context, int32_t bos, int64_t held_back, const std::string& what) {
  CalibrationSplit split;
  const size_t total = ids.size();
  const auto overhead = bos >= 0 ? 1 : 0;
  size_t held = 0;
  if (held_back > 0) {
    const int64_t chunk = std::max<int64_t>(std::min(context, held_back) - overhead, 1);
    const int64_t chunks = (held_back + chunk - 1) / chunk;
    held = static_cast<size_t>(chunks * chunk);
    if (held < total) split.held_back = cut_chunks(ids, total - held, total, chunk + overhead, chunks, bos);
  }
  if (held < total) split.calibration = cut_chunks(ids, 0, total - held, sequence_length, samples, bos);
  if (split.calibration.sequences.empty()) {
    throw FormatError(
        fmt::format("{}: expected at least {} ({}one sequence of {}), found {}; give a longer text, or a "
                    "shorter --sequence-length{}",
                    what, counted(held + static_cast<size_t>(sequence_length - overhead), "token"),
                    held_back > 0 ? fmt::format("{} to hold back, and ", held) : std::string(), sequence_length, total,
                    held_back > 0 ? ", or --evaluate none" : ""));
  }
  return split;
}

}  // namespace metal_marlin
