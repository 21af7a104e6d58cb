#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "core/border.h"
#include "core/machine.h"
#include "core/random.h"
#include "core/threads.h"
#include "infer/compute.h"
#include "infer/decoder.h"
#include "infer/sampling.h"
#include "model/model.h"
#include "source/chat_template.h"
#include "source/interrupt.h"
#include "source/model_source.h"
#include "source/tokenizer.h"

namespace metal_marlin {
namespace {

constexpr int64_t kDefaultContext = 4096;
constexpr size_t kTextContext = 8;
constexpr uint64_t kReserve = 256u << 20;  // program, tokenizer, cache of a usual conversation

}  // namespace

struct TextGenerator::Impl {
  std::unique_ptr<ModelSource> source;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<Head> head;
  std::vector<int32_t> ends;
  double load_seconds = 0;
  int threads = 0;      // as MachineOptions has it
  bool warned = false;  // of what opening the model and its tokenizer found

  Impl(const std::string& model, const MachineOptions& machine, bool for_chat, const ComputeOptions& compute_options);
  std::string run(std::vector<int32_t> tokens, const GenerateOptions& options,
                  const std::function<bool(const std::string&)>& on_text, GenerateStats* stats);
};

TextGenerator::Impl::Impl(const std::string& model, const MachineOptions& machine, bool for_chat,
                          const ComputeOptions& compute_options) {
  const double start = wall_seconds();
  threads = machine.threads;
  const ThreadCount thread_count(threads);
  source = ModelSource::open(model);
  source->check();
  if (for_chat && source->tokenizer().chat_template().empty()) {
    throw UnsupportedError(
        fmt::format("{}: expected a model with a chat template, found none; use generate", source->path()));
  }
  if (for_chat) static_cast<void>(ChatTemplate(source->tokenizer()));  // says what is wrong with it before the weights
  DecoderOptions options;
  const Compute compute = compute_of(compute_options, machine, *source, true);
  options.precision = compute.precision;
  options.codes = compute.codes;
  const auto head_bytes = static_cast<uint64_t>(source->config().vocab_size * source->config().hidden_size) * 2;
  if (machine.memory_bytes > 0) {
    const uint64_t other = head_bytes + kReserve;
    options.weight_bytes = machine.memory_bytes > other ? machine.memory_bytes - other : 0;
  }
  decoder = std::make_unique<Decoder>(*source, options);
  head = std::make_unique<Head>(*source, ComputeType::kF32, compute.head);
  ends = source->config().eos_token_ids;
  const auto& more = source->tokenizer().eos_ids();
  ends.insert(ends.end(), more.begin(), more.end());
  load_seconds = wall_seconds() - start;
}

std::string TextGenerator::Impl::run(std::vector<int32_t> tokens, const GenerateOptions& options,
                                     const std::function<bool(const std::string&)>& on_text, GenerateStats* stats) {
  const ThreadCount thread_count(threads);
  Sampler sampler(sampling_options(options));
  if (options.on_warning && !std::exchange(warned, true)) {
    for (const std::string& warning : source->warnings()) options.on_warning(warning);
    for (const std::string& warning : source->tokenizer().warnings()) options.on_warning(warning);
  }
  if (options.predict < -1) throw ArgumentError(fmt::format("predict {}: expected a number >= -1", options.predict));
  if (options.context < 0) throw ArgumentError(fmt::format("context {}: expected a number >= 0", options.context));
  const int64_t own = source->config().max_position_embeddings;
  const int64_t context =
      options.context > 0 ? options.context : (own > 0 ? std::min(own, kDefaultContext) : kDefaultContext);
  const auto prompt = static_cast<int64_t>(tokens.size());
  if (prompt == 0)
    throw ArgumentError("the prompt is empty and the tokenizer adds no BOS token; give at least one word");
  if (prompt > context) {
    throw ArgumentError(
        fmt::format("the prompt has {} tokens, the context {}; shorten it or raise the context", prompt, context));
  }
  if (const std::string idle = ignored_sampling_warning(options); options.on_warning && !idle.empty())
    options.on_warning(idle);
  const int64_t most = options.predict < 0 ? context - prompt : std::min(options.predict, context - prompt);
  const bool grows = source->config().rope.type == RopeType::kDynamic;
  if (options.on_warning && own > 0 && prompt + most > own && !grows) {
    options.on_warning(
        fmt::format("{} tokens of prompt and {} to generate exceed the {} positions that the model was made for "
                    "(max_position_embeddings): what comes after them may be worthless",
                    prompt, most, own));
  }
  decoder->reset(prompt + most);

  GenerateStats result;
  result.load_seconds = load_seconds;
  result.prompt_tokens = prompt;
  result.stop = "length";
  double start = wall_seconds();
  Matrix states;
  if (!read_prompt(*decoder, tokens, states)) {
    result.stop = "caller";
    if (stats != nullptr) *stats = result;
    return {};
  }
  result.prompt_seconds = wall_seconds() - start;
  start = wall_seconds();

  const Tokenizer& tokenizer = source->tokenizer();
  StreamDecoder stream(tokenizer);
  // Decode with the end of the prompt as context, because decoders drop the space in front of a text's first word.
  for (const int32_t token : std::span(tokens).last(std::min(tokens.size(), kTextContext))) stream.push(token);
  Random random(options.seed);
  std::vector<float> logits(static_cast<size_t>(head->vocab_size()));
  std::string text;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    return piece.empty() || !on_text || on_text(piece);
  };
  bool wanted = true;
  while (wanted && result.generated_tokens < most) {
    head->logits(states.row(states.rows() - 1).data(), 1, logits.data());
    const int32_t token = sampler.sample(logits, tokens, random);
    ++result.generated_tokens;
    if (!options.ignore_eos && std::find(ends.begin(), ends.end(), token) != ends.end()) {
      result.stop = "eos";
      break;
    }
    tokens.push_back(token);
    // Tokens that print nothing reach no caller, who therefore cannot stop them.
    wanted = emit(stream.push(token)) && !interrupt_asked();
    if (!wanted) result.stop = "caller";
    if (wanted && result.generated_tokens < most) {
      constexpr int64_t kOne[] = {1};
      decoder->run(std::span(&token, 1), kOne, states);
    }
  }
  if (wanted) emit(stream.finish());
  result.generate_seconds = wall_seconds() - start;
  if (stats != nullptr) *stats = result;
  return text;
}

