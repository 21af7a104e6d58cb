// What a run says of itself: the records of report.json (schema 1). docs/report.md explains every field; in JSON it has
// the name that it has here. An empty optional is null there, or absent where docs/report.md says so.
#pragma once

#include <metal_marlin/export.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace metal_marlin {

// The value of an option: none, a switch, a number, a text or a list.
using OptionValue = std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, std::vector<std::string>,
                                 std::vector<double>>;
using OptionValues = std::map<std::string, OptionValue>;

struct InputRecord {
  std::string path;
  std::string format;
  std::string family;
  bool chat_template = false;
  std::string digest;  // 16 hexadecimal digits
};

struct StageRecord {
  double seconds = 0;
  double cpu_seconds = 0;
};

struct ForwardRecord {
  std::string precision;
  double operations = 0;
  double cpu_seconds = 0;
  double gflops_per_core = 0;
  double gemm_gflops_per_core = 0;
  double share_of_gemm = 0;
};

struct MachineRecord {
  std::string cpu;
  int64_t threads = 0;
  int64_t memory_bytes = 0;
  std::string blas_kernel;
  std::string gemm_isa;
};

struct IdentityModel {
  std::string path;
  std::string digest;
};
// What makes a run the same as another.
struct IdentityRecord {
  std::string version;
  IdentityModel model;
  OptionValues options;            // those that shape the result; files stand by their kind
  std::vector<std::string> texts;  // digests
  std::vector<std::string> given;  // options that were named; they do not count
};

struct RunRecord {
  std::string version;
  std::string finished;  // "2026-11-29T22:20:05Z"
  std::string command;   // empty: not from the command line
  std::string output;    // without folders
  std::string fingerprint;
  std::optional<IdentityRecord> identity;
  double seconds = 0;
  double cpu_seconds = 0;
  int64_t peak_memory_bytes = 0;
  int64_t predicted_memory_bytes = 0;
  int64_t resumed_blocks = 0;
  std::map<std::string, StageRecord> stages;
  std::optional<ForwardRecord> forward;
  MachineRecord machine;
};

struct PerplexityRecord {
  std::optional<double> reference;
  std::optional<double> quantized;
};
struct DivergenceRecord {  // KL(reference || quantized), nats per position
  std::optional<double> mean;
  std::optional<double> standard_error;
  std::optional<double> p99;
};
struct FormatRecord {
  std::string format;
  int64_t bytes = 0;
  double bits_per_weight = 0;
};
struct PartRecord {
  std::string name;
  int64_t weights = 0;
  int64_t bytes = 0;
  int64_t source_bytes = 0;
};
// What an evaluation has measured.
struct EvaluationRecord {
  PerplexityRecord perplexity;
  DivergenceRecord kl_divergence;
  std::optional<double> top1_agreement;
  int64_t positions = 0;
  double bits_per_weight = 0;
  int64_t bytes = 0;
};
struct ModelRecord : EvaluationRecord {
  double linears_bits_per_weight = 0;
  std::vector<FormatRecord> formats;
  std::vector<PartRecord> parts;
  int64_t parameters = 0;
  int64_t source_bytes = 0;
  double source_bits_per_weight = 0;
};

struct FewTokensRecord {
  std::string name;
  int64_t in_features = 0;
  int64_t tokens = 0;
};
struct SourceRecord {
  std::string source;
  std::string kind;
  std::optional<double> weight;
  std::optional<double> share;
  std::optional<int64_t> sequences;
  int64_t tokens = 0;
  std::optional<double> temperature;
  std::optional<uint64_t> seed;
  std::optional<int64_t> sequence_length;
};
struct SelectedRecord {
  std::string source;
  int64_t index = 0;
};
struct SelectionRecord {
  int64_t pool = 0;
  int64_t blocks = 0;
  double coverage = 0;
  std::vector<SelectedRecord> sequences;
};
// From which text something was made.
struct TextRecord {
  std::vector<SourceRecord> sources;
  std::optional<SelectionRecord> selection;
};
struct CalibrationRecord : TextRecord {
  std::string source;
  int64_t sequences = 0;
  int64_t tokens = 0;
  double first_token_weight = 1;
  std::vector<FewTokensRecord> few_tokens;
  std::optional<TextRecord> made_from;
};
struct HeldBackRecord {
  std::string source;
  std::string kind;
  int64_t chunks = 0;
  int64_t tokens = 0;
};

struct ChosenRecord {
  std::string rounding;
  double damping = 0;
  std::optional<double> nearest;
  std::optional<double> feedback;
  std::optional<double> refined;
};
// A quantized linear.
struct LinearRecord {
  std::string name;
  std::vector<int64_t> shape;  // [out_features, in_features]
  std::string method;
  std::optional<int64_t> bits;
  std::optional<int64_t> group_size;
  double weight_error = 0;
  std::optional<double> output_error;
  std::optional<double> held_back_output_error;
  std::vector<double> scale_range;
  std::optional<double> clipped_share;
  std::optional<double> saturated_share;
  int64_t zero_groups = 0;
  int64_t raised_scales = 0;
  int64_t clamped_scales = 0;
  std::optional<int64_t> clipped_groups;
  std::optional<int64_t> lifted_zeros;
  std::optional<double> damping;
  std::optional<int64_t> refined_codes;
  std::optional<int64_t> refined_scales;
  std::optional<ChosenRecord> chosen;
  double seconds = 0;
};
// The scales of a linear input.
struct ScaleRecord {
  int64_t layer = 0;
  std::string tap;
  std::string fold;
  std::string producer;
  double ratio = 0;
  double loss = 0;
  double least = 0;
  double largest = 0;
  double seconds = 0;
};

