#include "core/processors.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class Processors : public testing::Test {
 protected:
  void SetUp() override {
    mount_ = fs::temp_directory_path() / ("processors_" + std::to_string(getpid()));
    fs::remove_all(mount_);
    fs::create_directories(mount_);
  }
  void TearDown() override { fs::remove_all(mount_); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((mount_ / name).parent_path());
    std::ofstream(mount_ / name) << text;
  }
  int quota(const std::string& membership) const { return quota_processors(membership, mount_.string()); }

  fs::path mount_;
};

TEST_F(Processors, AQuotaOfVersionTwoIsRoundedUp) {
  write("a/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota("0::/a\n"), 2);
  write("a/cpu.max", "20000 100000\n");
  EXPECT_EQ(quota("0::/a\n"), 1);
  write("a/cpu.max", "400000 100000\n");
  EXPECT_EQ(quota("0::/a\n"), 4);
}

TEST_F(Processors, TheLeastLimitOfTheGroupsAboveHolds) {
  write("cpu.max", "max 100000\n");
  write("a/cpu.max", "300000 100000\n");
  write("a/b/cpu.max", "800000 100000\n");
  EXPECT_EQ(quota("0::/a/b\n"), 3);
  EXPECT_EQ(quota("0::/a/b/without/file\n"), 3);
  EXPECT_EQ(quota("0::/other\n"), 0);
}

TEST_F(Processors, AQuotaOfVersionOneCountsToo) {
  write("cpu,cpuacct/job/cpu.cfs_quota_us", "250000\n");
  write("cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota("5:memory:/job\n4:cpu,cpuacct:/job\n"), 3);
  write("cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(quota("4:cpu,cpuacct:/job\n"), 0);
  write("cpu/cpu.cfs_quota_us", "100000\n");
  write("cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota("4:cpu,cpuacct:/elsewhere\n"), 1);
}

TEST_F(Processors, TextOfNoMeaningIsNoLimit) {
  for (const char* bad : {"", "max", "abc 100", "0 100000", "-5 100000", "100000 0", "nan nan"}) {
    write("a/cpu.max", bad);
    EXPECT_EQ(quota("0::/a\n"), 0) << bad;
  }
  write("cpu.max", "100000 100000");
  EXPECT_EQ(quota("no colons\n0:one\n"), 0);
  EXPECT_EQ(quota("0::/../../a\n"), quota("0::/../../a\n"));  // ends
}

#if defined(__linux__)
TEST_F(Processors, TheAffinityMaskLimits) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_LE(usable_processors(), CPU_COUNT(&before));
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(usable_processors(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}
#endif

TEST_F(Processors, ThoseOfOneCoreCountOnce) {
  write("cpu0/topology/core_cpus_list", "0,4\n");
  write("cpu4/topology/core_cpus_list", "0,4\n");
  write("cpu1/topology/core_cpus_list", "1,5\n");
  write("cpu6/topology/thread_siblings_list", "6-7\n");
  write("cpu7/topology/thread_siblings_list", "6-7\n");
  const std::string folder = mount_.string();
  EXPECT_EQ(cores_of(std::array{0, 1, 4}, folder), 2);
  EXPECT_EQ(cores_of(std::array{4}, folder), 1);
  EXPECT_EQ(cores_of(std::array{6, 7}, folder), 1);
  EXPECT_EQ(cores_of(std::array{8, 9, 0}, folder), 3);  // of 8 and 9 nothing is known
  EXPECT_EQ(cores_of({}, folder), 0);
}

TEST(UsableCores, AreAtMostTheProcessors) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_LE(usable_cores(), usable_processors());
}

}  // namespace
}  // namespace metal_marlin
