// Options that several operations share. Names and defaults equal those of the command line.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// An option that is a std::optional is decided by the method, the model or the machine while it is empty ("auto" on the
// command line). The names of the enumerators are those of the command line: kAwqPaper is "awq-paper".

// On, off, or empty. A text, which would convert to true in a std::optional<bool>, does not compile.
class Switch : public std::optional<bool> {
 public:
  constexpr Switch() = default;
  constexpr Switch(std::nullopt_t) {}  // NOLINT(google-explicit-constructor)
  template <std::same_as<bool> Bool>
  constexpr Switch(Bool on) : std::optional<bool>(on) {}  // NOLINT(google-explicit-constructor)
};

// How a model is quantized (docs/quantize.md). kAwq: the best recipe; kAwqPaper: AWQ as published; kAwqSalient: scales
// for channels with salient weights alone; kGptq: GPTQ's error feedback; kRtn: each weight rounded to nearest.
enum class Method : uint8_t { kAwq, kAwqPaper, kAwqSalient, kGptq, kRtn };
// kFast, of kAwq: 16 sequences unless their number is given, and no Cholesky factors. Codes are then rounded to nearest
// and refined, scales are searched by plain rounding, and there is no guard.
enum class Effort : uint8_t { kBest, kFast };
// At 4 bits: kAsymmetric ("asym") has codes 0..15 with a zero point, kSymmetric ("sym") -8..7.
enum class Scheme : uint8_t { kAsymmetric, kSymmetric };
// How the range of a group is chosen. kAbsmax: largest magnitude (asymmetric: least and largest value); kMse: least
// error of the weights; kGram: least error of the outputs; kDiagonal: the same as if channels were uncorrelated.
enum class RangeChoice : uint8_t { kAbsmax, kMse, kGram, kDiagonal };
// Loss of the scale search. kLinear: output error of the input's linears after plain rounding, from the Gram matrix;
// kFeedback: the same after error feedback (kAwq alone); kBlock: the block is replayed on a subset of the tokens, as
// AutoAWQ does.
enum class ScaleLoss : uint8_t { kLinear, kFeedback, kBlock };
// Of |x|, by channel.
enum class Statistic : uint8_t { kMean, kMax, kRms };
// Arithmetic of matrix products.
enum class MatmulPrecision : uint8_t { kF32, kBF16 };

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
  std::optional<int64_t> samples;  // sequences; empty: 128, or 16 with QuantizeOptions::effort kFast
  int64_t select = 0;  // how many of them to use: those that cover the channels of the activations best; 0: all
  int64_t sequence_length = 512;  // tokens each
  Bos bos = Bos::kAuto;
  uint64_t seed = 0;         // of self-made text
  double temperature = 1.0;  // of self-made text
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
  // The matrix products of the forward pass that makes statistics. Empty: bf16 where the processor multiplies it faster
  // than f32; in evaluate_model f32.
  std::optional<MatmulPrecision> precision;
};

}  // namespace metal_marlin
