// Messages of one line and of several.
#include "terminal/message_parts.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {
namespace {

// The message of these lines; nothing where it is not whole after the last of them, or whole before.
std::optional<std::string> message(const std::vector<std::string>& lines) {
  MessageParts parts;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (parts.add(lines[i]) != (i + 1 == lines.size())) return std::nullopt;
  }
  return parts.take();
}

TEST(MessageParts, ALineIsAMessage) {
  EXPECT_EQ(message({"hello"}), "hello");
  EXPECT_EQ(message({""}), "");
  EXPECT_EQ(message({"say \"\"\"this\"\"\""}), "say \"\"\"this\"\"\"");
}

TEST(MessageParts, ABackslashGoesOn) {
  EXPECT_EQ(message({"a\\", "b"}), "a\nb");
  EXPECT_EQ(message({"a\\", "\\", "c"}), "a\n\nc");
  EXPECT_EQ(message({"C:\\dir\\\\"}), "C:\\dir\\\\");  // an even number stands for itself
  EXPECT_EQ(message({"a\\"}), std::nullopt);
}

TEST(MessageParts, QuotesHoldLines) {
  EXPECT_EQ(message({"\"\"\"", "one", "", "two\\", "\"\"\""}), "one\n\ntwo\\");
  EXPECT_EQ(message({"\"\"\"one", "two\"\"\"  "}), "one\ntwo");
  EXPECT_EQ(message({"\"\"\"one\"\"\""}), "one");
  EXPECT_EQ(message({"\"\"\"\"\"\""}), "");
  EXPECT_EQ(message({"\"\"\"", "\"\"\""}), "");
  EXPECT_EQ(message({"\"\"\"", "one"}), std::nullopt);
}

TEST(MessageParts, PastedLinesStayAsTheyAre) {
  EXPECT_EQ(message({"#define A \\\n  1\nend"}), "#define A \\\n  1\nend");
  EXPECT_EQ(message({"\"\"\"one\ntwo\"\"\""}), "one\ntwo");
}

TEST(MessageParts, TakeBeginsAnew) {
  MessageParts parts;
  EXPECT_FALSE(parts.begun());
  EXPECT_FALSE(parts.add("\"\"\"lost"));
  EXPECT_TRUE(parts.begun());
  EXPECT_EQ(parts.take(), "lost");
  EXPECT_FALSE(parts.begun());
  EXPECT_TRUE(parts.add("new"));
  EXPECT_EQ(parts.take(), "new");
}

}  // namespace
}  // namespace metal_marlin
