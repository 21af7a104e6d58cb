#include "core/files/digest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

namespace metal_marlin {
namespace {

std::string pieces(const std::string& text, size_t size) {
  Digester digester;
  for (size_t at = 0; at < text.size(); at += size) digester.add(text.data() + at, std::min(size, text.size() - at));
  return digester.result().text();
}

// XXH3 of 128 bits without a seed, as xxhsum -H2 prints it.
TEST(Digest, PublishedValues) {
  EXPECT_EQ(digest_of("").text(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(digest_of("a").text(), "a96faf705af16834e6c632b61e964e1f");
  EXPECT_EQ(digest_of("").text().size(), Digest::kDigits);
  EXPECT_EQ((Digest{1, 0xab}.text()), "000000000000000100000000000000ab");
  EXPECT_EQ(Digester().result(), digest_of(""));
}

TEST(Digest, PiecesMakeNoDifference) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += static_cast<char>(i * 7 + i / 251);
  for (const size_t length : {size_t{1}, size_t{3}, size_t{16}, size_t{128}, size_t{240}, size_t{241}, text.size()}) {
    const std::string part = text.substr(0, length);
    for (const size_t size : {size_t{1}, size_t{5}, size_t{64}, size_t{1024}, length})
      EXPECT_EQ(pieces(part, size), digest_of(part).text()) << length << " in pieces of " << size;
  }
}

TEST(Digest, EveryByteAndTheSizeCount) {
  const std::string text(1000, 'x');
  std::set<std::string> seen = {digest_of(text).text(), digest_of(text + 'x').text()};
  for (size_t i = 0; i < text.size(); ++i) {
    std::string other = text;
    other[i] = 'y';
    seen.insert(digest_of(other).text());
  }
  EXPECT_EQ(seen.size(), text.size() + 2);
}

TEST(Digest, TextsStayApart) {
  const auto of = [](std::string_view a, std::string_view b) {
    Digester digester;
    digester.add_text(a);
    digester.add_text(b);
    return digester.result();
  };
  EXPECT_NE(of("ab", "c"), of("a", "bc"));
  EXPECT_NE(of("", "a"), of("a", ""));
  EXPECT_EQ(of("ab", "c"), of("ab", "c"));
}

}  // namespace
}  // namespace metal_marlin
