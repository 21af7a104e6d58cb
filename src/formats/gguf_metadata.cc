// The keys of a GGUF file, as numbers, texts and arrays of the type that the caller expects.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>

#include "core/counted.h"
#include "formats/gguf.h"
#include "formats/gguf_internal.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr uint64_t kMostElements = uint64_t{1} << 21;  // of an array that is read: eight times any vocabulary
constexpr std::array<std::string_view, 13> kTypeNames = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                         "bool", "string", "array", "u64", "i64", "f64"};

}  // namespace

std::string_view gguf_type_name(GgufType type) noexcept {
  const auto i = static_cast<size_t>(type);
  return i < kTypeNames.size() ? kTypeNames[i] : "unknown";
}

std::string GgufValue::type_name() const {
  if (type != GgufType::kArray) return std::string(gguf_type_name(type));
  return fmt::format("array of {}", gguf_type_name(element));
}

const GgufValue* GgufMetadata::find(std::string_view key) const noexcept {
  const auto it = pairs_.find(key);
  return it == pairs_.end() ? nullptr : &it->second;
}

void GgufMetadata::missing(std::string_view key, const char* expected) const {
  throw FormatError(
      fmt::format("{}: key {} is missing: expected {}, found none; {}", file_, shown(key), expected, kConvertAgain));
}

void GgufMetadata::mismatch(std::string_view key, const char* expected, const GgufValue& found) const {
  std::string text = found.type_name();
  if (const auto* u = std::get_if<uint64_t>(&found.value)) text += fmt::format(" {}", *u);
  if (const auto* i = std::get_if<int64_t>(&found.value)) text += fmt::format(" {}", *i);
  throw FormatError(
      fmt::format("{}: key {}: expected {}, found {}; {}", file_, shown(key), expected, text, kConvertAgain));
}

std::optional<uint64_t> GgufMetadata::find_u64(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (const auto* u = std::get_if<uint64_t>(&found->value)) return *u;
  if (const auto* i = std::get_if<int64_t>(&found->value); i != nullptr && *i >= 0) return static_cast<uint64_t>(*i);
  mismatch(key, "an integer >= 0", *found);
}

std::optional<int64_t> GgufMetadata::find_i64(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (const auto* i = std::get_if<int64_t>(&found->value)) return *i;
  if (const auto* u = std::get_if<uint64_t>(&found->value); u != nullptr && std::in_range<int64_t>(*u)) {
    return static_cast<int64_t>(*u);
  }
  mismatch(key, "an integer below 2^63", *found);
}

std::optional<double> GgufMetadata::find_f64(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (const auto* f = std::get_if<double>(&found->value)) return *f;
  if (const auto* u = std::get_if<uint64_t>(&found->value)) return static_cast<double>(*u);
  if (const auto* i = std::get_if<int64_t>(&found->value)) return static_cast<double>(*i);
  mismatch(key, "a number", *found);
}

std::optional<bool> GgufMetadata::find_bool(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (const auto* b = std::get_if<bool>(&found->value)) return *b;
  mismatch(key, "bool", *found);
}

std::optional<std::string> GgufMetadata::find_string(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (const auto* s = std::get_if<std::string>(&found->value)) return *s;
  mismatch(key, "string", *found);
}

void GgufMetadata::check_count(uint64_t count, std::string_view key) const {
  if (count <= kMostElements) return;
  throw FormatError(fmt::format("{}: key {}: expected at most {}, found {}; {}", file_, shown(key),
                                counted(kMostElements, "element"), count, kConvertAgain));
}

std::optional<std::vector<std::string>> GgufMetadata::find_strings(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  const auto* strings = std::get_if<GgufStrings>(&found->value);
  if (strings == nullptr) mismatch(key, "array of string", *found);
  check_count(strings->count, key);
  std::vector<std::string> out;
  out.reserve(strings->count);
  const auto* bytes = reinterpret_cast<const char*>(strings->bytes.data());
  size_t at = 0;
  // The file may have been cut since: its mapping then gives zeros, and lengths stay checked.
  for (uint64_t i = 0; i < strings->count; ++i) {
    uint64_t size = 0;
    if (strings->bytes.size() - at < sizeof(size)) break;
    std::memcpy(&size, bytes + at, sizeof(size));
    at += sizeof(size);
    if (size > strings->bytes.size() - at) break;
    out.emplace_back(bytes + at, size);
    at += size;
  }
  if (out.size() != strings->count) {
    throw FormatError(fmt::format("{}: key {}: expected {}, found {} whole; the file changed while it was read", file_,
                                  shown(key), counted(strings->count, "string"), out.size()));
  }
  return out;
}

