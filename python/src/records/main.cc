// Prints the module metal_marlin._records.
#include <cstdio>
#include <exception>

#include "records/fields.h"

int main() {
  try {
    return std::fputs(metal_marlin::python_records().c_str(), stdout) < 0 ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
