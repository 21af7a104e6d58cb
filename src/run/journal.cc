#include "run/journal.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/files/atomic_file.h"
#include "core/files/digest.h"
#include "core/files/held_folder.h"
#include "core/files/mapped_file.h"
#include "formats/json/bounded_json.h"
#include "formats/json/json_fault.h"
#include "formats/safetensors.h"
#include "formats/text.h"
#include "pack/native.h"
#include "platform/folder.h"
#include "records/json_records.h"
#include "write/manifest.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kRun = "run.json";
constexpr const char* kPlacing = "place.json";

OwnedTensor token_tensor(const std::string& name, const TokenSet& set) {
  OwnedTensor t;
  t.name = name;
  t.dtype = DType::kI32;
  std::vector<int32_t> flat;
  for (const auto& s : set.sequences) {
    flat.push_back(static_cast<int32_t>(s.size()));
    flat.insert(flat.end(), s.begin(), s.end());
  }
  t.shape = {static_cast<int64_t>(flat.size())};
  t.bytes = Buffer(flat.size() * sizeof(int32_t));
  if (!flat.empty()) std::memcpy(t.bytes.data(), flat.data(), t.bytes.size());
  return t;
}

TokenSet token_set(const TensorView& view, const std::string& path) {
  TokenSet set;
  const auto fail = [&](const std::string& expected, const std::string& found) {
    throw FormatError(
        fmt::format("{}: {}: expected {}, found {}; the interrupted run is damaged: run again with "
                    "--no-resume",
                    path, view.name, expected, found));
  };
  if (view.dtype != DType::kI32) fail("I32", std::string(dtype_name(view.dtype)));
  const auto* values = reinterpret_cast<const int32_t*>(view.bytes.data());
  const int64_t n = view.elements();
  for (int64_t i = 0; i < n;) {
    const int64_t length = values[i++];
    if (length < 1 || length > n - i) fail("sequences within the tensor", fmt::format("one of {} tokens", length));
    set.sequences.emplace_back(values + i, values + i + length);
    i += length;
  }
  return set;
}

OwnedTensor copy(const TensorView& view) {
  OwnedTensor t;
  t.name = view.name;
  t.dtype = view.dtype;
  t.shape = view.shape;
  t.bytes = Buffer(view.bytes.size());
  if (!view.bytes.empty()) std::memcpy(t.bytes.data(), view.bytes.data(), view.bytes.size());
  return t;
}

SafetensorsFile open_tensors(const std::string& path) {
  return SafetensorsFile(MappedFile(open_held_file(path), path));
}

// Names that a run writes into the folder, this version's or an earlier one's.
bool is_journal_name(const std::string& name) {
  for (const char* whole : {kRun, kPlacing, "texts.json", "tokens.safetensors", "sensitivity.json", "result"}) {
    if (name == whole || name == std::string(whole) + ".tmp") return true;
  }
  if (is_temporary_name(name) || name.starts_with("scratch-")) return true;
  if (!name.starts_with("block-") && !name.starts_with("states-")) return false;
  return name.ends_with(".json") || name.ends_with(".safetensors") || name.ends_with(".tmp");
}

