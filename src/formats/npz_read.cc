#include "formats/npz.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <zip.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include "core/counted.h"
#include "core/machine.h"
#include "formats/npz_internal.h"
#include "formats/text.h"
#include "platform/file.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kEnding = ".npy";
// No deflate stream grows by more (258 bytes from 2 bits), so a header that claims more is false.
constexpr uint64_t kMaxInflation = 1032;
constexpr uint64_t kInflationSlack = 4096;
constexpr int64_t kBufferBytes = int64_t{1} << 20;

struct Member {
  zip_uint64_t index = 0;
  uint64_t size = 0;  // inflated
  bool stored = false;
};

struct ZipClose {
  void operator()(zip_t* archive) const noexcept { zip_discard(archive); }
};
struct ZipFileClose {
  void operator()(zip_file_t* file) const noexcept { zip_fclose(file); }
};
using ZipPointer = std::unique_ptr<zip_t, ZipClose>;
using ZipFilePointer = std::unique_ptr<zip_file_t, ZipFileClose>;

constexpr zip_int64_t kMostMembers = 200'000;  // 120 layers have less than 10,000

}  // namespace

struct NpzFile::Archive {
  std::string path;
  uint64_t member_limit = 0;
  ZipPointer zip;
  std::vector<std::string> names;
  std::unordered_map<std::string, Member> members;

  void open(const std::string& file) {
    int code = 0;
    UniqueFd fd = open_regular_file(file);
    zip.reset(zip_fdopen(fd.get(), 0, &code));
    if (zip) {
      fd.release();  // libzip closes it
      return;
    }
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string text = zip_error_strerror(&error);
    zip_error_fini(&error);
    const bool system = code == ZIP_ER_NOENT || code == ZIP_ER_OPEN || code == ZIP_ER_READ || code == ZIP_ER_MEMORY;
    if (system) throw SystemError(fmt::format("{}: cannot open: {}", file, text));
    throw FormatError(no_npz(file, code));
  }

  static std::string no_npz(const std::string& file, int code) {
    return fmt::format(
        "{}: expected an .npz of arrays (a zip archive, as calibrate and numpy.savez write it), found {}; make it "
        "again, or name "
        "another file",
        file, code == ZIP_ER_NOZIP ? "a file that is no zip archive, or a cut one" : "a damaged zip archive");
  }

  void open(std::span<const std::byte> bytes) {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
    if (source != nullptr) zip.reset(zip_open_from_source(source, ZIP_RDONLY, &error));
    if (!zip) {
      if (source != nullptr) zip_source_free(source);
      const int code = zip_error_code_zip(&error);
      zip_error_fini(&error);
      throw FormatError(no_npz(path, code));
    }
    zip_error_fini(&error);
  }

  void list() {
    const zip_int64_t count = zip_get_num_entries(zip.get(), 0);
    if (count > kMostMembers) {
      throw FormatError(fmt::format("{}: expected at most {} members, found {}", path, kMostMembers, count));
    }
    for (zip_int64_t i = 0; i < count; ++i) {
      zip_stat_t info;
      zip_stat_init(&info);
      constexpr zip_uint64_t kNeeded = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
      if (zip_stat_index(zip.get(), static_cast<zip_uint64_t>(i), 0, &info) != 0 || (info.valid & kNeeded) != kNeeded) {
        throw FormatError(fmt::format("{}: member {} has no readable entry", path, i));
      }
      std::string name = info.name;
      if (!name.ends_with(kEnding)) continue;
      name.resize(name.size() - kEnding.size());
      check(info, where(name));
      if (!members.emplace(name, Member{static_cast<zip_uint64_t>(i), info.size, info.comp_method == ZIP_CM_STORE})
               .second) {
        throw FormatError(fmt::format("{}: duplicate name", where(name)));
      }
      names.push_back(std::move(name));
    }
  }

  static void check(const zip_stat_t& info, const std::string& where) {
    if ((info.valid & ZIP_STAT_ENCRYPTION_METHOD) != 0 && info.encryption_method != ZIP_EM_NONE) {
      throw UnsupportedError(fmt::format("{}: it is encrypted; save it without a password", where));
    }
    const bool stored = info.comp_method == ZIP_CM_STORE;
    if (!stored && info.comp_method != ZIP_CM_DEFLATE) {
      throw UnsupportedError(
          fmt::format("{}: compression method {}, supported are stored and deflated", where, info.comp_method));
    }
    if (stored ? info.size != info.comp_size
               : info.size > kInflationSlack && (info.size - kInflationSlack) / kMaxInflation > info.comp_size) {
      throw FormatError(fmt::format("{}: {} cannot come from {}", where, counted(info.size, "byte"), info.comp_size));
    }
  }

