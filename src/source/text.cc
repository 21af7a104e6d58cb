#include "source/text.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>

#include "core/atomic_file.h"
#include "core/counted.h"
#include "core/machine.h"
#include "core/mapped_file.h"
#include "source/text_stream.h"
#include "source/tokenizer.h"

namespace metal_marlin {
namespace {

// Byte offset of the first byte that is not part of valid UTF-8, or npos.
size_t invalid_utf8(const std::string& text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  size_t i = 0;
  while (i < text.size()) {
    const unsigned c = byte(i);
    size_t more = 0;
    unsigned low = 0x80;
    unsigned high = 0xbf;
    if (c < 0x80) {
      more = 0;
    } else if (c >= 0xc2 && c <= 0xdf) {
      more = 1;
    } else if (c >= 0xe0 && c <= 0xef) {
      more = 2;
      if (c == 0xe0) low = 0xa0;
      if (c == 0xed) high = 0x9f;
    } else if (c >= 0xf0 && c <= 0xf4) {
      more = 3;
      if (c == 0xf0) low = 0x90;
      if (c == 0xf4) high = 0x8f;
    } else {
      return i;
    }
    for (size_t k = 1; k <= more; ++k) {
      const unsigned d = byte(i + k);
      if (i + k >= text.size() || d < (k == 1 ? low : 0x80u) || d > (k == 1 ? high : 0xbfu)) return i;
    }
    i += more + 1;
  }
  return std::string::npos;
}

}  // namespace

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

uint64_t TokenSet::digest() const noexcept {
  uint64_t h = fnv1a(nullptr, 0);
  for (const auto& s : sequences) {
    const uint64_t n = s.size();
    h = fnv1a(&n, sizeof n, h);
    h = fnv1a(s.data(), s.size() * sizeof(int32_t), h);
  }
  return h;
}

void expect_utf8(const std::string& path, const std::string& text, uint64_t offset) {
  if (const size_t at = invalid_utf8(text); at != std::string::npos) {
    throw FormatError(fmt::format("{}: expected UTF-8 text, found the byte 0x{:02x} at offset {}", path,
                                  static_cast<unsigned char>(text[at]), offset + at));
  }
}

std::string with_plain_newlines(std::string text) {
  if (text.find('\r') == std::string::npos) return text;
  size_t to = 0;
  for (size_t from = 0; from < text.size(); ++from) {
    if (text[from] == '\r' && from + 1 < text.size() && text[from + 1] == '\n') continue;
    text[to++] = text[from] == '\r' ? '\n' : text[from];
  }
  text.resize(to);
  return text;
}

std::string read_utf8_text(const std::string& path) {
  std::string text = read_text_file(path, uint64_t{4} << 30);
  expect_utf8(path, text);
  text = without_byte_order_mark(std::move(text));
  if (text.empty()) throw FormatError(fmt::format("{}: expected a text, found an empty file", path));
  return with_plain_newlines(std::move(text));
}

std::vector<int32_t> tokenize_file(const std::string& path, const Tokenizer& tokenizer) {
  return tokenizer.encode(read_utf8_text(path), false);
}

bool same_text(const std::string& a, const std::string& b) {
  namespace fs = std::filesystem;
  std::error_code code;
  if (!fs::is_regular_file(a, code) || !fs::is_regular_file(b, code)) return false;
  if (fs::equivalent(a, b, code)) return true;
  if (fs::file_size(a, code) != fs::file_size(b, code) || code) return false;
  const MappedFile first(a);
  const MappedFile second(b);
  const auto equal = [&] {
    constexpr size_t kPiece = size_t{4} << 20;  // so that large texts do not fill memory
    const size_t size = first.bytes().size();
    if (size != second.bytes().size()) return false;
    for (size_t at = 0; at < size; at += kPiece) {
      const auto piece = first.bytes().subspan(at, std::min(kPiece, size - at));
      const auto other = second.bytes().subspan(at, piece.size());
      if (!std::ranges::equal(piece, other)) return false;
      first.release(piece);
      second.release(other);
    }
    return true;
  };
  return first.checked([&] { return second.checked(equal); });
}

int32_t bos_to_add(Bos bos, const Tokenizer& tokenizer) {
  if (bos == Bos::kNever || (bos == Bos::kAuto && !tokenizer.adds_bos())) return -1;
  const auto id = tokenizer.bos_id();
  if (!id) throw ArgumentError("--bos always: the tokenizer has no BOS token; use --bos never");
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