bool is_digest(const json& value) {
  if (!value.is_string()) return false;
  const std::string& text = value.get_ref<const std::string&>();
  return text.size() == Digest::kDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

Journal::Journal(const std::string& output) : folder_((fs::path(output) / kJournalName).string()) {}
Journal::~Journal() = default;

bool Journal::exists() const {
  const std::optional<Folder> output = open_held_if_there(fs::path(folder_).parent_path().string());
  if (!output || output->status(kJournalName).kind == FileKind::kNone) return false;
  return output->open_folder(kJournalName).status(kRun).kind == FileKind::kRegular;
}

void Journal::fail_damaged(const std::string& what) const {
  throw FormatError(
      fmt::format("{}: {}; the interrupted run cannot be continued without it: start over with --overwrite, or "
                  "choose another folder",
                  (fs::path(folder_) / kRun).string(), what));
}

json Journal::read_run() const {
  const std::string path = (fs::path(folder_) / kRun).string();
  const std::string text = read_text_file(open_held_file(path), path, kLargestJournalText);
  const json j = parse_json_or_discard(text);
  if (j.is_discarded())
    fail_damaged("expected what an interrupted run notes of itself, found " + json_fault_text(text));
  if (!j.is_object()) fail_damaged(fmt::format("expected a JSON object, found a JSON {}", j.type_name()));
  if (!j.contains("fingerprint")) fail_damaged("the key fingerprint is missing");
  if (!is_digest(j["fingerprint"]) && !j["fingerprint"].is_number_unsigned())
    fail_damaged(fmt::format("fingerprint: expected {} hexadecimal digits, found {}", Digest::kDigits,
                             escaped(j["fingerprint"].dump(-1, ' ', true, json::error_handler_t::replace))));
  return j;
}

std::optional<std::string> Journal::fingerprint() const {
  if (!exists()) return std::nullopt;
  const json fingerprint = read_run()["fingerprint"];
  // A number: of an earlier version, whose fingerprints had 64 bits.
  return fingerprint.is_string() ? fingerprint.get<std::string>() : fmt::format("{:016x}", fingerprint.get<uint64_t>());
}

std::optional<IdentityRecord> Journal::identity() const {
  if (!exists()) return std::nullopt;
  const json j = read_run();
  if (!j.contains("identity") || !j["identity"].is_object()) return std::nullopt;
  return record_of<IdentityRecord>(
      j["identity"], [&](const std::string& place, const std::string& expected, const std::string& found) {
        fail_damaged(fmt::format("identity/{}: expected {}, found {}", escaped(place), expected, found));
      });
}

std::string Journal::file_without_run() const {
  const std::optional<Folder> output = open_held_if_there(fs::path(folder_).parent_path().string());
  if (!output || exists() || output->status(kJournalName).kind == FileKind::kNone) return {};
  for (const std::string& name : output->open_folder(kJournalName).names()) {
    const bool of_block = name.starts_with("block-") || name.starts_with("states-");
    if (of_block || name == "texts.json" || name == "tokens.safetensors" || name == "sensitivity.json") return name;
  }
  return {};
}

void Journal::begin(const std::string& fingerprint) {
  write_run({{"fingerprint", fingerprint}});
}

void Journal::begin(const std::string& fingerprint, const IdentityRecord& identity) {
  write_run({{"fingerprint", fingerprint}, {"identity", json_of(identity)}});
}

void Journal::write_run(const json& run) {
  remove();
  held_ = std::make_unique<HeldFolder>(std::make_shared<const Folder>(make_held(folder_)));
  write_text_file((fs::path(folder_) / kRun).string(), run.dump(-1, ' ', false, json::error_handler_t::replace));
}

void Journal::resume() {
  held_ = std::make_unique<HeldFolder>(std::make_shared<const Folder>(open_held(folder_)));
}

void Journal::remove() {
  if (held_) open_held(folder_);  // another folder in its place is not removed
  held_.reset();
  if (const auto output = open_held_if_there(fs::path(folder_).parent_path().string())) remove_from(*output);
}

void Journal::remove_from(const Folder& output) {
  if (output.status(kJournalName).kind == FileKind::kNone) return;
  {
    const Folder folder = output.open_folder(kJournalName);
    std::vector<std::string> names = folder.names();
    for (const std::string& name : names) {
      if (!is_journal_name(name)) {
        throw SystemError(
            fmt::format("{}: holds {}, which no run of this program wrote; move it away, or choose another folder",
                        folder.path(), name));
      }
    }
    // run.json goes first: what is left of a half-removed journal is never taken for a run. place.json goes last: by it
    // the old content of an exchanged folder is known.
    folder.remove_file(kRun);
    folder.sync();
    std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return name != kPlacing; });
    for (const std::string& name : names) folder.remove_tree(name);
  }
  output.remove_empty(kJournalName);
}

void Journal::write_tokens(const TokenSet& calibration, const TokenSet& held_back) {
  std::vector<OwnedTensor> tensors;
  tensors.push_back(token_tensor("calibration", calibration));
  tensors.push_back(token_tensor("held_back", held_back));
  write_safetensors(tokens_path(), std::span<const OwnedTensor>(tensors));
}

std::string Journal::tokens_path() const {
  return (fs::path(folder_) / "tokens.safetensors").string();
}

bool Journal::read_tokens(TokenSet& calibration, TokenSet& held_back) const {
  const std::string path = tokens_path();
  if (!held_exists(path)) return false;
  const SafetensorsFile file = open_tensors(path);
  calibration = token_set(file.get("calibration"), path);
  held_back = token_set(file.get("held_back"), path);
  return true;
}

std::string Journal::block_path(int64_t layer, const char* ending) const {
  return (fs::path(folder_) / fmt::format("block-{:05}.{}", layer, ending)).string();
}

std::string Journal::states_path(int64_t layer) const {
  return (fs::path(folder_) / fmt::format("states-{:05}.safetensors", layer)).string();
}

