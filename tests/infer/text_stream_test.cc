#include "infer/text_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace metal_marlin {
namespace {

// Tokens 0..255 are bytes; the text's first space is dropped, as decoders of SentencePiece models do. Bytes that form
// no character become U+FFFD.
std::string decode(std::span<const int32_t> ids) {
  std::string out;
  for (size_t i = 0; i < ids.size();) {
    const auto lead = static_cast<unsigned>(ids[i]);
    const size_t length = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 0;
    bool good = length != 0 && i + length <= ids.size();
    for (size_t j = 1; good && j < length; ++j) good = (ids[i + j] & 0xc0) == 0x80;
    if (good) {
      for (size_t j = 0; j < length; ++j) out += static_cast<char>(ids[i + j]);
      i += length;
    } else {
      out += "\xef\xbf\xbd";
      ++i;
    }
  }
  return out.starts_with(' ') ? out.substr(1) : out;
}

std::vector<int32_t> bytes(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

bool whole(const std::string& piece) { return piece.find("\xef\xbf\xbd") == std::string::npos; }

TEST(TextStream, GivesWholeCharacters) {
  const std::string text = "a\xc3\xa4 \xe2\x82\xac\xf0\x9f\xa6\x99 end \xe6\xbc\xa2\xe5\xad\x97";
  TextStream stream(decode, {});
  std::string joined;
  for (const int32_t id : bytes(text)) {
    const std::string piece = stream.push(id);
    EXPECT_TRUE(whole(piece));
    EXPECT_EQ(decode(bytes(piece)), piece.starts_with(' ') ? piece.substr(1) : piece);
    joined += piece;
  }
  joined += stream.finish();
  EXPECT_EQ(joined, text);
}

TEST(TextStream, KeepsTheSpaceAfterAPrompt) {
  TextStream stream(decode, bytes("The quick brown"));
  std::string joined;
  for (const int32_t id : bytes(" fox")) joined += stream.push(id);
  EXPECT_EQ(joined, " fox");
}

TEST(TextStream, FinishReturnsABrokenEnd) {
  TextStream stream(decode, {});
  EXPECT_EQ(stream.push('a'), "a");
  EXPECT_EQ(stream.push(0xe2), "");
  EXPECT_EQ(stream.push(0x82), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, BrokenBytesDoNotWaitForever) {
  TextStream stream(decode, {});
  std::string joined;
  for (int i = 0; i < 40; ++i) joined += stream.push(0x82);
  EXPECT_GE(joined.size(), size_t{3} * 32);
  for (const int32_t id : bytes("ok")) joined += stream.push(id);
  EXPECT_TRUE(joined.ends_with("ok"));
}

}  // namespace
}  // namespace metal_marlin
