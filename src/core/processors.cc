#include "core/processors.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "platform/machine.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

// 0: no limit, or values of no meaning.
int processors_of(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return 0;
  return static_cast<int>(std::clamp(std::ceil(quota / period), 1.0, 1e6));
}

int quota_of_group(const fs::path& group) {
  double quota = 0;
  double period = 0;
  // Version 2: "QUOTA PERIOD" or "max PERIOD"; the latter is no number.
  if (std::ifstream file(group / "cpu.max"); file >> quota >> period) return processors_of(quota, period);
  std::ifstream quota_file(group / "cpu.cfs_quota_us");
  std::ifstream period_file(group / "cpu.cfs_period_us");
  if (quota_file >> quota && period_file >> period) return processors_of(quota, period);
  return 0;
}

// The least limit of the groups from `mount`/`group` up to `mount`.
int quota_of_groups(const fs::path& mount, const std::string& group) {
  int least = 0;
  fs::path relative = fs::path(group).relative_path().lexically_normal();
  while (true) {
    if (const int n = quota_of_group(mount / relative); n > 0) least = least == 0 ? n : std::min(least, n);
    if (relative.empty() || relative == "." || relative.begin()->string() == "..") return least;
    relative = relative.parent_path();
  }
}

}  // namespace

int quota_processors(const std::string& membership, const std::string& mount) {
  int least = 0;
  const auto take = [&](int n) {
    if (n > 0) least = least == 0 ? n : std::min(least, n);
  };
  // Each line: "NUMBER:CONTROLLERS:GROUP"; version 2 has one, with number 0 and no controllers.
  std::istringstream lines(membership);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") {
      take(quota_of_groups(mount, group));
    } else if (controllers.find(",cpu,") != std::string::npos) {
      take(quota_of_groups(fs::path(mount) / line.substr(first + 1, second - first - 1), group));
      take(quota_of_groups(fs::path(mount) / "cpu", group));
    }
  }
  return least;
}

int cores_of(std::span<const int> processors, const std::string& folder) {
  std::set<std::string> cores;
  for (const int processor : processors) {
    const fs::path topology = fs::path(folder) / ("cpu" + std::to_string(processor)) / "topology";
    std::string members;
    for (const char* name : {"core_cpus_list", "thread_siblings_list"}) {
      std::ifstream file(topology / name);
      if (members.empty()) std::getline(file, members);
    }
    cores.insert(members.empty() ? "alone " + std::to_string(processor) : members);
  }
  return static_cast<int>(cores.size());
}

int usable_processors() {
  const int n = affinity_processors();
  const int quota = quota_processors(control_groups(), "/sys/fs/cgroup");
  return quota > 0 ? std::min(n, quota) : n;
}

int usable_cores() {
  int cores = fast_cores();
  if (cores == 0) cores = cores_of(affinity_numbers(), "/sys/devices/system/cpu");
  return cores > 0 ? std::min(cores, usable_processors()) : usable_processors();
}

}  // namespace metal_marlin
