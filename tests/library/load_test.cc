// load_test LIBRARY: loads the shared library, as a program does that may never call it, and checks that this changes
// nothing in the process: not the environment, not the kernels that OpenBLAS runs, not the number of threads.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

extern "C" char* openblas_get_corename();

namespace {

std::vector<std::string> environment() {
  std::vector<std::string> entries;
  for (char** e = environ; *e != nullptr; ++e) entries.emplace_back(*e);
  return entries;
}

long threads_of_process() {
  std::error_code none;
  return std::distance(std::filesystem::directory_iterator("/proc/self/task", none), {});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "Usage: load_test LIBRARY\n");
    return 2;
  }
  const std::string kernels = openblas_get_corename();
  char** const table = environ;
  const auto entries = environment();
  const long threads = threads_of_process();
  if (dlopen(argv[1], RTLD_NOW) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  int faults = 0;
  const auto expect = [&](bool good, const char* what) {
    if (good) return;
    std::fprintf(stderr, "loading the library changed %s\n", what);
    ++faults;
  };
  expect(kernels == openblas_get_corename(), "the kernels of OpenBLAS");
  expect(table == environ && entries == environment(), "the environment");
  expect(threads == threads_of_process(), "the number of threads");
  std::printf("OpenBLAS runs %s before and after\n", kernels.c_str());
  return faults == 0 ? 0 : 1;
}
