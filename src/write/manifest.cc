#include "write/manifest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>
#include <metal_marlin/version.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "formats/json/bounded_json.h"
#include "formats/json/json_events.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

constexpr const char* kProgram = "metal-marlin";
constexpr const char* kReport = "report.json";
constexpr const char* kPage = "report.html";
constexpr uint64_t kLargest = uint64_t{256} << 20;

// Ends the parsing, by returning false, where the list "files" of the outermost object is too long to be ours. Nothing
// is built before: a value takes many times the time and the memory of its text.
class ListLength : public JsonCounter {
 public:
  bool key(string_t& name) override {
    if (depth_ == 1) in_list_ = name == "files";
    return true;
  }

  size_t entries = 0;

 private:
  bool value() override { return !in_list_ || depth_ != 2 || ++entries <= kMostListed; }
  bool open() override {
    const bool go_on = value();
    ++depth_;
    return go_on;
  }
  bool close() override {
    --depth_;
    return true;
  }

  uint64_t depth_ = 0;
  bool in_list_ = false;
};

std::string list_text(const Folder& folder, const char* name) {
  return read_text_file(folder.open_file(name), folder.path_of(name), kLargest);
}

bool lists_too_many(const std::string& text) {
  ListLength length;
  walk_json(text, length);
  return length.entries > kMostListed;
}

// Null where there is no such file, none of JSON, or one that is too long to be ours.
json read_json(const Folder& folder, const char* name) {
  if (folder.status(name).kind != FileKind::kRegular) return nullptr;
  const std::string text = list_text(folder, name);
  json j = lists_too_many(text) ? json(nullptr) : parse_json_or_discard(text);
  return j.is_object() ? std::move(j) : json(nullptr);
}

std::string text_of(const json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

bool is_own_name(const std::string& name) {
  return is_plain_name(name) && name[0] != '.';
}

bool is_folder_of_format(const std::string& name) {
  const auto& formats = checkpoint_formats();
  return std::any_of(formats.begin(), formats.end(),
                     [&](const std::string& format) { return format_folder(format) == name; });
}

// The list `files`; nothing where there is none.
const json* files_of(const json& object) {
  const auto it = object.is_object() ? object.find("files") : object.end();
  return it != object.end() && it->is_array() ? &*it : nullptr;
}

}  // namespace

bool is_listed_name(const std::string& name) {
  const size_t slash = name.find('/');
  if (slash == std::string::npos) return name == kManifestName || is_own_name(name);
  return is_folder_of_format(name.substr(0, slash)) && is_own_name(name.substr(slash + 1));
}

Manifest read_manifest(const Folder& folder) {
  Manifest out;
  const json report = read_json(folder, kReport);
  const json::json_pointer fingerprint("/run/fingerprint");
  if (const json* files = files_of(report); files != nullptr && report.contains(fingerprint)) {
    const json::json_pointer formats("/options/formats");
    const bool folders = report.contains(formats) && report.at(formats).is_array() && report.at(formats).size() > 1;
    for (const json& file : *files) {
      const std::string plain = text_of(file, "name");
      const std::string name = folders ? format_folder(text_of(file, "format")) + "/" + plain : plain;
      if (is_own_name(plain) && is_listed_name(name)) out.files.insert(name);
    }
    out.files.insert({kPage, kReport});
  }
  const json list = read_json(folder, kManifestName);
  if (const json* files = files_of(list); files != nullptr && text_of(list, "program") == kProgram) {
    for (const json& file : *files) {
      if (file.is_string() && is_own_name(file.get<std::string>())) out.files.insert(file.get<std::string>());
    }
    out.files.insert(kManifestName);
  }
  return out;
}

