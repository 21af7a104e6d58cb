#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "core/files/atomic_file.h"
#include "formats/npz_internal.h"
#include "formats/text.h"

// The zip is written here and not by libzip, so that it goes through AtomicFile in one pass and contains nothing that
// depends on the machine.
namespace metal_marlin {
namespace {

constexpr uint32_t kMax32 = std::numeric_limits<uint32_t>::max();
constexpr uint16_t kMax16 = std::numeric_limits<uint16_t>::max();
constexpr uint16_t kVersion = 20;
constexpr uint16_t kVersion64 = 45;
constexpr uint16_t kUtf8 = 0x0800;
constexpr uint16_t kDate = 0x0021;  // 1980-01-01, the first that a zip can say
constexpr uint16_t kZip64 = 0x0001;

// CRC-32 of IEEE 802.3, eight bytes a step (tables of the polynomial's powers: "slicing by 8").
class Crc32 {
 public:
  Crc32() noexcept {
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) != 0 ? 0xEDB88320u : 0u);
      tables_[0][i] = c;
    }
    for (size_t t = 1; t < 8; ++t) {
      for (size_t i = 0; i < 256; ++i) {
        const uint32_t c = tables_[t - 1][i];
        tables_[t][i] = (c >> 8) ^ tables_[0][c & 255];
      }
    }
  }
  uint32_t update(uint32_t crc, std::span<const std::byte> bytes) const noexcept {
    crc = ~crc;
    size_t i = 0;
    const auto at = [&](size_t k) { return static_cast<uint32_t>(bytes[k]); };
    for (; i + 8 <= bytes.size(); i += 8) {
      const uint32_t low = crc ^ (at(i) | at(i + 1) << 8 | at(i + 2) << 16 | at(i + 3) << 24);
      crc = tables_[7][low & 255] ^ tables_[6][(low >> 8) & 255] ^ tables_[5][(low >> 16) & 255] ^
            tables_[4][low >> 24] ^ tables_[3][at(i + 4)] ^ tables_[2][at(i + 5)] ^ tables_[1][at(i + 6)] ^
            tables_[0][at(i + 7)];
    }
    for (; i < bytes.size(); ++i) crc = (crc >> 8) ^ tables_[0][(crc ^ at(i)) & 255];
    return ~crc;
  }

 private:
  std::array<std::array<uint32_t, 256>, 8> tables_{};
};

class Record {
 public:
  Record& u16(uint16_t v) { return little(v, 2); }
  Record& u32(uint32_t v) { return little(v, 4); }
  Record& u64(uint64_t v) { return little(v, 8); }
  Record& text(const std::string& s) {
    bytes_ += s;
    return *this;
  }
  const std::string& bytes() const noexcept { return bytes_; }

 private:
  Record& little(uint64_t v, int n) {
    for (int i = 0; i < n; ++i) bytes_ += static_cast<char>(v >> (8 * i) & 255);
    return *this;
  }
  std::string bytes_;
};

uint32_t clipped(uint64_t v) {
  return v >= kMax32 ? kMax32 : static_cast<uint32_t>(v);
}

struct Member {
  std::string name;
  uint32_t crc = 0;
  uint64_t size = 0;
  uint64_t offset = 0;
};

// Stored: both sizes are equal.
std::string local_header(const Member& m) {
  const bool large = m.size >= kMax32;
  Record r;
  r.u32(0x04034b50).u16(large ? kVersion64 : kVersion).u16(kUtf8).u16(0).u16(0).u16(kDate).u32(m.crc);
  r.u32(clipped(m.size))
      .u32(clipped(m.size))
      .u16(static_cast<uint16_t>(m.name.size()))
      .u16(large ? 20 : 0)
      .text(m.name);
  if (large) r.u16(kZip64).u16(16).u64(m.size).u64(m.size);
  return r.bytes();
}

std::string central_header(const Member& m) {
  Record extra;
  if (m.size >= kMax32) extra.u64(m.size).u64(m.size);
  if (m.offset >= kMax32) extra.u64(m.offset);
  const auto length = static_cast<uint16_t>(extra.bytes().size());
  Record r;
  r.u32(0x02014b50)
      .u16(length > 0 ? kVersion64 : kVersion)
      .u16(length > 0 ? kVersion64 : kVersion)
      .u16(kUtf8)
      .u16(0)
      .u16(0);
  r.u16(kDate).u32(m.crc).u32(clipped(m.size)).u32(clipped(m.size)).u16(static_cast<uint16_t>(m.name.size()));
  r.u16(static_cast<uint16_t>(length > 0 ? length + 4 : 0))
      .u16(0)
      .u16(0)
      .u16(0)
      .u32(0)
      .u32(clipped(m.offset))
      .text(m.name);
  if (length > 0) r.u16(kZip64).u16(length).text(extra.bytes());
  return r.bytes();
}

std::string end_records(uint64_t count, uint64_t start, uint64_t size) {
  Record r;
  if (count >= kMax16 || start >= kMax32 || size >= kMax32) {
    r.u32(0x06064b50).u64(44).u16(kVersion64).u16(kVersion64).u32(0).u32(0).u64(count).u64(count).u64(size).u64(start);
    r.u32(0x07064b50).u32(0).u64(start + size).u32(1);
  }
  const auto clipped_count = static_cast<uint16_t>(std::min<uint64_t>(count, kMax16));
  r.u32(0x06054b50).u16(0).u16(0).u16(clipped_count).u16(clipped_count).u32(clipped(size)).u32(clipped(start)).u16(0);
  return r.bytes();
}

}  // namespace

struct NpzWriter::State {
  explicit State(const std::string& where) : path(where), file(where) {}
  std::string path;
  AtomicFile file;
  std::vector<Member> members;
  std::set<std::string> names;
};

NpzWriter::NpzWriter(const std::string& path) : state_(std::make_unique<State>(path)) {}
NpzWriter::~NpzWriter() = default;

void NpzWriter::add(const TensorView& array) {
  static const Crc32 crc32;
  const std::string& path = state_->path;
  if (array.name.empty() || array.name.size() > kMax16 - 4) {
    throw ArgumentError(fmt::format("{}: array name {} is empty or too long", path, shown(array.name)));
  }
  const std::string header = npy_header_text(array);
  if (!state_->names.insert(array.name).second) {
    throw ArgumentError(fmt::format("{}: duplicate array {}", path, shown(array.name)));
  }
  Member member{array.name + ".npy", 0, header.size() + array.bytes.size(), state_->file.position()};
  member.crc = crc32.update(0, std::as_bytes(std::span(header.data(), header.size())));
  member.crc = crc32.update(member.crc, array.bytes);
  state_->file.write(local_header(member));
  state_->file.write(header);
  state_->file.write(array.bytes);
  state_->members.push_back(std::move(member));
}

void NpzWriter::commit() {
  AtomicFile& file = state_->file;
  const uint64_t start = file.position();
  for (const Member& member : state_->members) file.write(central_header(member));
  file.write(end_records(state_->members.size(), start, file.position() - start));
  file.commit();
}

void write_npz(const std::string& path, std::span<const TensorView> arrays) {
  NpzWriter writer(path);
  for (const TensorView& array : arrays) writer.add(array);
  writer.commit();
}

void write_npz(const std::string& path, std::span<const OwnedTensor> arrays) {
  std::vector<TensorView> views;
  for (const OwnedTensor& array : arrays) views.push_back(array.view());
  write_npz(path, views);
}

}  // namespace metal_marlin
