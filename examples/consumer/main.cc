// Prints what is in a checkpoint: consumer MODEL. Without a model it prints the library's version.
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/generate.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/options.h>
#include <metal_marlin/progress.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>
#include <metal_marlin/version.h>

#include <iostream>

int main(int argc, char** argv) {
  std::cout << "metal_marlin " << metal_marlin::version() << "\n";
  if (argc < 2) return 0;
  try {
    std::cout << metal_marlin::render_inspection(metal_marlin::inspect_model(argv[1], false)) << "\n";
  } catch (const metal_marlin::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
