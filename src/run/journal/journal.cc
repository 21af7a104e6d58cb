#include "run/journal/journal.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>

#include "core/files/atomic_file.h"
#include "core/files/digest.h"
#include "core/files/held_folder.h"
#include "formats/json/bounded_json.h"
#include "formats/json/json_fault.h"
#include "formats/text.h"
#include "platform/folder.h"
#include "records/json_records.h"
#include "run/journal/journal_tensors.h"
#include "write/manifest.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kRun = "run.json";
constexpr const char* kPlacing = "place.json";

// Names that a run writes into the folder, this version's or an earlier one's.
bool is_journal_name(const std::string& name) {
  for (const char* whole : {kRun, kPlacing, "texts.json", "tokens.safetensors", "sensitivity.json", "result"}) {
    if (name == whole || name == std::string(whole) + ".tmp") return true;
  }
  if (is_temporary_name(name) || name.starts_with("scratch-")) return true;
  if (!name.starts_with("block-") && !name.starts_with("states-")) return false;
  return name.ends_with(".json") || name.ends_with(".safetensors") || name.ends_with(".tmp");
}

bool is_digest(const std::string& text) {
  return text.size() == Digest::kDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Empty: it is no fingerprint. A number: of an earlier version, whose fingerprints had 64 bits.
std::string fingerprint_text(const OptionValue& value) {
  if (const auto* text = std::get_if<std::string>(&value); text != nullptr && is_digest(*text)) return *text;
  if (const auto* number = std::get_if<int64_t>(&value); number != nullptr && *number >= 0)
    return fmt::format("{:016x}", *number);
  if (const auto* number = std::get_if<uint64_t>(&value)) return fmt::format("{:016x}", *number);
  return {};
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

RunNote Journal::read_run() const {
  const std::string path = (fs::path(folder_) / kRun).string();
  const std::string text = read_text_file(open_held_file(path), path, kLargestJournalText);
  const json j = parse_json_or_discard(text);
  if (j.is_discarded())
    fail_damaged("expected what an interrupted run notes of itself, found " + json_fault_text(text));
  if (!j.is_object()) fail_damaged(fmt::format("expected a JSON object, found a JSON {}", j.type_name()));
  RunNote note =
      record_of<RunNote>(j, [&](const std::string& place, const std::string& expected, const std::string& found) {
        fail_damaged(fmt::format("{}: expected {}, found {}", escaped(place), expected, found));
      });
  if (std::holds_alternative<std::monostate>(note.fingerprint)) fail_damaged("the key fingerprint is missing or null");
  std::string fingerprint = fingerprint_text(note.fingerprint);
  if (fingerprint.empty()) {
    fail_damaged(fmt::format("fingerprint: expected {} hexadecimal digits, found {}", Digest::kDigits,
                             escaped(json_of(note.fingerprint).dump(-1, ' ', true, json::error_handler_t::replace))));
  }
  note.fingerprint = std::move(fingerprint);
  return note;
}

std::optional<std::string> Journal::fingerprint() const {
  if (!exists()) return std::nullopt;
  return std::get<std::string>(read_run().fingerprint);
}

std::optional<IdentityRecord> Journal::identity() const {
  if (!exists()) return std::nullopt;
  return read_run().identity;
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
  write_run({fingerprint, std::nullopt});
}

void Journal::begin(const std::string& fingerprint, const IdentityRecord& identity) {
  write_run({fingerprint, identity});
}

void Journal::write_run(const RunNote& run) {
  remove();
  held_ = std::make_unique<HeldFolder>(std::make_shared<const Folder>(make_held(folder_)));
  write_text_file((fs::path(folder_) / kRun).string(),
                  json_of(run).dump(-1, ' ', false, json::error_handler_t::replace));
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
  write_block_tensors(block_path(layer, "safetensors"), block);
  write_text_file(block_path(layer, "json"), json_of(record).dump(-1, ' ', false, json::error_handler_t::replace));
}

FinishedBlock Journal::read_block(int64_t layer) const {
  return read_block_tensors(block_path(layer, "safetensors"));
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
  for (const TensorView& view : file.tensors()) out.push_back(copy_of(view));
  return out;
}

}  // namespace metal_marlin
