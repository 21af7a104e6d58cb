// bench: how fast a model reads and writes.
#include <fmt/format.h>
#include <metal_marlin/bench.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/border.h"
#include "core/machine.h"
#include "core/random.h"
#include "core/threads.h"
#include "infer/compute.h"
#include "infer/decoder.h"
#include "kernels/code_kernels.h"
#include "kernels/dispatch.h"
#include "pipeline/progress.h"
#include "pipeline/texts.h"
#include "source/interrupt.h"
#include "source/model_source.h"

namespace metal_marlin {
namespace {

BenchRate rate_of(int64_t tokens, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const auto rate = [&](double s) { return static_cast<double>(tokens) / std::max(s, 1e-9); };
  const size_t n = seconds.size();
  const double middle = n % 2 == 1 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
  return {tokens, rate(middle), rate(seconds.back()), rate(seconds.front())};
}

nlohmann::json to_json(const BenchRate& rate) {
  if (rate.tokens == 0) return nullptr;
  return {{"tokens", rate.tokens},
          {"tokens_per_second", {{"median", rate.median}, {"lowest", rate.lowest}, {"highest", rate.highest}}}};
}

}  // namespace

BenchResult bench_model(const std::string& model, const BenchOptions& options, const MachineOptions& machine,
                        const Observer& observer, const ComputeOptions& compute_options) try {
  if (options.prompt < 0 || options.generate < 0 || options.prompt + options.generate == 0 || options.repeat < 1) {
    throw ArgumentError(
        fmt::format("bench: expected tokens >= 0, some of them to measure, and at least one measurement; found a "
                    "prompt of {}, {} to generate, {} measurements",
                    options.prompt, options.generate, options.repeat));
  }
  const ThreadCount thread_count(machine.threads);
  Tracker tracker(observer);
  const int64_t steps = (options.repeat + 1) * ((options.prompt > 0 ? 1 : 0) + (options.generate > 0 ? 1 : 0));
  tracker.enter("load", 0, steps);
  const double start = wall_seconds();
  const auto source = ModelSource::open(model);
  source->check();
  warn_beyond_positions(*source, std::max(options.prompt, options.generate), tracker);
  DecoderOptions decoder_options;
  const Compute compute = compute_of(compute_options, machine, *source, true);
  decoder_options.precision = compute.precision;
  decoder_options.codes = compute.codes;
  decoder_options.capacity = std::max<int64_t>(1, std::max(options.prompt, options.generate));
  Decoder decoder(*source, decoder_options);
  const Head head(*source, ComputeType::kF32, compute.head);
  BenchResult result;
  result.load_seconds = wall_seconds() - start;
  result.cpu = cpu_name();
  result.isa = compute.codes ? code_kernels().name : isa_name();
  result.compute = compute.name;
  result.head = compute.head == HeadBits::k8 ? "8" : "16";
  result.threads = threads();

  Random random(1);
  const auto draw = [&] {
    return static_cast<int32_t>(random.below(static_cast<uint64_t>(source->config().vocab_size)));
  };
  Matrix states;
  std::vector<float> logits(static_cast<size_t>(head.vocab_size()));
  int64_t done = 0;
  const auto measure = [&](const char* stage, int64_t tokens, const auto& run) {
    std::vector<double> seconds;
    for (int64_t i = 0; i <= options.repeat; ++i) {
      tracker.enter(stage, done++, steps);
      std::vector<int32_t> ids;
      for (int64_t t = 0; t < tokens; ++t) ids.push_back(draw());
      decoder.truncate(0, 0);
      const double begin = wall_seconds();
      run(ids);
      if (i > 0) seconds.push_back(wall_seconds() - begin);  // the first one meets cold caches
    }
    return rate_of(tokens, std::move(seconds));
  };
  if (options.prompt > 0) {
    result.prompt = measure("prompt", options.prompt, [&](const std::vector<int32_t>& ids) {
      if (!read_prompt(decoder, ids, states)) throw Interrupted("bench: stopped");
      head.logits(states.row(states.rows() - 1).data(), 1, logits.data());
    });
  }
  if (options.generate > 0) {
    result.generate = measure("generate", options.generate, [&](const std::vector<int32_t>& ids) {
      constexpr int64_t kOne[] = {1};
      for (const int32_t id : ids) {
        if (interrupt_asked()) throw Interrupted("bench: stopped");
        decoder.run(std::span(&id, 1), kOne, states);
        head.logits(states.data(), 1, logits.data());
      }
    });
  }
  result.resident_bytes = resident_bytes();
  tracker.enter("done", 1, 1);
  return result;
} catch (...) {
  rethrow_as_error("bench_model");
}

std::string to_json(const BenchResult& r) try {
  return nlohmann::json{{"cpu", r.cpu},
                        {"isa", r.isa},
                        {"compute", r.compute},
                        {"head", r.head},
                        {"threads", r.threads},
                        {"load_seconds", r.load_seconds},
                        {"resident_bytes", r.resident_bytes},
                        {"prompt", to_json(r.prompt)},
                        {"generate", to_json(r.generate)}}
      .dump(2);
} catch (...) {
  rethrow_as_error("to_json");
}

}  // namespace metal_marlin
