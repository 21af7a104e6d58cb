// The processors that this process may use, as the operating system tells.
#pragma once

#include <string>

namespace metal_marlin {

// Processors of the affinity mask, at most the control group's quota rounded up; at least 1.
int usable_processors();

// Processors that the quotas of a process' control group and of the groups above it allow, rounded up; 0: no limit.
// `membership`: the text of /proc/self/cgroup; `mount`: where the groups are mounted, versions 1 and 2.
int quota_processors(const std::string& membership, const std::string& mount);

}  // namespace metal_marlin
