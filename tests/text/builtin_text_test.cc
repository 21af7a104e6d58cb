#include "text/builtin_text.h"

#include <gtest/gtest.h>

namespace metal_marlin {
namespace {

TEST(BuiltinTextTest, IsTheTextThatWasMeasured) {
  const std::string_view text = builtin_text();
  EXPECT_EQ(text.size(), 29167U);
  uint64_t hash = 14695981039346656037U;  // FNV-1a, 64 bits
  for (const unsigned char c : text) hash = (hash ^ c) * 1099511628211U;
  EXPECT_EQ(hash, 10883400776073487510U);
}

}  // namespace
}  // namespace metal_marlin
