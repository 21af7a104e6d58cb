// Options that several operations share. Names and defaults equal those of the command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

// How a model is quantized (docs/quantize.md). kAwq: the best recipe; kAwqPaper: AWQ as published; kAwqSalient: scales
// for channels with salient weights alone; kGptq: GPTQ's error feedback; kRtn: each weight rounded to nearest.
enum class Method : uint8_t { kAwq, kAwqPaper, kAwqSalient, kGptq, kRtn };
// At 4 bits: kAsymmetric ("asym") has codes 0..15 with a zero point, kSymmetric ("sym") -8..7.
enum class Scheme : uint8_t { kAsymmetric, kSymmetric };

// Whether a sequence begins with the BOS token: where the tokenizer's own settings add one, always, or never. A BOS
// position is never scored.
enum class Bos : uint8_t { kAuto, kAlways, kNever };

// More sequences (or chunks), and longer ones, are refused. They are beyond any use, and sums over them would overflow.
inline constexpr int64_t kMostSequences = int64_t{1} << 24;
inline constexpr int64_t kMostSequenceLength = int64_t{1} << 20;

struct CalibrationOptions {
  // One or several sources of the calibration set. "self" is text sampled from the model, "builtin" text that comes
  // with the program. A file whose name ends in .jsonl holds conversations, which are written out by the model's chat
  // template, and plain texts. Any other file is UTF-8 text. Or a single .npz of statistics (written by
  // calibrate_model) or of raw activations ([batch, seq, in_features] per weight name).
  std::vector<std::string> calibration = {"self"};
  // The proportions in which the sources give sequences, one number > 0 for each. Empty: equal ones.
  std::vector<double> calibration_weights;
  int64_t samples = 128;  // sequences
  int64_t select = 0;     // how many of them to use: those that cover the channels of the activations best; 0: all
  int64_t sequence_length = 512;  // tokens each
  Bos bos = Bos::kAuto;
  uint64_t seed = 0;         // of self-made text
  double temperature = 1.0;  // of self-made text
  // calibrate_model: as QuantizeOptions::given.
  std::vector<std::string> given;
};

struct EvaluationOptions {
  std::string text;        // UTF-8 file, or JSON Lines where the name ends in .jsonl
  int64_t chunks = 32;     // the first ... chunks of the text; fewer when it is shorter
  int64_t context = 1024;  // tokens of a chunk; every position but a chunk's first is scored
  Bos bos = Bos::kAuto;
};

struct MachineOptions {
  uint64_t memory_bytes =
      0;            // peak resident memory to stay within; 0: what the machine has, less a margin; else >= 1 MB
  int threads = 0;  // 0: all that this process may use
  // The matrix products of the forward pass that makes statistics: "f32", "bf16", or "auto", which is bf16 where the
  // processor multiplies it faster than f32. In evaluate_model "auto" is f32.
  std::string precision = "auto";
};

}  // namespace metal_marlin