struct GridRecord {
  int64_t bits = 0;
  int64_t group_size = 0;
  bool symmetric = false;
  int64_t storage_bits = 0;
  double estimated_kl = 0;
};
struct ChosenGridRecord {
  int64_t bits = 0;
  int64_t group_size = 0;
  double estimated_kl = 0;
};
struct SensitivityItem {
  int64_t layer = 0;
  std::string tap;
  std::vector<std::string> linears;
  int64_t weights = 0;
  double kl = 0;
  double kl_standard_error = 0;
  std::vector<GridRecord> options;
  std::optional<ChosenGridRecord> chosen;
};
// What quantizing each set of linears that share an input costs.
struct SensitivityRecord {
  int64_t sequences = 0;
  int64_t tokens = 0;
  int64_t statistics_tokens = 0;
  double kl_together = 0;
  std::vector<SensitivityItem> items;
};
// The same beside the options that it is of.
struct SensitivityReport : SensitivityRecord {
  double interaction = 1;
  std::string method;
  std::string scheme;
  int64_t bits = 0;
  int64_t group_size = 0;
  TextRecord calibration;

  METAL_MARLIN_API std::string to_json() const;
};
// The bits of each linear, where they were chosen by what their error costs.
struct MixedRecord : SensitivityRecord {
  double interaction = 1;
  std::optional<double> target_bits;
  double bits_per_weight = 0;
  double estimated_kl = 0;
  double file_bits_per_weight = 0;
};

struct RoundingRecord {
  int64_t sequences = 0;
  int64_t refined = 0;
  int64_t feedback = 0;
  int64_t nearest = 0;
  int64_t fallbacks = 0;
  std::map<std::string, int64_t> damping;
};
struct SkippedRecord {
  std::string name;
  std::string reason;
};
struct ClampedRecord {
  std::string name;
  std::optional<std::string> format;
  std::optional<int64_t> clamped;
  std::optional<int64_t> flushed;
  std::optional<double> largest;
  std::optional<int64_t> raised_scales;
  std::optional<int64_t> clamped_scales;
};
struct FileRecord {
  std::string format;
  std::string name;
  int64_t bytes = 0;
};
struct GateRecord {
  std::optional<double> max_kl;
  std::optional<bool> passed;
};

// Bytes of memory and disk that a run takes, by what takes them; not all parts are held at once.
struct MemoryRecord {
  uint64_t base = 0;        // program, libraries, tokenizer
  uint64_t states = 0;      // hidden states, in memory
  uint64_t spilled = 0;     // the same in scratch files
  uint64_t block = 0;       // f32 weights of one block, and its codes
  uint64_t statistics = 0;  // Gram matrices
  uint64_t forward_scratch = 0;
  uint64_t quantize_scratch = 0;
  uint64_t head = 0;         // head and rows of logits
  uint64_t self_text = 0;    // sampling calibration text: weights and caches
  uint64_t selection = 0;    // choosing sequences from a pool: its states, a block, the profiles
  uint64_t sensitivity = 0;  // measuring what each linear's quantization costs: streams of states, two blocks
  uint64_t disk = 0;         // journal and output, at the peak
  uint64_t peak_bytes = 0;   // the most memory that is held at once
};
struct PlannedLinear {
  std::string name;
  std::vector<int64_t> shape;  // [out_features, in_features]
  int64_t bits = 0;
};
struct PlannedSize {
  std::string format;
  uint64_t bytes = 0;
  std::vector<PartRecord> parts;
};
struct PlannedMachine {
  std::string cpu;
  int64_t threads = 0;
  double gemm_gflops_per_core = 0;
};
// What a run would do.
struct Plan {
  std::string model;
  std::string output;
  OptionValues options;
  std::optional<std::string> start;  // "fresh", "resume", "redo", "complete"; empty: `output` stops the run
  int64_t finished_blocks = 0;
  std::string stops;      // why the run would stop; empty: it would not
  int64_t exit_code = 0;  // of the command, as far as it can be known before
  uint64_t calibration_tokens = 0;
  int64_t builtin_tokens = 0;
  int64_t held_back_tokens = 0;
  std::optional<std::string> evaluation_text;  // the file that was named
  std::vector<PlannedLinear> quantized;
  uint64_t quantized_weights = 0;
  uint64_t quantized_bytes = 0;
  std::vector<SkippedRecord> skipped;
  std::vector<PlannedSize> sizes;
  uint64_t source_bytes = 0;
  MemoryRecord memory;
  uint64_t memory_budget = 0;
  uint64_t disk_free_bytes = 0;
  std::map<std::string, double> seconds;  // by stage, and "total"
  PlannedMachine machine;
  std::vector<std::string> warnings;

  METAL_MARLIN_API std::string to_json() const;
};

struct Report {
  int64_t schema = 1;
  OptionValues options;
  InputRecord input;
  RunRecord run;
  ModelRecord model;
  CalibrationRecord calibration;
  HeldBackRecord held_back;
  std::optional<MixedRecord> mixed;
  std::optional<RoundingRecord> rounding_choice;
  std::vector<LinearRecord> linears;
  std::vector<ScaleRecord> scales;
  double invariance_error = 0;
  std::vector<SkippedRecord> skipped;
  std::vector<std::string> kept_in_16_bits;
  std::vector<std::string> padded;
  std::vector<ClampedRecord> clamped;
  std::vector<FileRecord> files;
  std::vector<std::string> warnings;
  GateRecord gate;

  // The text of report.json.
  METAL_MARLIN_API std::string to_json() const;
};

}  // namespace metal_marlin
