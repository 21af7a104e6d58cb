// A GGUF file put together by hand, so that any part of it can be wrong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/support.h"

namespace metal_marlin::test {

struct GgufBuilder {
  std::string magic = "GGUF";
  uint32_t version = 3;
  int64_t tensor_count = -1;  // -1: as many as there are
  int64_t pair_count = -1;
  std::vector<std::string> pairs;
  std::vector<std::string> infos;
  uint64_t alignment = 32;
  std::string data;

  static std::string text(const std::string& s) { return little(static_cast<uint64_t>(s.size())) + s; }
  static std::string pair(const std::string& key, GgufType type, const std::string& value) {
    return text(key) + little(static_cast<uint32_t>(type)) + value;
  }
  static std::string array(GgufType element, uint64_t count, const std::string& values) {
    return little(static_cast<uint32_t>(element)) + little(count) + values;
  }
  // dims fastest first, as in the file
  static std::string info(const std::string& name, const std::vector<int64_t>& dims, uint32_t type, uint64_t offset) {
    std::string s = text(name) + little(static_cast<uint32_t>(dims.size()));
    for (const int64_t d : dims) s += little(d);
    return s + little(type) + little(offset);
  }

  std::string head() const {
    std::string s = magic + little(version);
    s += little(tensor_count < 0 ? static_cast<int64_t>(infos.size()) : tensor_count);
    s += little(pair_count < 0 ? static_cast<int64_t>(pairs.size()) : pair_count);
    for (const std::string& p : pairs) s += p;
    for (const std::string& i : infos) s += i;
    return s;
  }
  std::string bytes() const {
    std::string s = head();
    s.append((alignment - s.size() % alignment) % alignment, '\0');
    return s + data;
  }
};

// Two tensors: "a" F32 [2, 4] and "b" Q8_0 [1, 32].
inline GgufBuilder small_gguf() {
  GgufBuilder b;
  b.pairs = {GgufBuilder::pair("general.architecture", GgufType::kString, GgufBuilder::text("llama")),
             GgufBuilder::pair("n", GgufType::kU32, little(uint32_t{7}))};
  b.infos = {GgufBuilder::info("a", {4, 2}, 0, 0), GgufBuilder::info("b", {32, 1}, 8, 32)};
  b.data = std::string(32 + 64, '\1');
  return b;
}

}  // namespace metal_marlin::test
