#include "formats/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "core/checked.h"
#include "core/counted.h"
#include "core/files/model_file.h"
#include "formats/foreign_file.h"
#include "formats/json/bounded_json.h"
#include "formats/json/strict_json.h"
#include "formats/tensor_bounds.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

// The reference allows 100 MB and any number of dimensions.
constexpr uint64_t kHeaderLimit = uint64_t{32} << 20;
constexpr size_t kMostDimensions = 8;
constexpr uint64_t kLengthBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";
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

class IndexHandler : public StrictJson {
 public:
  using StrictJson::StrictJson;

  SafetensorsIndex index;
  bool seen_map = false;

 protected:
  void begin_object() override {
    if (where_ == Where::kOutside) {
      where_ = Where::kTop;
    } else if (where_ == Where::kTop) {
      where_ = key_ == "weight_map" ? Where::kMap : Where::kMetadata;
    } else {
      wrong("an object");
    }
  }
  void end_object() override { where_ = where_ == Where::kTop ? Where::kOutside : Where::kTop; }
  void on_key(const std::string& key) override {
    if (where_ == Where::kTop) {
      if (key == "weight_map") {
        if (std::exchange(seen_map, true)) fail("duplicate key \"weight_map\"");
      } else if (key != "metadata") {
        skip_value();
      }
    } else if (where_ == Where::kMetadata) {
      if (key != "total_size") skip_value();
    } else if (index.weight_map.contains(key)) {
      fail(fmt::format("weight_map: duplicate key {}", shown(key)));
    } else if (index.weight_map.size() == kMostTensors) {
      fail(fmt::format("weight_map: expected at most {}, found more", counted(kMostTensors, "tensor")));
    }
    key_ = key;
  }
  void on_null() override {
    if (where_ != Where::kTop || key_ != "metadata") wrong("null");
  }
  void on_string(std::string& value) override {
    if (where_ != Where::kMap) wrong("a string");
    if (value.empty() || value == "." || value.find("..") != std::string::npos ||
        value.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      fail(fmt::format("weight_map: tensor {} is placed in {}, expected a plain file name next to the index",
                       shown(key_), shown(value)));
    }
    index.weight_map.emplace(key_, std::move(value));
  }
  void on_unsigned(uint64_t value) override {
    if (where_ != Where::kMetadata) wrong("a number");
    index.total_size = value;
  }
  void on_float(double value) override {  // some writers print the size as a float
    if (where_ != Where::kMetadata || !(value >= 0) || value >= 0x1p63) wrong("a number");
    index.total_size = static_cast<uint64_t>(value);
  }
  [[noreturn]] void wrong(const std::string& found) override {
    if (where_ == Where::kOutside) fail(fmt::format("the index is {}, expected a JSON object", found));
    const char* expected = where_ == Where::kTop        ? "an object"
                           : where_ == Where::kMetadata ? "a size in bytes"
                                                        : "the name of a file";
    fail(fmt::format("key {} is {}, expected {}", shown(key_), found, expected));
  }

 private:
  enum class Where : uint8_t { kOutside, kTop, kMetadata, kMap };
  Where where_ = Where::kOutside;
  std::string key_;
};

// The order of the reference's enumeration, by which its writer sorts.
int reference_rank(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return 0;
    case DType::kU8:
      return 1;
    case DType::kI8:
      return 2;
    case DType::kF8E5M2:
      return 3;
    case DType::kF8E4M3:
      return 4;
    case DType::kI16:
      return 5;
    case DType::kU16:
      return 6;
    case DType::kF16:
      return 7;
    case DType::kBF16:
      return 8;
    case DType::kI32:
      return 9;
    case DType::kU32:
      return 10;
    case DType::kF32:
      return 11;
    case DType::kF64:
      return 12;
    case DType::kI64:
      return 13;
    case DType::kU64:
      return 14;
  }
  return 0;
}

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
  if (length > kHeaderLimit) {
    throw FormatError(
        fmt::format("{}: header of {}, expected at most {}: no safetensors file, or one that no model needs", name,
                    counted(length, "byte"), kHeaderLimit));
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

uint64_t TensorInfo::bytes() const {
  const auto n = checked_bytes(shape, dtype_size(dtype));
  if (!n) throw ArgumentError(fmt::format("tensor {}: shape {} has no size", shown(name), shape_string(shape)));
  return *n;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), tensors_(std::move(tensors)), file_(path) {
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(-reference_rank(a.dtype), std::string_view(a.name)) <
           std::pair(-reference_rank(b.dtype), std::string_view(b.name));
  });
  std::vector<std::string_view> names;
  const auto quote = [&](const std::string& text) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      throw ArgumentError(fmt::format("{}: {} is not UTF-8", path, shown(text)));
    }
  };
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) header += quote(key) + ":" + quote(value) + ",";
    header.back() = '}';
    header += ",";
  }
  uint64_t offset = 0;
  for (const TensorInfo& tensor : tensors_) {
    const auto end = checked_add(offset, tensor.bytes());
    if (!end) throw ArgumentError(fmt::format("{}: the tensors exceed 2^64 bytes", path));
    header += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", quote(tensor.name),
                          dtype_name(tensor.dtype), fmt::join(tensor.shape, ","), offset, *end);
    offset = *end;
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw ArgumentError(fmt::format("{}: duplicate tensor {}", path, shown(*twice)));
  if (std::binary_search(names.begin(), names.end(), kMetadataKey)) {
    throw ArgumentError(fmt::format("{}: a tensor cannot be called {}", path, kMetadataKey));
  }
  if (header.size() > 1) {
    header.back() = '}';
  } else {
    header += "}";
  }
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > kHeaderLimit) {
    throw ArgumentError(
        fmt::format("{}: header of {}, readers accept {}", path, counted(header.size(), "byte"), kHeaderLimit));
  }
  const uint64_t length = header.size();
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(header);
  file_bytes_ = file_.position() + offset;
}

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const uint64_t size = expect_next(name);
  if (written_ != 0 || bytes.size() != size) {
    throw ArgumentError(fmt::format("{}: tensor {} has {}, {} were given at byte {}", path_, shown(name),
                                    counted(size, "byte"), bytes.size(), written_));
  }
  write_part(name, bytes);
}

