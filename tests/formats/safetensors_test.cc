#include "formats/safetensors.h"

#include <nlohmann/json.hpp>

#include "formats/support.h"

namespace metal_marlin {
namespace {

using test::as_bytes;
using test::check_error;
using test::expect;

std::vector<TensorView> views_of(const SafetensorsFile& file) {
  return file.tensors();
}

TEST(Safetensors, WriterEqualsTheReference) {
  const std::string path = test::data_path("reference_writer.safetensors");
  const SafetensorsFile reference(path);
  EXPECT_EQ(reference.tensors().size(), 18u);
  std::vector<TensorView> shuffled = views_of(reference);
  std::reverse(shuffled.begin(), shuffled.end());
  std::swap(shuffled[3], shuffled[11]);
  const test::TemporaryFolder folder;
  write_safetensors(folder.path("x.safetensors"), shuffled, reference.metadata());
  EXPECT_EQ(test::file_content(folder.path("x.safetensors")), test::file_content(path));
}

TEST(Safetensors, ReadsWhatTheReferenceWrote) {
  const SafetensorsFile file(test::data_path("reference_writer.safetensors"));
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"for\tmat", "p\"t"}}));
  const TensorView& quoted = file.get("q\"uote\\ \n\x01 \xc3\xa9\xe4\xb8\xad");
  EXPECT_EQ(quoted.dtype, DType::kF32);
  float one = 0;
  std::memcpy(&one, quoted.bytes.data(), sizeof one);
  EXPECT_EQ(one, 1.0f);
  EXPECT_EQ(file.get("scalar").shape, std::vector<int64_t>{});
  EXPECT_EQ(file.get("empty").shape, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(file.get("t.uint64").bytes.size(), 48u);
  EXPECT_EQ(file.find("nothing"), nullptr);
  check_error(expect<FormatError>({"reference_writer.safetensors", "\"nothing\""}), [&] { file.get("nothing"); });
  file.release(quoted);
  std::memcpy(&one, quoted.bytes.data(), sizeof one);
  EXPECT_EQ(one, 1.0f);
}

TEST(Safetensors, MovedFileStillFinds) {
  SafetensorsFile file(test::data_path("reference_writer.safetensors"));
  const SafetensorsFile moved = std::move(file);
  EXPECT_NE(moved.find("t.bool"), nullptr);
}

// Every file that the reference package was shown, with its verdict; ours differs where the header says so.
TEST(Safetensors, VerdictsOfTheReference) {
  const auto json = nlohmann::json::parse(test::file_content(test::data_path("safetensors_cases.json")));
  const std::vector<std::string> unsupported = {"dtype_C64", "dtype_F4", "dtype_F8_E8M0"};
  int cases = 0;
  for (const auto& [name, entry] : json["cases"].items()) {
    SCOPED_TRACE(name);
    const auto hex = entry["hex"].get<std::string>();
    std::string bytes;
    for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    const bool reference_accepts = entry["verdict"].get<std::string>().starts_with("accepted");
    const auto parse = [&] { parse_safetensors(as_bytes(bytes), "case.safetensors"); };
    if (std::find(unsupported.begin(), unsupported.end(), name) != unsupported.end()) {
      check_error(expect<UnsupportedError>({"case.safetensors", "\"a\"", name.substr(6)}), parse);
    } else if (reference_accepts && name != "duplicate_key") {
      EXPECT_NO_THROW(parse());
    } else {
      check_error(expect<FormatError>({"case.safetensors"}), parse);
    }
    ++cases;
  }
  EXPECT_EQ(cases, 40);
}

TEST(SafetensorsWriter, NoTensorsNoMetadata) {
  const test::TemporaryFolder folder;
  write_safetensors(folder.path("x"), std::span<const TensorView>{});
  EXPECT_EQ(test::file_content(folder.path("x")), test::little(uint64_t{8}) + "{}      ");
  EXPECT_TRUE(SafetensorsFile(folder.path("x")).tensors().empty());
  write_safetensors(folder.path("x"), std::span<const TensorView>{}, {{"b", "2"}, {"a", "1"}});
  EXPECT_EQ(SafetensorsFile(folder.path("x")).metadata().size(), 2u);
}

