// model.safetensors.index.json, which says in which shard each tensor lies.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/counted.h"
#include "core/files/model_file.h"
#include "formats/foreign_file.h"
#include "formats/json/bounded_json.h"
#include "formats/json/strict_json.h"
#include "formats/safetensors.h"
#include "formats/safetensors_internal.h"
#include "formats/tensor_bounds.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

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

}  // namespace

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
  std::string text = read_model_text(path, kSafetensorsHeaderLimit);
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
