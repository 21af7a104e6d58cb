// Digests of files, configurations and runs: XXH3 of the library xxHash, 128 bits. Contents that differ by accident
// have different digests; against somebody who wants two to be equal they are no protection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace metal_marlin {

struct Digest {
  static constexpr size_t kDigits = 32;  // of text()

  uint64_t high = 0;
  uint64_t low = 0;

  std::string text() const;  // hexadecimal, as `xxhsum -H2` prints it for a file of these bytes
  bool operator==(const Digest&) const = default;
};

// The digest of what is added, in pieces of any size: where a piece ends makes no difference.
class Digester {
 public:
  Digester();
  ~Digester();
  Digester(const Digester&) = delete;
  Digester& operator=(const Digester&) = delete;

  void add(const void* data, size_t size);
  void add(std::span<const std::byte> bytes) { add(bytes.data(), bytes.size()); }
  void add_number(uint64_t number) { add(&number, sizeof number); }
  // The size goes before the text: "ab" and "c" are not "a" and "bc".
  void add_text(std::string_view text);
  Digest result() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Digest digest_of(std::string_view bytes);

}  // namespace metal_marlin
