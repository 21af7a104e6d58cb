// Bytes by hand, temporary files, and the check of an error's type and text.
#pragma once

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <typeinfo>
#include <vector>

namespace metal_marlin::test {

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::string data_path(const std::string& name) {
  return std::string(TEST_DATA) + "/formats/" + name;
}

inline std::string file_content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// A folder that goes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "mm_test_XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string path(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, std::string_view content) const {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }

 private:
  std::string path_;
};

template <typename T>
std::string little(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

// What a damaged file must end in: exactly this type, a message that holds all these texts.
struct Expected {
  const std::type_info* type;
  std::vector<std::string> texts;
};
template <typename E>
Expected expect(std::vector<std::string> texts) {
  return {&typeid(E), std::move(texts)};
}

inline void check_error(const Expected& expected, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_TRUE(typeid(error) == *expected.type) << typeid(error).name() << ": " << error.what();
    for (const std::string& text : expected.texts) {
      EXPECT_NE(std::string_view(error.what()).find(text), std::string_view::npos)
          << error.what() << "\nlacks: " << text;
    }
    return;
  }
  FAIL() << "no error";
}

// A named damage, for value-parameterized tests.
struct Corruption {
  std::string name;
  std::string bytes;
  Expected expected;
};
inline std::string corruption_name(const testing::TestParamInfo<Corruption>& info) {
  return info.param.name;
}
inline void PrintTo(const Corruption& c, std::ostream* out) {
  *out << c.name;
}

}  // namespace metal_marlin::test
