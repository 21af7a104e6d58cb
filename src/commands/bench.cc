// bench: how fast a model reads and writes.
#include <fmt/format.h>
#include <metal_marlin/bench.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/interrupt.h"
#include "core/machine.h"
#include "core/progress.h"
#include "core/random.h"
#include "core/threads.h"
#include "infer/bad_logits.h"
#include "infer/compute.h"
#include "infer/decoder.h"
#include "kernels/codes/kernels.h"
#include "kernels/dispatch.h"
#include "options/ignored.h"
#include "options/tables.h"
#include "text/texts.h"

namespace metal_marlin {
namespace {

BenchRate rate_of(int64_t tokens, int64_t sequences, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const auto rate = [&](double s) { return static_cast<double>(tokens * sequences) / std::max(s, 1e-9); };
  const size_t n = seconds.size();
  const double middle = n % 2 == 1 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
  return {tokens, {rate(middle), rate(seconds.back()), rate(seconds.front())}};
}

}  // namespace

BenchResult bench_model(const std::string& model, const BenchOptions& options, const MachineOptions& machine,
                        const Observer& observer, const ComputeOptions& compute_options) try {
  bench_options().check_ranges(options);
  if (options.batch.empty())
    throw ArgumentError("batch", "--batch: expected at least one number of sequences, found none");
  if (options.prompt + options.generate == 0) {
    throw ArgumentError("--prompt and --generate: expected tokens to measure, found 0 of both");
  }
  const ThreadCount thread_count(machine.threads, DefaultThreads::kCores);
  Tracker tracker(observer);
  const int64_t kinds = (options.prompt > 0 ? 1 : 0) + (options.generate > 0 ? std::ssize(options.batch) : 0);
  const int64_t steps = (options.repeat + 1) * kinds;
  tracker.enter("load", 0, steps);
  const double start = wall_seconds();
  const auto source = ModelSource::open(model);
  source->check();
  const int64_t length = options.depth + std::max<int64_t>(1, std::max(options.prompt, options.generate));
  const std::string idle = ignored_options_warning(ignored_of(bench_options(), options, options));
  if (!idle.empty()) tracker.warn(idle);
  warn_beyond_positions(*source, length, tracker);
  DecoderOptions decoder_options;
  const Compute compute = compute_of(compute_options, machine, *source, true);
  decoder_options.precision = compute.precision;
  decoder_options.codes = compute.codes;
  decoder_options.cache = compute.kv;
  decoder_options.capacity = length;
  decoder_options.sequences = *std::max_element(options.batch.begin(), options.batch.end());
  Decoder decoder(*source, decoder_options);
  const Head head(*source, MatmulPrecision::kF32, compute.head);
  BenchResult result;
  result.load_seconds = wall_seconds() - start;
  result.cpu = cpu_name();
  result.isa = compute.codes ? code_kernels().name : isa_name();
  result.compute = compute.name;
  result.head = compute.head == HeadBits::k8 ? "8" : "16";
  result.threads = threads();
  result.kv = compute.kv == KvType::kF32 ? "32" : compute.kv == KvType::kF16 ? "16" : "8";
  result.depth = options.depth;

  Random random(1);
  const auto draw = [&] {
    return static_cast<int32_t>(random.below(static_cast<uint64_t>(source->config().vocab_size)));
  };
  Matrix states;
  Matrix logits;
  int64_t done = 0;
  const auto draws = [&](int64_t tokens) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < tokens; ++t) ids.push_back(draw());
    return ids;
  };
  const auto read = [&](const std::vector<int32_t>& ids) {
    if (!read_prompt(decoder, ids, states)) throw Interrupted("bench: stopped");
  };
  // The tokens of the depth are read once; every measurement begins after them.
  if (options.depth > 0) read(draws(options.depth));
  const auto measure = [&](const char* stage, int64_t tokens, int64_t sequences, const auto& run) {
    for (int64_t s = 1; s < sequences; ++s) decoder.fork(0, s, options.depth);
    std::vector<double> seconds;
    for (int64_t i = 0; i <= options.repeat; ++i) {
      tracker.enter(stage, done++, steps);
      const auto ids = draws(tokens * sequences);
      for (int64_t s = 0; s < sequences; ++s) decoder.truncate(s, options.depth);
      const double begin = wall_seconds();
      run(ids);
      if (i > 0) seconds.push_back(wall_seconds() - begin);  // the first one meets cold caches
      check_logits(*source, logits.values());
    }
    for (int64_t s = 1; s < sequences; ++s) decoder.truncate(s, 0);
    decoder.truncate(0, options.depth);
    return rate_of(tokens, sequences, std::move(seconds));
  };
  if (options.prompt > 0) {
    logits = Matrix(1, head.vocab_size());
    result.prompt = measure("prompt", options.prompt, 1, [&](const std::vector<int32_t>& ids) {
      read(ids);
      head.logits(states.row(states.rows() - 1).data(), 1, logits.data());
    });
  }
  if (options.generate > 0) {
    for (const int64_t sequences : options.batch) {
      const std::vector<int64_t> ones(static_cast<size_t>(sequences), 1);
      logits = Matrix(sequences, head.vocab_size());
      const BenchRate rate = measure("generate", options.generate, sequences, [&](const std::vector<int32_t>& ids) {
        for (int64_t t = 0; t < options.generate; ++t) {
          if (interrupt_asked()) throw Interrupted("bench: stopped");
          const auto first = static_cast<size_t>(t * sequences);
          decoder.run(std::span(ids).subspan(first, ones.size()), ones, states);
          head.logits(states.data(), sequences, logits.data());
        }
      });
      result.batches.push_back({rate, sequences});
    }
    result.generate = result.batches.front();
  }
  result.resident_bytes = resident_bytes();
  tracker.enter("done", 1, 1);
  return result;
} catch (...) {
  rethrow_as_error("bench_model");
}

}  // namespace metal_marlin