  std::string where(std::string_view name) const { return fmt::format("{}: array {}", path, shown(name)); }

  const Member& member(const std::string& name) const {
    const auto it = members.find(name);
    if (it != members.end()) return it->second;
    throw FormatError(fmt::format("{}: it is not there; the file holds {} arrays{}", where(name), names.size(),
                                  names.empty() ? "" : ", the first is " + shown(names.front())));
  }
};

// A member being read from its beginning to its end.
struct NpzRows::State {
  const NpzFile::Archive& archive;
  std::string name;
  Member member;
  ZipFilePointer file;
  NpyHeader header;
  int64_t next_row = 0;
  OwnedTensor whole;  // of a column-major array
  Buffer buffer;

  State(const NpzFile::Archive& a, const std::string& n) : archive(a), name(n), member(a.member(n)) {
    file.reset(zip_fopen_index(archive.zip.get(), member.index, 0));
    if (!file) {
      throw FormatError(fmt::format("{}: cannot be opened: {}", archive.where(name), zip_strerror(archive.zip.get())));
    }
    read_header();
  }

  // Reads exactly `bytes`.
  void read(std::byte* out, uint64_t bytes) {
    uint64_t done = 0;
    while (done < bytes) {
      const zip_int64_t n = zip_fread(file.get(), out + done, std::min<uint64_t>(bytes - done, uint64_t{1} << 30));
      if (n < 0) {
        throw FormatError(fmt::format("{}: damaged data: {}", archive.where(name), zip_file_strerror(file.get())));
      }
      if (n == 0) {
        throw FormatError(
            fmt::format("{}: the data ends {} too early", archive.where(name), counted(bytes - done, "byte")));
      }
      done += static_cast<uint64_t>(n);
    }
  }

  void read_header() {
    constexpr uint64_t kFirst = 12;  // enough for the length of any version
    std::vector<std::byte> start(std::min(kFirst, member.size));
    read(start.data(), start.size());
    if (start.size() == kFirst) {
      uint64_t total = 10 + (static_cast<uint64_t>(start[8]) | static_cast<uint64_t>(start[9]) << 8);
      if (static_cast<int>(start[6]) > 1) {
        total = 12 + (static_cast<uint64_t>(start[8]) | static_cast<uint64_t>(start[9]) << 8 |
                      static_cast<uint64_t>(start[10]) << 16 | static_cast<uint64_t>(start[11]) << 24);
      }
      const uint64_t end = std::min({total, kNpyHeaderLimit, member.size});
      if (end > kFirst) {
        start.resize(end);
        read(start.data() + kFirst, end - kFirst);
      }
    }
    header = parse_npy_header(start, archive.where(name));
    if (header.data_offset != start.size())
      throw FormatError(fmt::format("{}: the npy header is too short", archive.where(name)));
    if (member.size - header.data_offset != header.data_bytes()) {
      throw FormatError(fmt::format("{}: shape {} of {} needs {}, the member has {}", archive.where(name),
                                    shape_string(header.shape), dtype_name(header.dtype),
                                    counted(header.data_bytes(), "byte"), member.size - header.data_offset));
    }
  }

  // libzip checks the CRC when it sees the end of the member.
  void expect_end() {
    std::byte extra{};
    if (zip_fread(file.get(), &extra, 1) != 0) {
      throw FormatError(fmt::format("{}: damaged data: {}", archive.where(name), zip_file_strerror(file.get())));
    }
  }

  OwnedTensor load() {
    if (member.size > archive.member_limit) {
      throw UnsupportedError(fmt::format(
          "{}: {} must be held in memory, where at most {} may be; {}", archive.where(name),
          counted(member.size, "byte"), archive.member_limit,
          whole_needed() ? "save the array in row order (numpy.ascontiguousarray), which is read in parts, or give a "
                           "larger memory budget"
                         : "read it in batches of rows, or give a larger memory budget"));
    }
    Buffer data(header.data_bytes());
    read(data.data(), data.size());
    expect_end();
    OwnedTensor tensor = npy_finish(header, std::move(data));
    tensor.name = name;
    return tensor;
  }

  bool whole_needed() const { return header.fortran_order && header.shape.size() > 1; }

  int64_t read_rows(int64_t count, float* out) {
    const int64_t n = std::min(count, header.rows() - next_row);
    if (n <= 0) return 0;
    const int64_t columns = header.columns();
    const auto element = static_cast<int64_t>(dtype_size(header.dtype));
    if (whole_needed()) {
      if (whole.shape.empty()) whole = load();
      const auto bytes = whole.view().bytes.subspan(static_cast<size_t>(next_row * columns * element),
                                                    static_cast<size_t>(n * columns * element));
      convert_to_f32({name, header.dtype, {n * columns}, bytes}, out);
    } else {
      stream(n * columns, out);
    }
    next_row += n;
    if (next_row == header.rows() && !whole_needed()) expect_end();
    return n;
  }

