// GGUF files against the bytes of gguf-py, and split files against the rules of llama.cpp's gguf-split.
#include "formats/gguf/gguf_write.h"

#include <algorithm>
#include <array>

#include "formats/gguf/gguf_split.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

using test::as_bytes;
using test::check_error;
using test::expect;
using test::file_content;
using test::TemporaryFolder;

// The calls of make_containers.py.
std::vector<GgufPair> container_pairs() {
  const std::vector<std::string> strings = {"<s>", "", "\xe4\xb8\xad"};
  const std::array<int32_t, 3> ints = {1, -2, 3};
  const std::array<float, 2> floats = {0.5F, -1.25F};
  const std::array<bool, 3> bools = {true, false, true};
  return {gguf_pair<std::string_view>("general.architecture", "llama"),
          gguf_pair<std::string_view>("general.name", "tiny"),
          gguf_pair<uint8_t>("t.u8", 200),
          gguf_pair<int8_t>("t.i8", -100),
          gguf_pair<uint16_t>("t.u16", 60000),
          gguf_pair<int16_t>("t.i16", -30000),
          gguf_pair<uint32_t>("t.u32", 4000000000),
          gguf_pair<int32_t>("t.i32", -2000000000),
          gguf_pair<uint64_t>("t.u64", (uint64_t{1} << 63) + 5),
          gguf_pair<int64_t>("t.i64", -(int64_t{1} << 60)),
          gguf_pair<float>("t.f32", 0.1F),
          gguf_pair<double>("t.f64", 0.1),
          gguf_pair<bool>("t.bool", true),
          gguf_pair<std::string_view>("t.string", "h\xc3\xa9llo"),
          gguf_strings("t.strings", strings),
          gguf_array<int32_t>("t.ints", ints),
          gguf_array<float>("t.floats", floats),
          gguf_array<bool>("t.bools", bools)};
}

TEST(GgufWriter, WritesTheBytesOfGgufPy) {
  const GgufFile reference(test::data_path("container.gguf"));
  std::vector<GgufTensorInfo> infos;
  for (const GgufTensor& t : reference.tensors()) infos.push_back({t.name, t.type, t.shape});
  const TemporaryFolder folder;
  const std::string path = folder.path("out.gguf");
  const auto pairs = container_pairs();
  {
    GgufWriter writer(path, pairs, infos);
    EXPECT_FALSE(std::filesystem::exists(path));  // only commit() gives the name
    for (const GgufTensor& t : reference.tensors()) {
      // In two parts.
      writer.write_part(t.name, t.bytes.first(t.bytes.size() / 3));
      writer.write_part(t.name, t.bytes.subspan(t.bytes.size() / 3));
    }
    writer.commit();
    EXPECT_EQ(writer.file_bytes(), std::filesystem::file_size(path));
  }
  EXPECT_EQ(gguf_file_bytes(pairs, infos), std::filesystem::file_size(path));
  EXPECT_EQ(file_content(path), file_content(test::data_path("container.gguf")));
}

TEST(GgufWriter, CopiesEveryKindOfValue) {
  const GgufFile reference(test::data_path("container.gguf"));
  for (const GgufPair& made : container_pairs()) {
    const GgufPair copied = gguf_copy(made.key, *reference.metadata().find(made.key));
    EXPECT_EQ(copied.type, made.type) << made.key;
    EXPECT_EQ(copied.value, made.value) << made.key;
  }
}

TEST(GgufWriter, KeepsTheAlignmentOfTheKeys) {
  const TemporaryFolder folder;
  const std::string path = folder.path("out.gguf");
  const std::array pairs = {gguf_pair<uint32_t>(std::string(kAlignmentKey), 256)};
  GgufWriter writer(path, pairs, {{"a", GgmlType::kF32, {3}}, {"b", GgmlType::kF16, {2, 2}}});
  writer.write("a", as_bytes(std::string(12, 'a')));
  writer.write("b", as_bytes(std::string(8, 'b')));
  writer.commit();
  const GgufFile file(path);
  EXPECT_EQ(std::filesystem::file_size(path), 3 * 256u);
  EXPECT_EQ(file.get("b").bytes[0], std::byte{'b'});
}

TEST(GgufWriter, RefusesWhatReadersRefuse) {
  const TemporaryFolder folder;
  const std::string path = folder.path("out.gguf");
  using Infos = std::vector<GgufTensorInfo>;
  const auto refused = [&](const std::vector<std::string>& texts, const std::vector<GgufPair>& pairs,
                           const Infos& infos) {
    check_error(expect<ArgumentError>(texts), [&] { GgufWriter(path, pairs, infos); });
  };
  const GgufPair n = gguf_pair<uint32_t>("n", 1);
  refused({"out.gguf", "duplicate key \"n\""}, {n, n}, {});
  refused({"key \"\"", "found 0"}, {gguf_pair<uint32_t>("", 1)}, {});
  refused({"duplicate tensor \"a\""}, {}, {{"a", GgmlType::kF32, {1}}, {"a", GgmlType::kF32, {1}}});
  refused({"63 bytes", "found 64"}, {}, {{std::string(64, 'x'), GgmlType::kF32, {1}}});
  refused({"tensor \"a\"", "[0]", "at least 1"}, {}, {{"a", GgmlType::kF32, {0}}});
  refused({"tensor \"a\"", "1 to 4"}, {}, {{"a", GgmlType::kF32, {1, 1, 1, 1, 1}}});
  refused({"tensor \"a\"", "33 elements", "Q4_0", "multiple of 32"}, {}, {{"a", GgmlType::kQ4_0, {2, 33}}});
  refused({"tensor \"a\"", "shape"}, {}, {{"a", GgmlType::kF32, {int64_t{1} << 40, int64_t{1} << 40}}});
  refused({"general.alignment", "power of two", "found 48"}, {gguf_pair<uint32_t>(std::string(kAlignmentKey), 48)}, {});
  EXPECT_TRUE(std::filesystem::is_empty(std::filesystem::path(path).parent_path()));
}