namespace {

template <typename Stored, typename Held>
std::vector<Held> held(const GgufNumbers& numbers) {
  std::vector<Held> out(numbers.count);
  for (uint64_t i = 0; i < numbers.count; ++i) {
    Stored value;
    std::memcpy(&value, numbers.bytes.data() + i * sizeof(Stored), sizeof(Stored));
    out[i] = static_cast<Held>(value);
  }
  return out;
}

}  // namespace

// nullptr: absent, or no array of numbers.
const GgufNumbers* GgufMetadata::numbers(const GgufValue* found, std::string_view key) const {
  const auto* n = found == nullptr ? nullptr : std::get_if<GgufNumbers>(&found->value);
  if (n != nullptr) check_count(n->count, key);
  return n;
}

std::optional<std::vector<int64_t>> GgufMetadata::find_ints(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (const GgufNumbers* n = numbers(found, key)) {
    switch (found->element) {
      case GgufType::kU8:
        return held<uint8_t, int64_t>(*n);
      case GgufType::kI8:
        return held<int8_t, int64_t>(*n);
      case GgufType::kU16:
        return held<uint16_t, int64_t>(*n);
      case GgufType::kI16:
        return held<int16_t, int64_t>(*n);
      case GgufType::kU32:
        return held<uint32_t, int64_t>(*n);
      case GgufType::kI32:
        return held<int32_t, int64_t>(*n);
      case GgufType::kI64:
        return held<int64_t, int64_t>(*n);
      case GgufType::kU64: {
        auto values = held<uint64_t, int64_t>(*n);  // what is too large has become negative
        if (std::all_of(values.begin(), values.end(), [](int64_t v) { return v >= 0; })) return values;
        break;
      }
      default:
        break;
    }
  }
  mismatch(key, "array of integers below 2^63", *found);
}

std::optional<std::vector<float>> GgufMetadata::find_floats(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (const GgufNumbers* n = numbers(found, key)) {
    if (found->element == GgufType::kF32) return held<float, float>(*n);
    if (found->element == GgufType::kF64) return held<double, float>(*n);
  }
  mismatch(key, "array of f32", *found);
}

std::optional<std::vector<bool>> GgufMetadata::find_bools(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (const GgufNumbers* n = numbers(found, key); n != nullptr && found->element == GgufType::kBool) {
    std::vector<bool> out(n->count);
    for (size_t i = 0; i < out.size(); ++i) out[i] = n->bytes[i] != std::byte{0};
    return out;
  }
  mismatch(key, "array of bool", *found);
}

uint64_t GgufMetadata::get_u64(std::string_view key) const {
  if (const auto value = find_u64(key)) return *value;
  missing(key, "an integer >= 0");
}

int64_t GgufMetadata::get_i64(std::string_view key) const {
  if (const auto value = find_i64(key)) return *value;
  missing(key, "an integer");
}

double GgufMetadata::get_f64(std::string_view key) const {
  if (const auto value = find_f64(key)) return *value;
  missing(key, "a number");
}

bool GgufMetadata::get_bool(std::string_view key) const {
  if (const auto value = find_bool(key)) return *value;
  missing(key, "bool");
}

std::string GgufMetadata::get_string(std::string_view key) const {
  if (auto value = find_string(key)) return *std::move(value);
  missing(key, "string");
}

std::vector<std::string> GgufMetadata::get_strings(std::string_view key) const {
  if (auto value = find_strings(key)) return *std::move(value);
  missing(key, "array of string");
}

std::vector<int64_t> GgufMetadata::get_ints(std::string_view key) const {
  if (auto value = find_ints(key)) return *std::move(value);
  missing(key, "array of integers");
}

std::vector<float> GgufMetadata::get_floats(std::string_view key) const {
  if (auto value = find_floats(key)) return *std::move(value);
  missing(key, "array of f32");
}

}  // namespace metal_marlin