int64_t Journal::finished_blocks() const {
  int64_t n = 0;
  while (held_exists(block_path(n, "json")) && held_exists(block_path(n, "safetensors"))) ++n;
  return n;
}

void Journal::write_block(int64_t layer, const FinishedBlock& block, const BlockRecord& record) {
  std::vector<OwnedTensor> tensors;
  json groups = json::object();
  for (const auto& [name, tensor] : block.quantized) {
    for (OwnedTensor& part : pack_native(tensor, name).parts) {
      part.name = name + part.name.substr(std::strlen("weight"));
      tensors.push_back(std::move(part));
    }
    groups[name] = {{"bits", tensor.bits}, {"group_size", tensor.group_size}, {"symmetric", tensor.symmetric}};
  }
  for (const OwnedTensor& t : block.changed) tensors.push_back(copy(t.view()));
  write_safetensors(block_path(layer, "safetensors"), std::span<const OwnedTensor>(tensors),
                    {{"quantized", groups.dump()}});
  write_text_file(block_path(layer, "json"), json_of(record).dump(-1, ' ', false, json::error_handler_t::replace));
}

FinishedBlock Journal::read_block(int64_t layer) const {
  const SafetensorsFile file = open_tensors(block_path(layer, "safetensors"));
  FinishedBlock block;
  const auto it = file.metadata().find("quantized");
  if (it == file.metadata().end()) throw FormatError(fmt::format("{}: no list of quantized tensors", file.path()));
  const json groups = parse_json_or_discard(it->second);
  if (!groups.is_object()) {
    throw FormatError(
        fmt::format("{}: its list of quantized tensors is damaged; run again with --no-resume", file.path()));
  }
  try {
    for (const auto& [name, entry] : groups.items()) {
      QuantizedTensor t =
          unpack_native(file.get(name), file.get(name + ".scales"), file.get(name + ".zeros"),
                        entry.at("group_size").get<int64_t>(), name, Codes::kRead, entry.value("bits", 4));
      t.symmetric = entry.at("symmetric").get<bool>();
      block.quantized.emplace(name, std::move(t));
    }
  } catch (const json::exception&) {
    throw FormatError(
        fmt::format("{}: its list of quantized tensors is damaged; run again with --no-resume", file.path()));
  }
  for (const TensorView& view : file.tensors()) {
    const size_t dot = view.name.rfind(".weight.");
    if (groups.contains(view.name) || (dot != std::string::npos && groups.contains(view.name.substr(0, dot + 7))))
      continue;
    block.changed.push_back(copy(view));
  }
  return block;
}

BlockRecord Journal::read_block_record(int64_t layer) const {
  const std::string path = block_path(layer, "json");
  const json j = parse_json_or_discard(read_text_file(open_held_file(path), path, kLargestJournalText));
  if (!j.is_object()) throw FormatError(fmt::format("{}: expected a JSON object; run again with --no-resume", path));
  return record_of<BlockRecord>(
      j, [&](const std::string& place, const std::string& expected, const std::string& found) {
        throw FormatError(
            fmt::format("{}: {}: expected {}, found {}; the interrupted run is damaged: run again with "
                        "--no-resume",
                        path, escaped(place), expected, found));
      });
}

void Journal::write_states(int64_t layer, std::span<const TensorView> states) {
  const auto previous = states_layer();
  write_safetensors(states_path(layer), states);
  if (previous && *previous != layer) {
    open_held(folder_).remove_file(fs::path(states_path(*previous)).filename().string());
  }
}

std::optional<int64_t> Journal::states_layer() const {
  std::optional<int64_t> last;
  const std::optional<Folder> folder = open_held_if_there(folder_);
  if (!folder) return last;
  for (const std::string& name : folder->names()) {
    constexpr std::string_view kStart = "states-";
    if (!name.starts_with(kStart)) continue;
    int64_t layer = -1;
    const char* const end = name.data() + name.size();
    const auto [rest, code] = std::from_chars(name.data() + kStart.size(), end, layer);
    if (code == std::errc() && layer >= 0 && std::string_view(rest, static_cast<size_t>(end - rest)) == ".safetensors")
      last = std::max(last.value_or(0), layer);
  }
  return last;
}

std::vector<OwnedTensor> Journal::read_states(int64_t layer) const {
  const SafetensorsFile file = open_tensors(states_path(layer));
  std::vector<OwnedTensor> out;
  for (const TensorView& view : file.tensors()) out.push_back(copy(view));
  return out;
}

}  // namespace metal_marlin
