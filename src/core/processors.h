// The processors that this process may use, as the operating system tells.
#pragma once

#include <span>
#include <string>

namespace metal_marlin {

// Processors of the affinity mask, at most the control group's quota rounded up; at least 1.
int usable_processors();
// The same of cores, each of which may be several processors; on macOS of the cores made for speed.
int usable_cores();

// How many cores these processors belong to. `folder`/cpuN/topology/core_cpus_list (in older kernels
// thread_siblings_list) lists the processors of N's core; one without the file counts as a core.
int cores_of(std::span<const int> processors, const std::string& folder);

// Processors that the quotas of a process' control group and of the groups above it allow, rounded up; 0: no limit.
// `membership`: the text of /proc/self/cgroup; `mount`: where the groups are mounted, versions 1 and 2.
int quota_processors(const std::string& membership, const std::string& mount);

}  // namespace metal_marlin
