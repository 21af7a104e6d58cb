// What the machine is and what the process has used of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

std::string cpu_name();
uint64_t memory_bytes();              // installed, or the control group's limit where that is lower
uint64_t resident_bytes();            // of this process, now
uint64_t peak_resident_bytes();       // of this process, so far
double cpu_seconds();                 // user + system time of this process
double wall_seconds();                // a steady clock
int affinity_processors();            // that this process may run on, without regard to quotas; at least 1
std::vector<int> affinity_numbers();  // the numbers of these processors; empty where the system does not say
int fast_cores();                     // cores, on macOS those made for speed; 0 where affinity_numbers() tells more
std::string control_groups();         // of this process, as /proc/self/cgroup of Linux lists them; empty elsewhere
uint64_t free_disk_bytes(const std::string& path);
// Asks the system for the tile registers of AMX, which a process of x86-64 Linux must; false where it refuses.
bool request_amx_tiles() noexcept;
// What the system says of a 64-bit ARM processor: products of four bytes at once (SDOT), and of matrices of bytes
// (SMMLA). False elsewhere.
bool has_arm_dot_products() noexcept;
bool has_arm_matrix_products() noexcept;
// Whether the loaded OpenBLAS can be made to choose its kernels again while the process runs.
bool can_restart_openblas() noexcept;
// Lets OpenBLAS choose again, with OPENBLAS_CORETYPE=`kernels` in the environment for that moment. Call it only where
// can_restart_openblas() is true, once, and while no thread is inside OpenBLAS. std::bad_alloc: nothing has changed.
void restart_openblas(const char* kernels);

}  // namespace metal_marlin
