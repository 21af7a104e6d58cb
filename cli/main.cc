// The command metal-marlin.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/version.h>

#include <cstdio>
#include <exception>
#include <new>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "console/console.h"
#include "formats/text.h"
#include "subcommands.h"

namespace {

// Blocks of a megabyte and more go back to the system when they are freed: the memory budget counts resident pages.
void return_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  mallopt(M_TRIM_THRESHOLD, 4 << 20);
#endif
}

int fault(const char* message, int code) {
  metal_marlin::cli::print_error("metal-marlin: " + metal_marlin::escaped_line(message) + "\n");
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace metal_marlin;  // NOLINT
  return_freed_memory();
  try {
    cli::Application application(
        "metal-marlin", "Turns trained language models into 4-bit ones, and shows how good they are.", version());
    cli::add_quantize(application);
    cli::add_calibrate(application);
    cli::add_convert(application);
    cli::add_evaluate(application);
    cli::add_generate(application);
    cli::add_chat(application);
    cli::add_bench(application);
    cli::add_inspect(application);
    cli::add_compare(application);
    cli::add_diff(application);
    cli::add_check(application);
    cli::add_report(application);
    cli::add_help(application);
    cli::add_completion(application);
    cli::add_man(application);
    return application.run(argc, argv);
  } catch (const Interrupted& error) {
    return fault(error.what(), cli::kExitInterrupted);
  } catch (const ArgumentError& error) {
    return fault(error.what(), 2);
  } catch (const std::bad_alloc&) {
    return fault("out of memory: give a smaller --memory, fewer --samples, or close other programs", cli::kExitFault);
  } catch (const std::exception& error) {
    return fault(error.what(), cli::kExitFault);
  }
}