TextGenerator::TextGenerator(const std::string& model, const MachineOptions& machine, bool for_chat,
                             const ComputeOptions& compute) try
    : impl_(std::make_unique<Impl>(model, machine, for_chat, compute)) {
} catch (...) {
  rethrow_as_error("TextGenerator");
}
TextGenerator::~TextGenerator() = default;
TextGenerator::TextGenerator(TextGenerator&&) noexcept = default;

bool TextGenerator::has_chat_template() const try {
  return !impl_->source->tokenizer().chat_template().empty();
} catch (...) {
  rethrow_as_error("has_chat_template");
}

std::string TextGenerator::generate(const std::string& prompt, const GenerateOptions& options,
                                    const std::function<bool(const std::string&)>& on_text, GenerateStats* stats) try {
  return impl_->run(impl_->source->tokenizer().encode(prompt, true), options, on_text, stats);
} catch (...) {
  rethrow_as_error("generate");
}

std::string TextGenerator::chat(const std::vector<std::pair<std::string, std::string>>& messages,
                                const GenerateOptions& options, const std::function<bool(const std::string&)>& on_text,
                                GenerateStats* stats) try {
  const Tokenizer& tokenizer = impl_->source->tokenizer();
  std::vector<ChatMessage> conversation;
  for (const auto& [role, content] : messages) conversation.push_back({role, content});
  const std::string text = ChatTemplate(tokenizer).apply(conversation, true);
  if (text.empty())
    throw FormatError(
        fmt::format("{}: the template writes nothing for this conversation", tokenizer.chat_template_place()));
  return impl_->run(tokenizer.encode(text, false), options, on_text, stats);
} catch (...) {
  rethrow_as_error("chat");
}

}  // namespace metal_marlin
