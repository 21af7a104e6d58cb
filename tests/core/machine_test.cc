#include "core/machine.h"

#include <gtest/gtest.h>
#include <sys/statvfs.h>

#include <cstring>
#include <limits>
#include <string>
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

// Of a folder that is not there yet: of where it would be.
TEST(Machine, FreeDiskIsThatOfTheNearestFolder) {
  struct statvfs info {};
  for (const char* place : {".", "/"}) {
    ASSERT_EQ(statvfs(place, &info), 0);
    const uint64_t size = static_cast<uint64_t>(info.f_blocks) * info.f_frsize;
    const std::string prefix = std::string(place) == "." ? "" : "/";
    for (const char* path : {"no-such-folder", "no-such-folder/", "no/such/folder"})
      EXPECT_LE(free_disk_bytes(prefix + path), size) << prefix << path;
  }
  EXPECT_LE(free_disk_bytes(""), std::numeric_limits<uint64_t>::max() / 2);
}

TEST(Machine, ResidentMemoryFollowsUse) {
  const uint64_t before = resident_bytes();
  std::vector<char> block(size_t{64} << 20);
  char* volatile kept = block.data();  // so that no compiler leaves the memory out
  std::memset(kept, 1, block.size());
  EXPECT_GT(resident_bytes(), before + (uint64_t{48} << 20));
  EXPECT_GE(peak_resident_bytes(), before + (uint64_t{48} << 20));
}

}  // namespace
}  // namespace metal_marlin
