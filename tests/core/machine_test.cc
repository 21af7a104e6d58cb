#include "core/machine.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace metal_marlin {
namespace {

TEST(Machine, FiguresArePlausible) {
  EXPECT_FALSE(cpu_name().empty());
  EXPECT_GT(memory_bytes(), uint64_t{100} << 20);
  EXPECT_GT(resident_bytes(), uint64_t{1} << 20);
  EXPECT_GE(peak_resident_bytes(), resident_bytes() / 2);
  EXPECT_GT(free_disk_bytes("."), 0u);
  const double wall = wall_seconds();
  const double cpu = cpu_seconds();
  EXPECT_GE(wall_seconds(), wall);
  EXPECT_GE(cpu_seconds(), cpu);
}

TEST(Machine, ResidentMemoryFollowsUse) {
  const uint64_t before = resident_bytes();
  std::vector<char> block(size_t{64} << 20);
  std::memset(block.data(), 1, block.size());
  EXPECT_GT(resident_bytes(), before + (uint64_t{48} << 20));
  EXPECT_GE(peak_resident_bytes(), before + (uint64_t{48} << 20));
}

TEST(Fnv1a, PublishedValues) {
  EXPECT_EQ(fnv1a("", 0), 0xcbf29ce484222325u);
  EXPECT_EQ(fnv1a("a", 1), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(fnv1a("foobar", 6), 0x85944171f73967e8u);
  EXPECT_EQ(fnv1a("bar", 3, fnv1a("foo", 3)), fnv1a("foobar", 6));
}

}  // namespace
}  // namespace metal_marlin
