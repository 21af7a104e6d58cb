// Downloads that failed, archives and pointers in place of a file.
#include "formats/foreign_file.h"

#include <nlohmann/json.hpp>

#include "formats/gguf.h"
#include "formats/json/bounded_json.h"
#include "formats/json/json_fault.h"
#include "formats/safetensors.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

using test::check_error;
using test::expect;

struct Foreign {
  std::string bytes;
  std::string says;
};

std::vector<Foreign> foreign_files() {
  using namespace std::string_literals;
  return {{"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 988097824\n", "git lfs pull"},
          {"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "HTML page"},
          {"\n  <html lang=en>", "HTML page"},
          {"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "XML"},
          {"PK\3\4\x14\0\0\0\0\0\0\0\0\0\0\0model/data.pkl"s, "zip archive"},
          {"\x1f\x8b\x08\0\0\0\0\0\0\3{\"a\""s, "gzip archive"},
          {"\xfd"
           "7zXZ\0\0\4"s,
           "xz archive"},
          {"\x28\xb5\x2f\xfd\x04\x58"s, "zstd archive"},
          {"\x80\2}q\0(X\x0a\0\0\0lm_head.we"s, "Python pickle"},
          {"\x80\4\x95\x10\0\0\0\0\0\0\0"s, "Python pickle"}};
}

TEST(ForeignFile, IsNamedInPlaceOfWeights) {
  for (const auto& [bytes, says] : foreign_files()) {
    check_error(expect<FormatError>({"x.safetensors", says}),
                [&] { parse_safetensors(test::as_bytes(bytes), "x.safetensors"); });
    check_error(expect<FormatError>({"x.gguf", says}), [&] { parse_gguf(test::as_bytes(bytes), "x.gguf"); });
  }
  for (const auto& [bytes, says] : {Foreign{"", "empty"},
                                    {"{\"error\":\"Repository not found\"}", "Repository not found"},
                                    {"Invalid username or password.", "Invalid username"},
                                    {"Entry not found", "it begins with \"Entry not found\""},
                                    {"404: Not Found", "it begins with"},
                                    {"Not Found\n", "it begins with"}}) {
    check_error(expect<FormatError>({"x.safetensors", says}),
                [&] { parse_safetensors(test::as_bytes(bytes), "x.safetensors"); });
    check_error(expect<FormatError>({"x.gguf", says}), [&] { parse_gguf(test::as_bytes(bytes), "x.gguf"); });
  }
  check_error(expect<FormatError>({"GGUF file"}),
              [&] { parse_safetensors(test::as_bytes("GGUF\3\0\0\0\0\0\0\0"), "x.safetensors"); });
  const std::string safetensors = std::string("\2\0\0\0\0\0\0\0", 8) + "{}        ";
  check_error(expect<FormatError>({"safetensors file"}), [&] { parse_gguf(test::as_bytes(safetensors), "x.gguf"); });
}

TEST(ForeignFile, IsNamedInPlaceOfJson) {
  for (const auto& [bytes, says] : foreign_files()) {
    EXPECT_NE(json_fault_text(bytes).find(says), std::string::npos) << json_fault_text(bytes);
    check_error(expect<FormatError>({"config.json", says}), [&, text = bytes] { parse_json(text, "config.json"); });
    check_error(expect<FormatError>({"index", says}), [&, text = bytes] { parse_index(text, "index"); });
  }
  for (const auto& [bytes, says] : {Foreign{"", "the file is empty (0 bytes)"},
                                    {"Entry not found", "it begins with \"Entry not found\""},
                                    {"404: Not Found", "it begins with"}}) {
    check_error(expect<FormatError>({"config.json", says}), [&, text = bytes] { parse_json(text, "config.json"); });
  }
  check_error(expect<FormatError>({"index", "server's error message (\"Repository not found\")"}),
              [&] { parse_index(R"({"error": "Repository not found"})", "index"); });
}

TEST(ForeignFile, AnErrorPageIsOneOfItsKeysAlone) {
  using nlohmann::json;
  EXPECT_NE(error_page_text(json{{"error", "Repository not found"}}).find("Repository not found"), std::string::npos);
  EXPECT_NE(error_page_text(json{{"message", "Not Found"}, {"status", 404}}).find("Not Found"), std::string::npos);
  EXPECT_EQ(error_page_text(json{{"error", "x"}, {"model_type", "llama"}}), "");
  EXPECT_EQ(error_page_text(json{{"status", 1}}), "");
  EXPECT_EQ(error_page_text(json::object()), "");
  EXPECT_EQ(error_page_text(json::array()), "");
}

TEST(ForeignFile, ATextOfItsOwnFormatIsNone) {
  EXPECT_EQ(foreign_file_text("{\"a\": 1}"), "");
  EXPECT_EQ(foreign_file_text(""), "");
  EXPECT_EQ(json_fault_text("<a>"), "no valid JSON: expected a value at byte 0, found '<'");
}

TEST(BoundedJson, NestingIsBoundedAndTheKeyNamed) {
  const auto nested = [](int levels) {
    return "{\"fine\": 1, \"deep\": " + std::string(static_cast<size_t>(levels), '[') +
           std::string(static_cast<size_t>(levels), ']') + "}";
  };
  EXPECT_TRUE(parse_json(nested(40), "x").is_object());
  check_error(expect<FormatError>({"file.json", "\"deep\"", "at most 64 levels"}),
              [&] { parse_json(nested(100'000), "file.json"); });
  check_error(expect<FormatError>({"file.json", "at most 64 levels"}),
              [&] { parse_json(std::string(200'000, '['), "file.json"); });
  EXPECT_TRUE(parse_json_or_discard(nested(100'000)).is_discarded());
  EXPECT_TRUE(parse_json_or_discard("{").is_discarded());
  EXPECT_EQ(parse_json_or_discard("[1]"), nlohmann::json::parse("[1]"));
}

// The bound is on bytes: what is held of a header is in proportion to what is whole in it.
TEST(HostileHeaders, ManyEmptyEntriesAreRefusedAtTheFirst) {
  std::string header = "{";
  for (int i = 0; i < 1'000'000; ++i) header += "\"x\":{},";
  header.back() = '}';
  const std::string file = test::little(static_cast<uint64_t>(header.size())) + header;
  check_error(expect<FormatError>({"\"x\"", "dtype"}), [&] { parse_safetensors(test::as_bytes(file), "x"); });
  std::string metadata = "{\"__metadata__\":{";
  for (int i = 0; i < 200'000; ++i) metadata += "\"" + std::to_string(i) + "\":\"\",";
  metadata.back() = '}';
  metadata += "}";
  const std::string other = test::little(static_cast<uint64_t>(metadata.size())) + metadata;
  check_error(expect<FormatError>({"__metadata__", "at most"}), [&] { parse_safetensors(test::as_bytes(other), "x"); });
}

}  // namespace
}  // namespace metal_marlin
