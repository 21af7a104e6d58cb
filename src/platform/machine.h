// What the machine is and what the process has used of it.
#pragma once

#include <cstdint>
#include <string>

namespace metal_marlin {

std::string cpu_name();
uint64_t memory_bytes();         // installed, or the control group's limit where that is lower
uint64_t resident_bytes();       // of this process, now
uint64_t peak_resident_bytes();  // of this process, so far
double cpu_seconds();            // user + system time of this process
double wall_seconds();           // a steady clock
uint64_t free_disk_bytes(const std::string& path);
// Asks the system for the tile registers of AMX, which a process of x86-64 Linux must; false where it refuses.
bool request_amx_tiles() noexcept;

}  // namespace metal_marlin
