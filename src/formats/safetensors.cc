#include "formats/safetensors.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "core/checked.h"
#include "core/counted.h"
#include "formats/foreign_file.h"
#include "formats/json/strict_json.h"
#include "formats/safetensors_internal.h"
#include "formats/tensor_bounds.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr size_t kMostDimensions = 8;  // the reference allows any number
constexpr uint64_t kLengthBytes = 8;
constexpr size_t kMostMetadata = size_t{1} << 16;  // keys; writers use some ten

struct Entry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<int64_t>> shape;
  std::optional<std::vector<uint64_t>> offsets;
};

// Handles the header while it is parsed, so that no tree of a 100 MB header is ever built, and duplicates are noticed.
class HeaderHandler : public StrictJson {
 public:
  using StrictJson::StrictJson;

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

 protected:
  void begin_object() override {
    if (where_ == Where::kOutside) {
      where_ = Where::kTop;
    } else if (where_ == Where::kTop) {
      where_ = key_ == kMetadataKey ? Where::kMetadata : Where::kEntry;
      if (where_ == Where::kEntry) {
        if (entries.size() == kMostTensors)
          fail(fmt::format("expected at most {}, found more", counted(kMostTensors, "tensor")));
        entries.push_back({.name = key_});
      }
    } else {
      wrong("an object");
    }
  }
  void end_object() override {
    if (where_ == Where::kEntry) require_fields(entries.back());
    where_ = where_ == Where::kTop ? Where::kOutside : Where::kTop;
  }
  void on_key(const std::string& key) override {
    switch (where_) {
      case Where::kTop:
        if (key == kMetadataKey) {
          if (std::exchange(seen_metadata_, true)) fail(fmt::format("duplicate key {}", shown(key)));
        }
        key_ = key;
        break;
      case Where::kMetadata:
        if (metadata.contains(key)) fail(fmt::format("{}: duplicate key {}", kMetadataKey, shown(key)));
        if (metadata.size() == kMostMetadata)
          fail(fmt::format("{}: expected at most {}, found more", kMetadataKey, counted(kMostMetadata, "key")));
        key_in_metadata_ = key;
        break;
      default:
        on_field(key);
    }
  }
  void on_null() override {
    if (where_ == Where::kTop && key_ == kMetadataKey) return;
    wrong("null");
  }
  void on_string(std::string& value) override {
    if (where_ == Where::kMetadata) {
      metadata.emplace(key_in_metadata_, std::move(value));
    } else if (where_ == Where::kEntry && field_ == Field::kDtype) {
      entries.back().dtype = std::move(value);
    } else {
      wrong("a string");
    }
  }
  void on_unsigned(uint64_t value) override {
    if (where_ == Where::kShape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        fail(fmt::format("tensor {}: dimension {} is too large", shown(key_), value));
      }
      if (entries.back().shape->size() == kMostDimensions)
        fail(fmt::format("tensor {}: shape: expected at most {}, found more", shown(key_),
                         counted(kMostDimensions, "dimension")));
      entries.back().shape->push_back(static_cast<int64_t>(value));
    } else if (where_ == Where::kOffsets) {
      if (entries.back().offsets->size() == 2) fail(fmt::format("tensor {}: more than two data_offsets", shown(key_)));
      entries.back().offsets->push_back(value);
    } else {
      wrong("a number");
    }
  }
  void begin_array() override {
    if (where_ == Where::kEntry && field_ == Field::kShape) {
      where_ = Where::kShape;
      entries.back().shape.emplace();
    } else if (where_ == Where::kEntry && field_ == Field::kOffsets) {
      where_ = Where::kOffsets;
      entries.back().offsets.emplace();
    } else {
      wrong("an array");
    }
  }
  void end_array() override { where_ = Where::kEntry; }

  [[noreturn]] void wrong(const std::string& found) override {
    switch (where_) {
      case Where::kOutside:
        fail(fmt::format("the header is {}, expected a JSON object", found));
      case Where::kTop:
        fail(fmt::format("entry {} is {}, expected an object", shown(key_), found));
      case Where::kMetadata:
        fail(fmt::format("{} key {} is {}, expected a string", kMetadataKey, shown(key_in_metadata_), found));
      case Where::kEntry:
        fail(fmt::format("tensor {}: {} is {}, expected {}", shown(key_), field_name(), found,
                         field_ == Field::kDtype ? "a string" : "an array"));
      default:
        fail(fmt::format("tensor {}: {} holds {}, expected integers >= 0", shown(key_), field_name(), found));
    }
  }

 private:
  enum class Where : uint8_t { kOutside, kTop, kMetadata, kEntry, kShape, kOffsets };
  enum class Field : uint8_t { kDtype, kShape, kOffsets };

  // At the end of an entry, so that a header of many empty ones is refused at the first.
  void require_fields(const Entry& entry) const {
    for (const auto& [present, field] : {std::pair{entry.dtype.has_value(), "dtype"},
                                         {entry.shape.has_value(), "shape"},
                                         {entry.offsets && entry.offsets->size() == 2, "data_offsets"}}) {
      if (!present) fail(fmt::format("tensor {}: missing or incomplete {}", shown(entry.name), field));
    }
  }
  const char* field_name() const {
    return field_ == Field::kDtype ? "dtype" : field_ == Field::kShape ? "shape" : "data_offsets";
  }
  void on_field(const std::string& key) {
    const Entry& entry = entries.back();
    bool seen = false;
    if (key == "dtype") {
      field_ = Field::kDtype;
      seen = entry.dtype.has_value();
    } else if (key == "shape") {
      field_ = Field::kShape;
      seen = entry.shape.has_value();
    } else if (key == "data_offsets") {
      field_ = Field::kOffsets;
      seen = entry.offsets.has_value();
    } else {
      skip_value();
    }
    if (seen) fail(fmt::format("tensor {}: duplicate field {}", shown(key_), shown(key)));
  }

  Where where_ = Where::kOutside;
  Field field_ = Field::kDtype;
  bool seen_metadata_ = false;
  std::string key_;
  std::string key_in_metadata_;
};

