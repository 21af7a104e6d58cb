// Golden layouts: a bare reader of the files in data/formats (the tests of this folder link nothing above pack), and
// random quantized tensors.
#pragma once

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin::test {

class Golden {
 public:
  explicit Golden(const std::string& name) {
    std::ifstream in(std::string(TEST_DATA) + "/formats/" + name, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), sizeof length);
    data_ = sizeof length + length;
    header_ = nlohmann::json::parse(bytes_.substr(sizeof length, length));
  }
  TensorView get(const std::string& name) const {
    const auto& entry = header_.at(name);
    const auto begin = entry["data_offsets"][0].get<size_t>();
    const auto end = entry["data_offsets"][1].get<size_t>();
    return {name, *dtype_from_name(entry["dtype"].get<std::string>()), entry["shape"].get<std::vector<int64_t>>(),
            std::as_bytes(std::span(bytes_)).subspan(data_ + begin, end - begin)};
  }
  template <typename T>
  std::vector<T> values(const std::string& name) const {
    const TensorView view = get(name);
    std::vector<T> out(view.bytes.size() / sizeof(T));
    std::memcpy(out.data(), view.bytes.data(), out.size() * sizeof(T));
    return out;
  }

 private:
  std::string bytes_;
  size_t data_ = 0;
  nlohmann::json header_;
};

inline void expect_same(const OwnedTensor& part, const TensorView& golden) {
  EXPECT_EQ(part.dtype, golden.dtype) << golden.name;
  EXPECT_EQ(part.shape, golden.shape) << golden.name;
  EXPECT_TRUE(std::ranges::equal(part.view().bytes, golden.bytes)) << golden.name;
}

inline void expect_equal(const QuantizedTensor& a, const QuantizedTensor& b) {
  EXPECT_EQ(a.out_features, b.out_features);
  EXPECT_EQ(a.in_features, b.in_features);
  EXPECT_EQ(a.group_size, b.group_size);
  EXPECT_EQ(a.bits, b.bits);
  EXPECT_EQ(a.symmetric, b.symmetric);
  EXPECT_TRUE(a.codes == b.codes);
  EXPECT_TRUE(a.scales == b.scales);
  EXPECT_TRUE(a.zeros == b.zeros);
  EXPECT_TRUE(a.group_index == b.group_index);
}

// pack(tensor) with one thread and with four gives the same bytes.
template <typename F>
void expect_independent_of_threads(const QuantizedTensor& tensor, F pack) {
  std::optional<ThreadCount> thread_count;
  thread_count.emplace(1);
  const PackedTensor one = pack(tensor);
  thread_count.emplace(4);
  const PackedTensor four = pack(tensor);
  thread_count.reset();
  for (size_t i = 0; i < one.parts.size(); ++i) expect_same(one.parts[i], four.parts[i].view());
}

// Every code and zero occurs; scales of both signs.
inline QuantizedTensor random_tensor(int64_t out, int64_t in, int64_t group, bool symmetric, uint64_t seed,
                                     int bits = 4) {
  QuantizedTensor t{.out_features = out, .in_features = in, .group_size = group, .bits = bits, .symmetric = symmetric};
  const uint64_t levels = uint64_t{1} << bits;
  Random random(seed);
  t.codes.resize(static_cast<size_t>(out * in));
  for (uint8_t& code : t.codes) code = static_cast<uint8_t>(random.below(levels));
  t.scales.resize(static_cast<size_t>(out * t.groups()));
  for (uint16_t& scale : t.scales) scale = f32_to_f16(static_cast<float>(random.normal()));
  t.zeros.resize(t.scales.size(), static_cast<uint8_t>(levels / 2));
  if (!symmetric) {
    for (uint8_t& zero : t.zeros) zero = static_cast<uint8_t>(random.below(levels));
    t.zeros[0] = 3;
  }
  return t;
}

template <typename E, typename F>
void expect_error(F action, const std::vector<std::string>& texts) {
  try {
    action();
    FAIL() << "no error";
  } catch (const E& error) {
    for (const std::string& text : texts) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what() << "\nlacks: " << text;
    }
  }
}

struct Shape {
  int64_t out;
  int64_t in;
  int64_t group;
};
inline void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.out << "x" << s.in << " group " << s.group;
}

}  // namespace metal_marlin::test
