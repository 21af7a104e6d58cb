// evaluate: the model and its reference pass block by block in lockstep.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "checkpoint/model_source.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/files/file_status.h"
#include "core/files/text_reader.h"
#include "core/machine.h"
#include "core/progress.h"
#include "core/threads.h"
#include "eval/score.h"
#include "formats/text.h"
#include "infer/compute.h"
#include "model/block.h"
#include "model/layer_loop.h"
#include "model/model.h"
#include "model/prepared_block.h"
#include "model/stream.h"
#include "options/tables.h"
#include "plan/memory_plan.h"
#include "recipe/budget.h"
#include "recipe/recipe.h"
#include "recipe/text_options.h"
#include "report/run_report.h"
#include "report/size.h"
#include "text/texts.h"
#include "tokenizer/text_stream.h"
#include "tokenizer/token_set.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

constexpr size_t kProbeBytes = 65536;  // of the text, to see whether two tokenizers cut it alike

// The token as it stands in the vocabulary; empty for an id without a token.
std::string token_text(const Tokenizer& tokenizer, int32_t id) {
  try {
    return tokenizer.id_to_token(id);
  } catch (const ArgumentError&) {
    return "";
  }
}

// What an evaluation holds with its states in memory. `codes`: every model keeps its codes.
uint64_t evaluation_bytes(const ModelSource& source, const TokenSet& chunks, uint64_t models, bool codes) {
  const ModelConfig& c = source.config();
  uint64_t floats = 0;  // of a block
  uint64_t coded = 0;
  for (int64_t layer = 0; layer < (codes ? c.num_hidden_layers : 1); ++layer) {
    floats = std::max(floats, prepared_bytes(source, layer, MatmulPrecision::kF32, false));
    coded = std::max(coded, prepared_bytes(source, layer, MatmulPrecision::kF32, codes));
  }
  // Of a block that stays codes, what is read of a linear stands beside it: a byte for each code, or its floats.
  const uint64_t block = codes ? coded + floats / 4 : 2 * floats;
  const auto hidden = static_cast<uint64_t>(c.hidden_size);
  const uint64_t states = static_cast<uint64_t>(chunks.tokens()) * hidden * sizeof(float);
  const uint64_t head = head_bytes(source) * models;
  return program_bytes(source) + models * states +
         std::max(block + BlockForward(source.family(), c).scratch_bytes(chunks.longest(), !codes), head);
}

// KL divergence and agreement compare token by token: both models must mean the same by every id.
void check_comparable(const ModelSource& model, const ModelSource& reference, Tracker& tracker) {
  if (reference.config().vocab_size != model.config().vocab_size) {
    throw UnsupportedError(fmt::format(
        "--reference {}: expected a vocabulary of {} as in {}, found {}: no model of the same tokenizer",
        reference.path(), counted(model.config().vocab_size, "token"), model.path(), reference.config().vocab_size));
  }
  const Tokenizer& a = model.tokenizer();
  const Tokenizer& b = reference.tokenizer();
  const int64_t shared = std::min(a.vocab_size(), b.vocab_size());
  for (int64_t id = 0; id < shared; ++id) {
    const auto token = static_cast<int32_t>(id);
    const std::string ours = token_text(a, token);
    const std::string theirs = token_text(b, token);
    if (ours != theirs) {
      throw UnsupportedError(fmt::format(
          "--reference {}: expected the tokenizer of {}, found another: token {} is {} there and {} here; what they "
          "say of a token cannot be compared",
          reference.path(), model.path(), id, shown(theirs), shown(ours)));
    }
  }
  if (a.vocab_size() != b.vocab_size()) {
    tracker.warn(fmt::format("the tokenizer of {} has {}, that of {} {}; those that both have are the same",
                             model.path(), counted(a.vocab_size(), "token"), reference.path(), b.vocab_size()));
  }
  if (model.family().name != reference.family().name) {
    tracker.warn(fmt::format("{} is of the family {}, {} of {}: the reference is not what this model was made from",
                             model.path(), model.family().name, reference.path(), reference.family().name));
  }
  if (a.adds_bos() != b.adds_bos()) {
    tracker.warn(
        fmt::format("only one of the two tokenizers adds a BOS token; both models get what {} settles (--bos decides)",
                    model.path()));
  }
}

// Two tokenizers with one vocabulary may still differ in merges or normalization. Comparing the tokens of the text
// finds this.
void check_same_tokens(const ModelSource& model, const ModelSource& reference, const std::string& path) {
  std::string text;
  TextReader(path).read(text);
  const std::string probe = text.substr(0, kProbeBytes);
  const size_t whole = probe.size() == text.size() ? probe.size() : probe.rfind(' ');
  const std::string words = probe.substr(0, whole == std::string::npos || whole == 0 ? 0 : whole);
  if (model.tokenizer().encode(words, false) == reference.tokenizer().encode(words, false)) return;
  throw UnsupportedError(fmt::format(
      "--reference {}: expected the tokenizer of {}, found another: it cuts the beginning of {} into other tokens",
      reference.path(), model.path(), path));
}

}  // namespace

