// Options of generate, convert and bench.
#include <limits>

#include "layouts/layouts.h"
#include "options/tables.h"

namespace metal_marlin {
namespace {

constexpr double kMost = 9.3e18;  // any int64_t

// Why an option that picks among likely tokens has no effect; empty: it has.
std::string no_choice(const GenerateOptions& o) {
  if (o.temp == 0) return "--temp 0 always takes the likeliest token";
  return o.top_k == 1 ? "--top-k 1 leaves the likeliest token alone" : "";
}

// `off`: the value switches its stage off, so that nothing is left to be without effect.
template <class Off>
auto idle_without_choice(Off off) {
  return [off](const GenerateOptions& o, const GenerateOptions&) { return off(o) ? std::string() : no_choice(o); };
}

}  // namespace

const OptionTable<GenerateOptions>& generate_options() {
  static const OptionTable<GenerateOptions> table = [] {
    OptionTable<GenerateOptions> t;
    t.group("Sampling");
    t.add(
         "-n,--predict;--max-tokens", [](auto& o) -> auto& { return o.predict; },
         "Tokens at most; -1: until the end token or a full context")
        .in_range(-1, kMost);
    t.add(
         "-c,--ctx-size;--context", [](auto& o) -> auto& { return o.context; },
         "Context in tokens; 0: the model's own, at most 4096")
        .in_range(0, kMost)
        .keyed("context");
    t.add(
         "--temp;--temperature", [](auto& o) -> auto& { return o.temp; }, "Temperature; 0: always the likeliest token")
        .in_range(0, 100)
        .idle([](const GenerateOptions& o, const GenerateOptions&) {
          return o.temp == 0 ? std::string() : no_choice(o);
        });
    t.add(
         "--top-k", [](auto& o) -> auto& { return o.top_k; }, "Keep the k likeliest tokens; 0: off")
        .in_range(0, kMost)
        .idle(idle_without_choice([](const GenerateOptions& o) { return o.top_k <= 1; }));
    t.add(
         "--top-p", [](auto& o) -> auto& { return o.top_p; },
         "Keep the likeliest tokens that hold this probability; 1: off")
        .above(0, 1)
        .idle(idle_without_choice([](const GenerateOptions& o) { return o.top_p == 1; }));
    t.add(
         "--min-p", [](auto& o) -> auto& { return o.min_p; },
         "Keep tokens of at least this share of the best one's probability; 0: off")
        .in_range(0, 1)
        .idle(idle_without_choice([](const GenerateOptions& o) { return o.min_p == 0; }));
    t.add(
         "-s,--seed", [](auto& o) -> auto& { return o.seed; }, "Seed of the sampling")
        .idle(idle_without_choice([](const GenerateOptions&) { return false; }));
    t.advanced();
    t.add(
         "--repeat-penalty", [](auto& o) -> auto& { return o.repeat_penalty; }, "Penalty on repeated tokens; 1: off")
        .in_range(1e-3, std::numeric_limits<double>::max())
        .idle([](const GenerateOptions& o, const GenerateOptions&) {
          const bool used = o.repeat_last_n != 0 || o.repeat_penalty == 1;
          return std::string(used ? "" : "--repeat-last-n 0 looks back on no token");
        });
    t.add(
         "--repeat-last-n", [](auto& o) -> auto& { return o.repeat_last_n; },
         "Tokens that the penalty looks back on; 0: none; -1: all")
        .in_range(-1, kMost)
        .idle([](const GenerateOptions& o, const GenerateOptions&) {
          const bool used = o.repeat_penalty != 1 || o.repeat_last_n == 0;
          return std::string(used ? "" : "--repeat-penalty 1 punishes nothing");
        });
    t.add("--ignore-eos", [](auto& o) -> auto& { return o.ignore_eos; }, "Go on after the end token");
    t.add("--stop", [](auto& o) -> auto& { return o.stop; }, "End before this text").called("TEXT");
    t.add(
         "--speculate", [](auto& o) -> auto& { return o.speculate; },
         "Draft up to so many tokens from earlier text and check them in one step; the text stays the same")
        .in_range(0, 32);
    t.add(
         "--json-schema", [](auto& o) -> auto& { return o.json_schema; },
         "Answer with a JSON value that fits this JSON schema")
        .called("TEXT")
        .in_python("str | Mapping[str, Any] | None");
    return t;
  }();
  return table;
}

const OptionTable<ConvertOptions>& convert_options() {
  static const OptionTable<ConvertOptions> table = [] {
    OptionTable<ConvertOptions> t;
    t.group("Input and result");
    std::vector<std::string> formats = checkpoint_formats();
    for (const Layout* layout : float_layouts()) formats.emplace_back(layout->name());
    t.add(
         "--to", [](auto& o) -> auto& { return o.to; },
         "Format to write: codes, zeros and scales stay as they are; refused where the format cannot hold them. f16: a "
         "folder in Hugging Face layout in which every value is the source's, rounded to float16")
        .of_kind(OptionKind::kChoice)
        .one_of(formats);
    t.add("--overwrite", [](auto& o) -> auto& { return o.overwrite; }, "Replace a result of this program in OUT");
    t.group("Machine");
    t.add(
         "-t,--threads", [](auto& o) -> auto& { return o.threads; }, "Threads; the result does not depend on it")
        .in_range(1, 4096)
        .must([](int64_t n) { return n >= 0 && n <= 4096; }, "")
        .by_default("all processors that the process may use");
    return t;
  }();
  return table;
}

const OptionTable<BenchOptions>& bench_options() {
  static const OptionTable<BenchOptions> table = [] {
    OptionTable<BenchOptions> t;
    t.group("Measurement");
    t.add(
         "--prompt", [](auto& o) -> auto& { return o.prompt; }, "Tokens of the prompt; 0: not measured")
        .in_range(0, 1 << 20);
    t.add(
         "--generate", [](auto& o) -> auto& { return o.generate; }, "Tokens to generate; 0: not measured")
        .in_range(0, 1 << 20);
    t.add(
         "--repeat", [](auto& o) -> auto& { return o.repeat; },
         "Measurements of each; the median is shown, with the lowest and the highest")
        .in_range(1, 1000);
    t.add(
         "--depth", [](auto& o) -> auto& { return o.depth; }, "Tokens in the cache before each measurement")
        .in_range(0, 1 << 20);
    t.add(
         "--batch", [](auto& o) -> auto& { return o.batch; },
         "Sequences that are generated beside each other; each number is measured")
        .in_range(1, 1024)
        .idle([](const BenchOptions& o, const BenchOptions&) {
          return std::string(o.generate > 0 ? "" : "--generate 0 generates nothing");
        });
    return t;
  }();
  return table;
}

}  // namespace metal_marlin