bool valid_in_the_format(std::string_view dtype) {
  constexpr std::string_view kOthers[] = {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"};
  return std::find(std::begin(kOthers), std::end(kOthers), dtype) != std::end(kOthers);
}

TensorView checked_view(Entry& entry, std::span<const std::byte> data, const std::string& file) {
  const std::string where = fmt::format("{}: tensor {}", file, shown(entry.name));
  const auto dtype = dtype_from_name(*entry.dtype);
  if (!dtype && valid_in_the_format(*entry.dtype)) {
    throw UnsupportedError(fmt::format(
        "{}: element type {} is not supported; convert the checkpoint to F32, F16 or BF16 first", where, *entry.dtype));
  }
  if (!dtype) throw FormatError(fmt::format("{}: unknown dtype {}", where, shown(*entry.dtype)));
  const uint64_t begin = (*entry.offsets)[0];
  const uint64_t end = (*entry.offsets)[1];
  if (end < begin || end > data.size()) {
    throw FormatError(fmt::format("{}: data_offsets [{}, {}], but the file holds {} of data; is it complete?", where,
                                  begin, end, counted(data.size(), "byte")));
  }
  const auto bytes = checked_bytes(*entry.shape, dtype_size(*dtype));
  if (!bytes || *bytes != end - begin) {
    throw FormatError(fmt::format("{}: {} {} needs {} bytes, data_offsets [{}, {}] give {}", where, *entry.dtype,
                                  shape_string(*entry.shape), bytes ? fmt::format("{}", *bytes) : "more than 2^63",
                                  begin, end, end - begin));
  }
  return {std::move(entry.name), *dtype, std::move(*entry.shape), data.subspan(begin, end - begin)};
}

}  // namespace

SafetensorsContent parse_safetensors(std::span<const std::byte> file, const std::string& name) {
  // A header begins with '{'; what does not may be another kind of file.
  if (file.size() <= kLengthBytes || static_cast<char>(file[kLengthBytes]) != '{') {
    const std::string_view start(reinterpret_cast<const char*>(file.data()), std::min<size_t>(file.size(), 512));
    if (const std::string foreign = foreign_weights_text(start); !foreign.empty())
      throw FormatError(fmt::format("{}: no safetensors file: {}", name, foreign));
  }
  if (file.size() < kLengthBytes) {
    throw FormatError(fmt::format("{}: {}, expected at least {}: no safetensors file", name,
                                  counted(file.size(), "byte"), kLengthBytes));
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kSafetensorsHeaderLimit) {
    throw FormatError(
        fmt::format("{}: header of {}, expected at most {}: no safetensors file, or one that no model needs", name,
                    counted(length, "byte"), kSafetensorsHeaderLimit));
  }
  if (length > file.size() - kLengthBytes) {
    throw FormatError(fmt::format("{}: header of {} in a file of {}: the file is cut off", name,
                                  counted(length, "byte"), file.size()));
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  const auto data = file.subspan(kLengthBytes + length);
  HeaderHandler header(name + ": safetensors header", kLengthBytes);
  header.parse(text);

  std::sort(header.entries.begin(), header.entries.end(),
            [](const Entry& a, const Entry& b) { return std::tie(a.offsets, a.name) < std::tie(b.offsets, b.name); });
  SafetensorsContent content;
  content.metadata = std::move(header.metadata);
  content.tensors.reserve(header.entries.size());
  uint64_t position = 0;
  for (Entry& entry : header.entries) {
    content.tensors.push_back(checked_view(entry, data, name));
    const TensorView& tensor = content.tensors.back();
    const auto begin = static_cast<uint64_t>(tensor.bytes.data() - data.data());
    if (begin != position) {
      throw FormatError(fmt::format("{}: tensor {}: data starts at {}, expected {}: tensors overlap or leave a hole",
                                    name, shown(tensor.name), begin, position));
    }
    position += tensor.bytes.size();
  }
  if (position != data.size()) {
    throw FormatError(
        fmt::format("{}: {} of data, the tensors cover {}", name, counted(data.size(), "byte"), position));
  }
  std::vector<std::string_view> names;
  names.reserve(content.tensors.size());
  for (const TensorView& tensor : content.tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end()) {
    throw FormatError(fmt::format("{}: duplicate key {}", name, shown(*twice)));
  }
  return content;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : SafetensorsFile(MappedFile(path)) {}

SafetensorsFile::SafetensorsFile(MappedFile file)
    : file_(std::move(file)), content_(file_.checked([&] { return parse_safetensors(file_.bytes(), file_.path()); })) {
  index_.reserve(content_.tensors.size());
  for (size_t i = 0; i < content_.tensors.size(); ++i) index_.emplace(content_.tensors[i].name, i);
}

const TensorView* SafetensorsFile::find(std::string_view name) const noexcept {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &content_.tensors[it->second];
}

const TensorView& SafetensorsFile::get(std::string_view name) const {
  if (const TensorView* tensor = find(name)) return *tensor;
  throw FormatError(
      fmt::format("{}: no tensor {}; the file holds {} others", path(), shown(name), content_.tensors.size()));
}

}  // namespace metal_marlin