Evaluation evaluate_model(const std::string& model, const std::string& reference, const EvaluationOptions& options,
                          const MachineOptions& machine, const Observer& observer,
                          const ComputeOptions& compute_options) try {
  machine_options().check_ranges(machine);
  metal_marlin::compute_options().check_ranges(compute_options);
  if (options.text.empty()) throw ArgumentError("text", "--text: expected a file to evaluate on");
  check_sizes(options);
  check_memory_budget(machine.memory_bytes);
  const ThreadCount thread_count(machine.threads);
  TextReader(options.text);  // refuses what is no text, before the model is loaded
  Tracker tracker(observer);
  tracker.enter("load", 0, 1);
  const auto source = ModelSource::open(model);
  source->check();
  std::unique_ptr<ModelSource> other;
  if (!reference.empty()) {
    other = ModelSource::open(reference);
    other->check();
    check_comparable(*source, *other, tracker);
  }
  for (const ModelSource* s : {source.get(), other.get()}) {
    if (s == nullptr) continue;
    tracker.warn_of(s->warnings());
  }
  for (const std::string& warning : source->tokenizer().warnings()) tracker.warn(warning);
  const TokenSet chunks = evaluation_chunks(options, source->tokenizer());
  warn_of_few_chunks(options, chunks, tracker);
  warn_beyond_positions(*source, chunks.longest(), tracker);
  if (other) check_same_tokens(*source, *other, options.text);
  const Compute compute = compute_of(compute_options, machine, *source, false);
  const uint64_t models = other ? 2 : 1;
  const bool codes = compute.codes && !other;
  const bool spill = evaluation_bytes(*source, chunks, models, codes) > memory_budget(machine);
  const uint64_t state_bytes =
      models * static_cast<uint64_t>(chunks.tokens() * source->config().hidden_size) * sizeof(float);
  if (const uint64_t least = evaluation_bytes(*source, chunks, models, codes) - state_bytes;
      least > memory_budget(machine)) {
    throw SystemError(fmt::format("--memory: {} MiB are allowed, at least {} MiB are needed for one block and the head",
                                  memory_budget(machine) >> 20, least >> 20));
  }
  for (const ModelSource* s : {source.get(), other.get()}) {
    if (s == nullptr) continue;
    // A NaN in a block reaches every logit and is found there. One in these tensors may touch only a token that the
    // text does not hold.
    const Family& family = s->family();
    for (const std::string& name : {family.embedding, family.final_norm, family.head})
      if (s->has(name)) s->check_finite(name);
  }
  // One model on its way through the chunks.
  const auto stream_of = [&](const ModelSource& s, const Compute& c, const char* name) {
    StreamOptions o;
    o.precision = c.precision;
    o.codes = c.codes;
    if (spill) o.scratch = (temporary_folder() / name).string();
    auto stream = std::make_unique<Stream>(s, chunks.lengths(), o);
    stream->embed(chunks);
    return stream;
  };
  const std::unique_ptr<Stream> stream = stream_of(*source, compute, "model");
  const std::unique_ptr<Stream> reference_stream = other ? stream_of(*other, Compute{}, "reference") : nullptr;
  const int64_t own_layers = source->config().num_hidden_layers;
  const int64_t other_layers = other ? other->config().num_hidden_layers : 0;
  const LayerLoop loop{.stage = "evaluate", .layers = std::max(own_layers, other_layers), .work_after = 0.8};
  for_each_layer(loop, tracker, [&](int64_t layer) {
    if (layer < own_layers) stream->pass_source(layer);
    if (layer < other_layers) reference_stream->pass_source(layer);
  });
  Metrics metrics(source->path(), other ? other->path() : std::string());
  {
    const Head head(*source, compute.precision, compute.head);
    std::unique_ptr<Head> reference_head;
    if (other) reference_head = std::make_unique<Head>(*other);
    std::optional<FinalStates> reference_states;
    if (other) reference_states.emplace(FinalStates{*reference_head, *reference_stream});
    score({head, *stream}, reference_states, chunks.sequences, metrics, [&](int64_t done, int64_t total) {
      tracker.set_fraction(0.8 + 0.2 * static_cast<double>(done) / static_cast<double>(total));
      tracker.enter("score", done, total);
    });
  }
  tracker.enter("done", 1, 1);
  Evaluation result{metrics.result()};
  const ModelSize size = model_size(*source);
  result.model.bits_per_weight = size.bits_per_weight();
  result.model.bytes = static_cast<int64_t>(size.bytes);
  return result;
} catch (...) {
  rethrow_as_error("evaluate_model");
}

}  // namespace metal_marlin
