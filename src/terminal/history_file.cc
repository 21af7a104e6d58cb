#include "terminal/history_file.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include "core/files/atomic_file.h"
#include "formats/terminal_text.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

constexpr const char* kName = "history";
constexpr size_t kLongest = size_t{64} << 10;  // bytes of one text

std::string line_of(std::string_view text) {
  std::string line;
  for (const char c : text) {
    if (c == '\n') {
      line += "\\n";
    } else {
      if (c == '\\') line += c;
      line += c;
    }
  }
  return line;
}

std::string text_of(std::string_view line) {
  std::string text;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] != '\\' || i + 1 == line.size()) {
      text += line[i];
    } else {
      ++i;
      text += line[i] == 'n' ? '\n' : line[i];
    }
  }
  return text;
}

bool is_kept(const std::string& text) {
  return !text.empty() && text.size() <= kLongest && text_for_terminal(text) == text;
}

// Waits a moment for another session that is just writing. Without a lock its text may be lost, and no more.
void lock_for_a_moment(const Folder& folder) {
  constexpr int kTries = 20;
  for (int i = 0; i < kTries && folder.lock() == LockResult::kHeldByAnother; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace

HistoryFile::HistoryFile(std::string folder) : folder_(std::move(folder)) {}

std::string HistoryFile::default_folder() {
  const auto absolute = [](const char* variable) -> std::optional<fs::path> {
    const char* value = std::getenv(variable);
    if (value == nullptr || value[0] != '/') return std::nullopt;  // the standard wants others to be ignored
    return fs::path(value);
  };
  std::optional<fs::path> state = absolute("XDG_STATE_HOME");
  if (!state) {
    state = absolute("HOME");
    if (!state) return {};
    *state /= fs::path(".local") / "state";
  }
  return (*state / "metal-marlin").string();
}

std::vector<std::string> HistoryFile::load_from(const Folder& folder) {
  std::vector<std::string> texts;
  if (folder.status(kName).kind == FileKind::kNone) return texts;
  const std::string path = folder.path_of(kName);
  const UniqueFd fd = folder.open_file(kName);
  const FileStatus status = status_of(fd, path);
  if (!status.own) throw SystemError(fmt::format("{}: expected a file of this user, found one of another", path));
  const size_t size = std::min<size_t>(status.identity.size, kMostBytes);
  std::string content(size, '\0');
  read_at(fd, content.data(), size, status.identity.size - size, path);
  size_t begin = 0;
  if (size < status.identity.size) begin = std::min(content.find('\n'), size - 1) + 1;  // a cut line
  while (begin < size) {
    const size_t end = std::min(content.find('\n', begin), size);
    std::string text = text_of(std::string_view(content).substr(begin, end - begin));
    if (is_kept(text)) texts.push_back(std::move(text));
    begin = end + 1;
  }
  if (texts.size() > kMost) texts.erase(texts.begin(), texts.end() - kMost);
  return texts;
}

std::vector<std::string> HistoryFile::load() const {
  const auto parent = Folder::open_if_there(folder_of(folder_));
  const std::string name = fs::path(folder_).filename().string();
  if (!parent || parent->status(name).kind == FileKind::kNone) return {};
  return load_from(parent->open_folder(name));
}

void HistoryFile::add(const std::string& text) const {
  if (!is_kept(text)) return;
  create_folders(folder_of(folder_));
  const Folder parent(folder_of(folder_));
  const std::string name = fs::path(folder_).filename().string();
  const bool fresh = parent.status(name).kind == FileKind::kNone;
  const Folder folder = fresh ? parent.make_folder(name) : parent.open_folder(name);
  if (fresh) folder.set_permissions(0700);
  lock_for_a_moment(folder);
  std::vector<std::string> texts = load_from(folder);
  if (!texts.empty() && texts.back() == text) return;
  texts.push_back(text);
  std::vector<std::string> lines;  // the newest first
  size_t bytes = 0;
  while (!texts.empty() && lines.size() < kMost) {
    lines.push_back(line_of(texts.back()) + '\n');
    bytes += lines.back().size();
    if (bytes > kMostBytes) {
      lines.pop_back();
      break;
    }
    texts.pop_back();
  }
  std::string content;
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) content += *line;
  remove_leftovers(folder);
  const std::string temporary = fmt::format(".metal-marlin-{}.tmp", random_name());
  const UniqueFd fd = folder.create_file(temporary, 0600);
  write_bytes(fd, std::as_bytes(std::span(content)), folder.path_of(kName));
  folder.rename(temporary, folder, kName);
}

}  // namespace metal_marlin