TEST(SafetensorsWriter, PartsOrderAndCompleteness) {
  const test::TemporaryFolder folder;
  const std::string path = folder.path("x.safetensors");
  {
    SafetensorsWriter writer(path, {{"b", DType::kF32, {2}}, {"c", DType::kU8, {3}}, {"a", DType::kF32, {1}}});
    ASSERT_EQ(writer.order().size(), 3u);
    EXPECT_EQ(writer.order()[0].name, "a");
    EXPECT_EQ(writer.order()[1].name, "b");
    EXPECT_EQ(writer.order()[2].name, "c");
    check_error(expect<ArgumentError>({"\"b\"", "\"a\""}), [&] { writer.write("b", as_bytes("12345678")); });
    check_error(expect<ArgumentError>({"\"a\"", "4 bytes"}), [&] { writer.write("a", as_bytes("12345")); });
    writer.write("a", as_bytes("1234"));
    writer.write_part("b", as_bytes("123"));
    check_error(expect<ArgumentError>({"\"b\""}), [&] { writer.write_part("b", as_bytes("123456")); });
    writer.write_part("b", as_bytes("45678"));
    check_error(expect<ArgumentError>({"\"c\" was not written"}), [&] { writer.commit(); });
    EXPECT_FALSE(std::filesystem::exists(path));
    writer.write("c", as_bytes("abc"));
    check_error(expect<ArgumentError>({"expected no more"}), [&] { writer.write("d", as_bytes("abc")); });
    writer.commit();
    EXPECT_EQ(writer.file_bytes(), std::filesystem::file_size(path));
  }
  const SafetensorsFile file(path);
  EXPECT_EQ(file.get("c").bytes.size(), 3u);
  EXPECT_EQ(static_cast<char>(file.get("b").bytes[7]), '8');
}

TEST(SafetensorsWriter, RefusesBadNames) {
  const test::TemporaryFolder folder;
  const std::string path = folder.path("x.safetensors");
  check_error(expect<ArgumentError>({"duplicate", "\"a\""}),
              [&] { SafetensorsWriter(path, {{"a", DType::kF32, {2}}, {"a", DType::kU8, {3}}}); });
  check_error(expect<ArgumentError>({"__metadata__"}),
              [&] { SafetensorsWriter(path, {{"__metadata__", DType::kF32, {2}}}); });
  check_error(expect<ArgumentError>({"UTF-8"}), [&] { SafetensorsWriter(path, {{"\xff", DType::kF32, {2}}}); });
  check_error(expect<ArgumentError>({"\"a\"", "-1"}), [&] { SafetensorsWriter(path, {{"a", DType::kF32, {-1}}}); });
  check_error(expect<SystemError>({"nowhere"}), [&] { SafetensorsWriter(folder.path("nowhere/x"), {}); });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path("")));
}

class Sharded : public testing::Test {
 protected:
  Sharded() {
    write(1, {"a", "b"});
    write(2, {"c"});
    index_.total_size = 12;
    index_.weight_map = {{"a", name(1)}, {"b", name(1)}, {"c", name(2)}};
  }
  static std::string name(int shard) { return shard_name(shard, 2); }
  void write(int shard, const std::vector<std::string>& tensors) {
    std::vector<TensorView> views;
    for (const std::string& tensor : tensors) views.push_back({tensor, DType::kF32, {1}, as_bytes("1234")});
    write_safetensors(folder_.path(name(shard)), views);
  }
  std::string write_index_file() {
    write_index(folder_.path("model.safetensors.index.json"), index_);
    return folder_.path("model.safetensors.index.json");
  }

  test::TemporaryFolder folder_;
  SafetensorsIndex index_;
};

TEST_F(Sharded, IndexReadsBack) {
  const SafetensorsIndex index = read_index(write_index_file());
  EXPECT_EQ(index.total_size, 12u);
  EXPECT_EQ(index.files(), (std::vector<std::string>{name(1), name(2)}));
  require_shards(index, folder_.path("model.safetensors.index.json"));
}

TEST_F(Sharded, IndexTextIsAsTransformersWritesIt) {
  EXPECT_EQ(test::file_content(write_index_file()),
            "{\n  \"metadata\": {\n    \"total_size\": 12\n  },\n  \"weight_map\": {\n"
            "    \"a\": \"model-00001-of-00002.safetensors\",\n    \"b\": \"model-00001-of-00002.safetensors\",\n"
            "    \"c\": \"model-00002-of-00002.safetensors\"\n  }\n}\n");
}

TEST_F(Sharded, MissingShard) {
  std::filesystem::remove(folder_.path(name(2)));
  check_error(expect<SystemError>({name(2) + ": this shard is missing",
                                   "model.safetensors.index.json places 1 tensor in it", "download it"}),
              [&] { require_shards(index_, write_index_file()); });
  std::filesystem::remove(folder_.path(name(1)));
  check_error(
      expect<SystemError>({name(1), name(2), "are missing", "places 3 tensors", "2 of 2 shards", "download them"}),
      [&] { require_shards(index_, write_index_file()); });
}

}  // namespace
}  // namespace metal_marlin