std::string manifest_text(const std::vector<std::string>& names, const std::string& quantized_as) {
  json list = {{"program", kProgram}, {"version", version()}, {"files", names}};
  if (!quantized_as.empty()) list["quantized_as"] = quantized_as;
  return list.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string quantized_before(const std::string& folder) {
  if (!is_folder(folder)) return {};
  const json list = read_json(Folder(folder), kManifestName);
  return text_of(list, "program") == kProgram ? text_of(list, "quantized_as") : std::string();
}

std::vector<std::string> foreign_names(const Folder& folder, const Manifest& manifest) {
  std::vector<std::string> out;
  const auto look = [&](const Folder& where, const std::string& name, const std::string& shown_name) {
    const FileKind kind = where.status(name).kind;
    if (kind == FileKind::kNone || is_temporary_name(name)) return;
    if (!manifest.lists(shown_name)) {
      out.push_back(shown_name);
    } else if (kind != FileKind::kRegular) {
      out.push_back(fmt::format("{} ({})", shown_name, kind_name(kind)));
    }
  };
  for (const std::string& name : folder.names()) {
    if (name == kJournalName) continue;  // judged by Journal
    const auto inside = manifest.files.lower_bound(name + "/");
    const bool of_format = inside != manifest.files.end() && inside->starts_with(name + "/");
    if (of_format && folder.status(name).kind == FileKind::kFolder) {
      const Folder format = folder.open_folder(name);
      for (const std::string& entry : format.names()) look(format, entry, name + "/" + entry);
    } else {
      look(folder, name, name);
    }
  }
  return out;
}

std::string unreadable_list_text(const Folder& folder) {
  for (const char* name : {kReport, kManifestName}) {
    if (folder.status(name).kind != FileKind::kRegular) continue;
    if (lists_too_many(list_text(folder, name)))
      return fmt::format("; its {} lists more than {} files, which this program never writes", name, kMostListed);
    if (read_json(folder, name).is_null())
      return fmt::format("; its {}, which would say what this program wrote there, cannot be read", name);
  }
  return {};
}

std::string some_names(const std::vector<std::string>& names) {
  constexpr size_t kNamed = 5;
  if (names.size() <= kNamed) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} and {} more", fmt::join(names.begin(), names.begin() + kNamed, ", "), names.size() - kNamed);
}

void remove_listed(const Folder& folder, const Manifest& manifest) {
  const auto is_list = [](const std::string& name) { return name == kReport || name == kManifestName; };
  const auto remove = [](const Folder& where, const std::string& name) {
    if (is_plain_name(name) && where.status(name).kind == FileKind::kRegular) where.remove_file(name);
  };
  std::set<std::string> formats;
  for (const std::string& name : manifest.files) {
    const size_t slash = name.find('/');
    if (slash == std::string::npos) {
      if (!is_list(name)) remove(folder, name);
      continue;
    }
    const std::string format = name.substr(0, slash);
    if (!is_plain_name(format) || folder.status(format).kind != FileKind::kFolder) continue;
    remove(folder.open_folder(format), name.substr(slash + 1));
    formats.insert(format);
  }
  for (const std::string& format : formats) folder.remove_empty(format);
  for (const std::string& name : manifest.files) {
    if (is_list(name)) remove(folder, name);
  }
}

void refuse_checkpoint_file(const std::string& path) {
  const std::string name = std::filesystem::path(path).filename().string();
  if (name == kPage) return;
  for (const char* weights : {".safetensors", ".gguf", ".bin"}) {
    if (name.ends_with(weights))
      throw ArgumentError(
          fmt::format("{}: is a name for weights, which engines would load; choose another name", path));
  }
  std::error_code code;
  const std::filesystem::path place = std::filesystem::canonical(folder_of(path), code);
  if (code) return;  // there is no such folder: said elsewhere
  const auto refuse = [&](const Folder& folder, const std::string& listed) {
    if (!read_manifest(folder).lists(listed)) return;
    throw ArgumentError(fmt::format("{}: is a file of the checkpoint in {}; choose another name", path, folder.path()));
  };
  const Folder folder(place.string());
  refuse(folder, name);
  if (is_folder_of_format(place.filename().string()))
    refuse(Folder(place.parent_path().string()), place.filename().string() + "/" + name);
}

}  // namespace metal_marlin
