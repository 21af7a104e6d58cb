// Quantizes a model to 4 bits: quantize MODEL OUT. MODEL is a folder in Hugging Face layout, a .gguf or a .safetensors
// file; OUT becomes a folder that vLLM, transformers and others load.
#include <metal_marlin/metal_marlin.h>

#include <iostream>

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::cerr << "usage: quantize MODEL OUT\n";
    return 2;
  }
  metal_marlin::QuantizeOptions options;          // method "awq", asymmetric, groups of 128, 64 or 32
  options.calibration.samples = 16;               // the default is 128
  options.calibration.calibration = {"builtin"};  // text that comes with the library; files are better
  metal_marlin::Observer observer;
  observer.on_progress = [](const metal_marlin::Progress& p) {
    std::cerr << '\r' << p.stage << ' ' << p.done << '/' << p.total << "          " << std::flush;
    return true;  // false: stop; the same call continues later
  };
  observer.on_warning = [](const std::string& text) { std::cerr << "\nwarning: " << text << '\n'; };
  const metal_marlin::QuantizeResult result = metal_marlin::quantize_model(argv[1], argv[2], options, observer);
  std::cout << '\n' << metal_marlin::render_report_summary(result.report);
  std::cout << "bits per weight: " << result.report.model.bits_per_weight << '\n';
} catch (const metal_marlin::Error& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