uint64_t SafetensorsWriter::expect_next(std::string_view name) const {
  if (next_ < tensors_.size() && tensors_[next_].name == name) return tensors_[next_].bytes();
  throw ArgumentError(fmt::format("{}: tensor {} was given, expected {}", path_, shown(name),
                                  next_ == tensors_.size() ? "no more" : shown(tensors_[next_].name)));
}

void SafetensorsWriter::write_part(std::string_view name, std::span<const std::byte> bytes) {
  const uint64_t size = expect_next(name);
  if (bytes.size() > size - written_) {
    throw ArgumentError(
        fmt::format("{}: tensor {} has {}, more were given", path_, shown(name), counted(size, "byte")));
  }
  file_.write(bytes);
  written_ += bytes.size();
  if (written_ == size) {
    ++next_;
    written_ = 0;
  }
}

void SafetensorsWriter::commit() {
  if (next_ != tensors_.size()) {
    throw ArgumentError(fmt::format("{}: tensor {} was not written", path_, shown(tensors_[next_].name)));
  }
  file_.commit();
}

void write_safetensors(const std::string& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorInfo> infos;
  std::unordered_map<std::string_view, const TensorView*> by_name;
  for (const TensorView& tensor : tensors) {
    infos.push_back({tensor.name, tensor.dtype, tensor.shape});
    by_name[tensor.name] = &tensor;
  }
  SafetensorsWriter writer(path, std::move(infos), metadata);
  for (const TensorInfo& info : writer.order()) writer.write(info.name, by_name.at(info.name)->bytes);
  writer.commit();
}

void write_safetensors(const std::string& path, std::span<const OwnedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorView> views;
  for (const OwnedTensor& tensor : tensors) views.push_back(tensor.view());
  write_safetensors(path, views, metadata);
}

std::vector<std::string> SafetensorsIndex::files() const {
  std::vector<std::string> files;
  for (const auto& [tensor, file] : weight_map) files.push_back(file);
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

SafetensorsIndex parse_index(std::string_view text, const std::string& name) {
  IndexHandler handler(name);
  handler.parse(text);
  if (!handler.seen_map) {
    const std::string page = error_page_text(parse_json_or_discard(text));
    if (!page.empty()) throw FormatError(fmt::format("{}: {}", name, page));
    throw FormatError(fmt::format("{}: no weight_map: no index of safetensors shards", name));
  }
  return std::move(handler.index);
}

SafetensorsIndex read_index(const std::string& path, std::vector<std::string>* warnings) {
  std::string text = read_model_text(path, kHeaderLimit);
  if (warnings != nullptr) drop_byte_order_mark(text, path, *warnings);
  SafetensorsIndex index = parse_index(text, path);
  if (index.weight_map.empty()) {
    throw FormatError(
        fmt::format("{}: weight_map is empty: the index places no tensor in any shard; download the index again, or "
                    "remove it if the model is one file",
                    path));
  }
  return index;
}

void write_index(const std::string& path, const SafetensorsIndex& index) {
  nlohmann::json json;
  json["metadata"] = nlohmann::json::object();
  if (index.total_size) json["metadata"]["total_size"] = *index.total_size;
  json["weight_map"] = index.weight_map;
  write_text_file(path, json.dump(2, ' ', true) + "\n");
}

std::string shard_name(int shard, int shards, std::string_view stem) {
  return fmt::format("{}-{:05}-of-{:05}.safetensors", stem, shard, shards);
}

void require_shards(const SafetensorsIndex& index, const std::string& index_path) {
  const auto slash = index_path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : index_path.substr(0, slash + 1);
  const std::vector<std::string> files = index.files();
  std::vector<std::string> missing;
  for (const std::string& file : files) {
    std::error_code code;
    if (!std::filesystem::exists(folder + file, code)) missing.push_back(file);
  }
  if (missing.empty()) return;
  const auto tensors = std::count_if(index.weight_map.begin(), index.weight_map.end(), [&](const auto& placed) {
    return std::binary_search(missing.begin(), missing.end(), placed.second);
  });
  constexpr size_t kNamed = 5;
  const auto named = missing.begin() + static_cast<int64_t>(std::min(missing.size(), kNamed));
  throw SystemError(
      fmt::format("{}{}{} missing: {} places {} in {} ({} of {} shards {} not there); download {} into the "
                  "folder, or the whole model again",
                  folder, fmt::join(missing.begin(), named, fmt::format(", {}", folder)),
                  missing.size() == 1       ? ": this shard is"
                  : missing.size() > kNamed ? fmt::format(" and {} more shards are", missing.size() - kNamed)
                                            : ": these shards are",
                  index_path, counted(tensors, "tensor"), missing.size() == 1 ? "it" : "them", missing.size(),
                  files.size(), form_for(missing.size(), "is", "are"), missing.size() == 1 ? "it" : "them"));
}

}  // namespace metal_marlin