  void stream(int64_t elements, float* out) {
    const auto element = static_cast<int64_t>(dtype_size(header.dtype));
    if (buffer.size() == 0) {
      buffer =
          Buffer(std::min<uint64_t>(static_cast<uint64_t>(kBufferBytes), std::max<uint64_t>(header.data_bytes(), 1)));
    }
    const int64_t capacity = static_cast<int64_t>(buffer.size()) / element;
    for (int64_t done = 0; done < elements;) {
      const int64_t n = std::min(capacity, elements - done);
      const std::span<std::byte> part(buffer.data(), static_cast<size_t>(n * element));
      read(part.data(), part.size());
      npy_to_native(header, part);
      convert_to_f32({name, header.dtype, {n}, part}, out + done);
      done += n;
    }
  }

  void skip(int64_t count) {
    if (count < 0 || count > header.rows() - next_row) {
      throw ArgumentError(fmt::format("{}: {} were to be skipped, {} remain", archive.where(name),
                                      counted(count, "row"), header.rows() - next_row));
    }
    if (!whole_needed()) {
      uint64_t left = static_cast<uint64_t>(count * header.columns()) * dtype_size(header.dtype);
      if (member.stored && std::in_range<zip_int64_t>(left) &&
          zip_fseek(file.get(), static_cast<zip_int64_t>(left), SEEK_CUR) == 0) {
        left = 0;
      }
      std::vector<std::byte> sink(std::min<uint64_t>(left, static_cast<uint64_t>(kBufferBytes)));
      while (left > 0) {
        const uint64_t n = std::min<uint64_t>(left, sink.size());
        read(sink.data(), n);
        left -= n;
      }
    }
    next_row += count;
  }
};

NpzFile::NpzFile(const std::string& path, uint64_t member_limit) : archive_(std::make_unique<Archive>()) {
  archive_->path = path;
  archive_->member_limit = member_limit == 0 ? memory_bytes() : member_limit;
  archive_->open(path);
  archive_->list();
}

NpzFile::NpzFile(std::span<const std::byte> bytes, const std::string& name, uint64_t member_limit)
    : archive_(std::make_unique<Archive>()) {
  archive_->path = name;
  archive_->member_limit = member_limit == 0 ? memory_bytes() : member_limit;
  archive_->open(bytes);
  archive_->list();
}

NpzFile::~NpzFile() = default;
NpzFile::NpzFile(NpzFile&&) noexcept = default;
NpzFile& NpzFile::operator=(NpzFile&&) noexcept = default;

const std::string& NpzFile::path() const noexcept {
  return archive_->path;
}

const std::vector<std::string>& NpzFile::names() const noexcept {
  return archive_->names;
}

bool NpzFile::contains(std::string_view name) const noexcept {
  return archive_->members.contains(std::string(name));
}

NpyHeader NpzFile::header(const std::string& name) const {
  return NpzRows::State(*archive_, name).header;
}

OwnedTensor NpzFile::load(const std::string& name) const {
  return NpzRows::State(*archive_, name).load();
}

void NpzFile::load_rows(const std::string& name, int64_t first, int64_t count, float* out) const {
  NpzRows rows = this->rows(name);
  if (first < 0 || count < 0 || first > rows.remaining() || count > rows.remaining() - first) {
    throw ArgumentError(fmt::format("{}: {} from row {} of {} were asked for", archive_->where(name),
                                    counted(count, "row"), first, rows.remaining()));
  }
  rows.skip(first);
  rows.read(count, out);
}

NpzRows NpzFile::rows(const std::string& name) const {
  return NpzRows(std::make_unique<NpzRows::State>(*archive_, name));
}

NpzRows::NpzRows(std::unique_ptr<State> state) : state_(std::move(state)) {}
NpzRows::~NpzRows() = default;
NpzRows::NpzRows(NpzRows&&) noexcept = default;
NpzRows& NpzRows::operator=(NpzRows&&) noexcept = default;

const NpyHeader& NpzRows::header() const noexcept {
  return state_->header;
}

int64_t NpzRows::remaining() const noexcept {
  return state_->header.rows() - state_->next_row;
}

int64_t NpzRows::read(int64_t count, float* out) {
  return state_->read_rows(count, out);
}

void NpzRows::skip(int64_t count) {
  state_->skip(count);
}

}  // namespace metal_marlin