TEST(GgufWriter, TensorsComeInTheirOrderAndWhole) {
  const TemporaryFolder folder;
  GgufWriter writer(folder.path("out.gguf"), {}, {{"a", GgmlType::kF32, {2}}, {"b", GgmlType::kF32, {1}}});
  const std::string bytes(12, '\0');
  check_error(expect<ArgumentError>({"\"b\" was given", "expected \"a\""}),
              [&] { writer.write("b", as_bytes(bytes)); });
  check_error(expect<ArgumentError>({"\"a\" has 8 bytes", "12 were given"}),
              [&] { writer.write("a", as_bytes(bytes)); });
  writer.write_part("a", as_bytes(bytes).first(4));
  check_error(expect<ArgumentError>({"\"a\" was not written"}), [&] { writer.commit(); });
  check_error(expect<ArgumentError>({"\"a\" has 8 bytes, more were given"}),
              [&] { writer.write_part("a", as_bytes(bytes)); });
  writer.write_part("a", as_bytes(bytes).first(4));
  writer.write("b", as_bytes(bytes).first(4));
  check_error(expect<ArgumentError>({"\"b\" was given", "expected no more"}),
              [&] { writer.write("b", as_bytes(bytes).first(4)); });
}

TEST(GgufSplit, Names) {
  EXPECT_EQ(gguf_split_name("dir/model", 2, 13), "dir/model-00002-of-00013.gguf");
  const auto name = parse_gguf_split_name("dir/model-00002-of-00013.gguf");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->stem, "dir/model");
  EXPECT_EQ(name->part, 2u);
  EXPECT_EQ(name->parts, 13u);
  EXPECT_EQ(name->of_part(13), "dir/model-00013-of-00013.gguf");
  for (const char* other :
       {"model.gguf", "-00001-of-00002.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-1-of-2.gguf",
        "m-0000x-of-00002.gguf", "m-00001-of-00002.gguf.tmp", "m-+0001-of-00002.gguf", "m-00001_of_00002.gguf", ""})
    EXPECT_FALSE(parse_gguf_split_name(other)) << other;
}

TEST(GgufSplit, OneFileWhereItFits) {
  const std::array pairs = {gguf_pair<uint32_t>("n", 1)};
  const std::array infos = {GgufTensorInfo{"a", GgmlType::kF32, {64}}};
  for (const uint64_t most : {uint64_t{0}, uint64_t{1} << 20}) {
    const auto files = plan_gguf_files("model", pairs, infos, most);
    ASSERT_EQ(files.size(), 1u);
    EXPECT_EQ(files[0].name, "model.gguf");
    EXPECT_EQ(files[0].pairs.size(), 1u);
    EXPECT_EQ(files[0].bytes, gguf_file_bytes(pairs, infos));
  }
}

TEST(GgufSplit, FilesStayBelowTheirSize) {
  const std::array pairs = {gguf_pair<std::string_view>("general.architecture", "llama")};
  std::vector<GgufTensorInfo> infos;
  for (int i = 0; i < 9; ++i) infos.push_back({"t" + std::to_string(i), GgmlType::kF32, {i == 4 ? 2000 : 100}});
  const auto files = plan_gguf_files("model", pairs, infos, 1500);
  ASSERT_GT(files.size(), 2u);
  size_t tensors = 0;
  const TemporaryFolder folder;
  for (size_t i = 0; i < files.size(); ++i) {
    EXPECT_EQ(files[i].name,
              gguf_split_name("model", static_cast<uint32_t>(i + 1), static_cast<uint32_t>(files.size())));
    ASSERT_FALSE(files[i].tensors.empty());
    EXPECT_TRUE(files[i].bytes <= 1500 || files[i].tensors.size() == 1) << i;
    GgufWriter writer(folder.path(files[i].name), files[i].pairs, files[i].tensors);
    for (const GgufTensorInfo& t : files[i].tensors) {
      EXPECT_EQ(t.name, infos[tensors++].name);
      writer.write(t.name, as_bytes(std::string(t.bytes(), 'x')));
    }
    writer.commit();
    const GgufFile file(folder.path(files[i].name));
    EXPECT_EQ(std::filesystem::file_size(folder.path(files[i].name)), files[i].bytes);
    // The types of gguf-split: u16, u16, i32.
    EXPECT_EQ(file.metadata().find(kSplitNo)->type, GgufType::kU16);
    EXPECT_EQ(file.metadata().find(kSplitTensors)->type, GgufType::kI32);
    EXPECT_EQ(file.metadata().get_u64(kSplitNo), i);
    EXPECT_EQ(file.metadata().get_u64(kSplitCount), files.size());
    EXPECT_EQ(file.metadata().get_u64(kSplitTensors), 9u);
    EXPECT_EQ(file.metadata().contains("general.architecture"), i == 0);
  }
  EXPECT_EQ(tensors, 9u);
}

}  // namespace
}  // namespace metal_marlin
