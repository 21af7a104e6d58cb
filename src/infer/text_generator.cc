#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <future>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>

#include "checkpoint/model_source.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/interrupt.h"
#include "core/machine.h"
#include "core/threads.h"
#include "infer/bad_logits.h"
#include "infer/compute.h"
#include "infer/decoder.h"
#include "infer/generation.h"
#include "infer/prompt_lookup.h"
#include "model/model.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/grammar.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

constexpr int64_t kMostBatch = 1024;
constexpr uint64_t kReserve = 256u << 20;  // program, tokenizer, cache of a usual conversation

}  // namespace

struct TextGenerator::Impl {
  std::unique_ptr<ModelSource> source;
  std::unique_ptr<Decoder> decoder;
  std::vector<int32_t> held;  // the tokens whose keys and values the decoder has
  std::unique_ptr<Head> head;
  std::unique_ptr<Grammars> grammars;  // made when the first is asked for
  double load_seconds = 0;
  int threads = 0;      // as MachineOptions has it
  bool warned = false;  // of what opening the model and its tokenizer found

  Impl(const std::string& model, const MachineOptions& machine, bool for_chat, const ComputeOptions& compute_options);
  void warn(const GenerateOptions& options);
  std::optional<Grammar> grammar_of(const GenerateOptions& options);
  std::string run(std::vector<int32_t> prompt, const GenerateOptions& options,
                  const std::function<bool(const std::string&)>& on_text, GenerateStats* stats);
  // A prompt of a batch: its tokens, or why there are none.
  struct Prompt {
    std::vector<int32_t> tokens;
    GenerateOptions options;
    std::exception_ptr failure;
  };
  void run_batch(std::vector<Prompt> prompts, int64_t sequences,
                 const std::function<bool(size_t, const BatchAnswer&)>& on_answer,
                 const std::function<bool()>& on_step);
  std::vector<float> logits(std::span<const int32_t> tokens);
  std::vector<int32_t> conversation_tokens(const std::vector<std::pair<std::string, std::string>>& messages,
                                           const GenerateOptions& options) const;
  std::vector<int32_t> prompt_tokens(std::string_view text, bool special, const GenerateOptions& options) const;
};

TextGenerator::Impl::Impl(const std::string& model, const MachineOptions& machine, bool for_chat,
                          const ComputeOptions& compute_options) {
  const double start = wall_seconds();
  threads = machine.threads;
  const ThreadCount thread_count(threads, DefaultThreads::kCores);
  check_memory_budget(machine.memory_bytes);
  source = ModelSource::open(model);
  source->check();
  DecoderOptions options;
  const Compute compute = compute_of(compute_options, machine, *source, true);
  options.precision = compute.precision;
  options.codes = compute.codes;
  options.cache = compute.kv;
  if (machine.memory_bytes > 0) {
    const uint64_t other = Head::bytes(*source, compute.head) + kReserve;
    options.weight_bytes = machine.memory_bytes > other ? machine.memory_bytes - other : 0;
  }
  // The tokenizer takes as long as the weights of a small model: both are loaded at once where there are two threads.
  // Whatever is wrong with the tokenizer is said first, before weights are read in vain.
  std::future<void> tokenizer =
      std::async(metal_marlin::threads() > 1 ? std::launch::async : std::launch::deferred, [&] {
        const bool has_template = !source->tokenizer().chat_template().empty();
        if (for_chat && !has_template) {
          throw UnsupportedError(
              fmt::format("{}: expected a model with a chat template, found none; use generate", source->path()));
        }
        if (for_chat) static_cast<void>(ChatTemplate(source->tokenizer()));
      });
  const auto look_at_tokenizer = [&](int64_t, int64_t) {
    if (tokenizer.valid() && tokenizer.wait_for(std::chrono::seconds(0)) != std::future_status::timeout) {
      tokenizer.get();  // where it is deferred, here
    }
  };
  try {
    look_at_tokenizer(0, 0);
    decoder = std::make_unique<Decoder>(*source, options, look_at_tokenizer);
    head = std::make_unique<Head>(*source, MatmulPrecision::kF32, compute.head);
  } catch (...) {
    if (tokenizer.valid()) tokenizer.get();
    throw;
  }
  if (tokenizer.valid()) tokenizer.get();
  load_seconds = wall_seconds() - start;
}

void TextGenerator::Impl::warn(const GenerateOptions& options) {
  if (!options.on_warning || std::exchange(warned, true)) return;
  for (const std::string& warning : source->warnings()) options.on_warning(warning);
  for (const std::string& warning : source->tokenizer().warnings()) options.on_warning(warning);
}

std::optional<Grammar> TextGenerator::Impl::grammar_of(const GenerateOptions& options) {
  if (options.json_schema.empty()) return {};
  if (grammars == nullptr) {
    grammars = std::make_unique<Grammars>(source->tokenizer(), head->vocab_size(), end_tokens(*source));
  }
  return grammars->of_schema(options.json_schema, options.json_schema_name);
}

std::string TextGenerator::Impl::run(std::vector<int32_t> prompt, const GenerateOptions& options,
                                     const std::function<bool(const std::string&)>& on_text, GenerateStats* stats) {
  const ThreadCount thread_count(threads, DefaultThreads::kCores);
  warn(options);
  Generation generation(*source, std::move(prompt), options, on_text, grammar_of(options));
  GenerateStats& result = generation.stats();
  const std::vector<int32_t>& tokens = generation.tokens();
  int64_t speculate = options.speculate;
  if (speculate > 0 && !decoder->can_truncate(0, 1)) {
    speculate = 0;
    if (options.on_warning) {
      options.on_warning(
          "speculation is off: this model's rotation follows the length of the text, which cannot go back");
    }
  }
  // Keep the beginning that the decoder has. The prompt's last token is always computed, for its logits.
  const auto known = std::min(tokens.size() - 1, held.size());
  auto reused =
      std::mismatch(held.begin(), held.begin() + static_cast<int64_t>(known), tokens.begin()).first - held.begin();
  held.clear();  // until the decoder is known to have them
  if (!decoder->can_truncate(0, reused)) reused = 0;
  decoder->truncate(0, reused);
  decoder->set_capacity(result.prompt_tokens + generation.most());
  result.load_seconds = load_seconds;
  result.reused_tokens = reused;
  double start = wall_seconds();
  Matrix states;
  if (!read_prompt(*decoder, std::span(tokens).subspan(static_cast<size_t>(reused)), states)) {
    result.stop = "caller";
    if (stats != nullptr) *stats = result;
    return {};
  }
  result.prompt_seconds = wall_seconds() - start;
  start = wall_seconds();

  // `states` has a row for the text's last token and one for each draft after it. `row` is that of the last token.
  std::vector<int32_t> drafts;
  size_t accepted = 0;
  int64_t row = states.rows() - 1;
  Matrix logits;
  const auto compute_logits = [&] {
    const int64_t rows = states.rows() - row;
    if (logits.rows() < rows) logits = Matrix(rows, head->vocab_size());
    head->logits(states.row(row).data(), rows, logits.data());
    row = 0;
  };
  try {
    if (generation.most() > 0) compute_logits();
    while (result.generated_tokens < generation.most() && generation.take(logits.row(row))) {
      // Tokens that print nothing reach no caller, who therefore cannot stop them.
      if (interrupt_asked()) {
        result.stop = "caller";
        break;
      }
      const int32_t token = tokens.back();
      if (accepted < drafts.size() && drafts[accepted] == token) {
        ++accepted;
        ++row;
        continue;
      }
      result.accepted_tokens += static_cast<int64_t>(accepted);
      const auto before = static_cast<int64_t>(tokens.size()) - 1;
      if (decoder->length(0) > before) decoder->truncate(0, before);
      drafts = prompt_lookup(tokens, std::min(speculate, generation.most() - result.generated_tokens - 1));
      generation.cut(drafts);
      accepted = 0;
      result.drafted_tokens += static_cast<int64_t>(drafts.size());
      std::vector<int32_t> next{token};
      next.insert(next.end(), drafts.begin(), drafts.end());
      const int64_t rows[] = {static_cast<int64_t>(next.size())};
      decoder->run(next, rows, states);
      row = 0;
      compute_logits();
    }
    generation.finish();
    const auto have = std::min(static_cast<int64_t>(tokens.size()), decoder->length(0));
    if (decoder->can_truncate(0, have)) {
      decoder->truncate(0, have);
      held.assign(tokens.begin(), tokens.begin() + have);
    }
  } catch (const Interrupted&) {
    result.stop = "caller";
  }
  result.accepted_tokens += static_cast<int64_t>(accepted);
  result.generate_seconds = wall_seconds() - start;
  if (stats != nullptr) *stats = result;
  return generation.text();
}

void TextGenerator::Impl::run_batch(std::vector<Prompt> prompts, int64_t sequences,
                                    const std::function<bool(size_t, const BatchAnswer&)>& on_answer,
                                    const std::function<bool()>& on_step) {
  if (sequences < 1 || sequences > kMostBatch) {
    throw ArgumentError(fmt::format("batch of {}: expected 1 to {}", counted(sequences, "sequence"), kMostBatch));
  }
  const ThreadCount thread_count(threads, DefaultThreads::kCores);
  held.clear();
  struct Slot {
    size_t index = 0;
    double start = 0;
    std::unique_ptr<Generation> generation;
  };
  sequences = std::min(sequences, std::max<int64_t>(1, std::ssize(prompts)));
  std::vector<Slot> slots(static_cast<size_t>(sequences));
  decoder->reset(1, sequences);
  int64_t capacity = 1;
  size_t next = 0;
  bool wanted = true;
  Matrix states;
  Matrix logits(sequences, head->vocab_size());
  const auto end = [&](Slot& slot) {
    GenerateStats& stats = slot.generation->stats();
    stats.load_seconds = load_seconds;
    stats.generate_seconds = wall_seconds() - slot.start;
    wanted = on_answer(slot.index, {slot.generation->text(), {}, stats}) && wanted;
    slot.generation.reset();
  };
  const auto fail = [&](Slot& slot, const Error& error) {
    slot.generation.reset();
    wanted = on_answer(slot.index, {{}, error.what(), {}}) && wanted;
  };
  // Takes a token by logits [vocab], or none where there are no logits; hands the text out where it ends.
  const auto advance = [&](Slot& slot, std::span<const float> of_last) {
    try {
      if (!of_last.empty() && slot.generation->take(of_last)) return;
      slot.generation->finish();
    } catch (const FormatError& error) {  // the grammar cannot go on
      return fail(slot, error);
    }
    end(slot);
  };
  // Reads prompts until the slot has a text to go on with.
  const auto fill = [&](Slot& slot, int64_t sequence) {
    while (wanted && next < prompts.size() && slot.generation == nullptr) {
      slot.index = next++;
      Prompt& prompt = prompts[slot.index];
      try {
        if (prompt.failure) std::rethrow_exception(prompt.failure);
        slot.generation =
            std::make_unique<Generation>(*source, std::move(prompt.tokens), prompt.options,
                                         std::function<bool(const std::string&)>(), grammar_of(prompt.options));
      } catch (const Error& error) {
        fail(slot, error);
        continue;
      }
      Generation& g = *slot.generation;
      capacity = std::max(capacity, g.stats().prompt_tokens + g.most());
      decoder->set_capacity(capacity);
      decoder->truncate(sequence, 0);
      const double begin = wall_seconds();
      if (!read_prompt(*decoder, g.tokens(), states, sequence)) throw Interrupted("stopped while a prompt was read");
      slot.start = wall_seconds();
      g.stats().prompt_seconds = slot.start - begin;
      if (g.most() > 0) head->logits(states.row(states.rows() - 1).data(), 1, logits.data());
      advance(slot, g.most() > 0 ? logits.row(0) : std::span<const float>());
    }
  };
  while (wanted) {
    for (size_t s = 0; s < slots.size(); ++s) fill(slots[s], static_cast<int64_t>(s));
    if (interrupt_asked() || (on_step && !on_step())) throw Interrupted("stopped while texts were generated");
    std::vector<int32_t> ids;
    std::vector<int64_t> lengths;
    for (const Slot& slot : slots) {
      lengths.push_back(slot.generation == nullptr ? 0 : 1);
      if (slot.generation != nullptr) ids.push_back(slot.generation->tokens().back());
    }
    if (ids.empty()) break;
    decoder->run(ids, lengths, states);
    head->logits(states.data(), std::ssize(ids), logits.data());
    int64_t row = 0;
    for (Slot& slot : slots) {
      if (slot.generation != nullptr) advance(slot, logits.row(row++));
    }
  }
  decoder->reset(1, 1);  // gives the memory back
}

std::vector<float> TextGenerator::Impl::logits(std::span<const int32_t> tokens) {
  constexpr size_t kRows = 256;
  const ThreadCount thread_count(threads);
  const bool grows = source->config().rope.type == RopeType::kDynamic;
  const auto most = grows ? uint64_t{0} : static_cast<uint64_t>(source->config().max_position_embeddings);
  if (tokens.empty() || (most > 0 && tokens.size() > most)) {
    const std::string expected = most > 0 ? "1 to " + counted(most, "token") : "at least 1 token";
    throw ArgumentError(fmt::format("logits: expected {}, found {}", expected, tokens.size()));
  }
  held.clear();
  decoder->truncate(0, 0);
  decoder->set_capacity(std::ssize(tokens));
  const auto vocab = static_cast<size_t>(head->vocab_size());
  std::vector<float> out(tokens.size() * vocab);
  Matrix states;
  for (size_t first = 0; first < tokens.size(); first += kRows) {
    const auto piece = tokens.subspan(first, std::min(kRows, tokens.size() - first));
    if (!read_prompt(*decoder, piece, states)) throw Interrupted("stopped while logits were computed");
    head->logits(states.data(), std::ssize(piece), out.data() + first * vocab);
  }
  check_logits(*source, out);
  held.assign(tokens.begin(), tokens.end());
  return out;
}

// The text of an interrupt that comes before the first step.
static std::string nothing_yet(GenerateStats* stats) {
  if (stats != nullptr) {
    *stats = {};
    stats->stop = "caller";
  }
  return {};
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
  return impl_->run(impl_->prompt_tokens(prompt, true, options), options, on_text, stats);
} catch (const Interrupted&) {
  return nothing_yet(stats);
} catch (...) {
  rethrow_as_error("generate");
}

std::vector<int32_t> TextGenerator::Impl::conversation_tokens(
    const std::vector<std::pair<std::string, std::string>>& messages, const GenerateOptions& options) const {
  const Tokenizer& tokenizer = source->tokenizer();
  std::vector<ChatMessage> conversation;
  for (const auto& [role, content] : messages) conversation.push_back({role, content});
  const std::string text = ChatTemplate(tokenizer).apply(conversation, true);
  if (text.empty())
    throw FormatError(
        fmt::format("{}: the template writes nothing for this conversation", tokenizer.chat_template_place()));
  return prompt_tokens(text, false, options);
}

// Of a long text the beginning is tokenized first: where that alone exceeds the context, the rest is of no use.
std::vector<int32_t> TextGenerator::Impl::prompt_tokens(std::string_view text, bool special,
                                                        const GenerateOptions& options) const {
  constexpr size_t kShort = size_t{256} << 10;
  constexpr int64_t kMargin = 256;  // tokens at the end of a part that what follows may change
  const Tokenizer& tokenizer = source->tokenizer();
  const int64_t context = context_of(*source, options);
  for (size_t size = kShort; size < text.size() / 2; size *= 4) {
    size_t end = size;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    const auto ids = tokenizer.encode(text.substr(0, end), special);
    if (std::ssize(ids) - kMargin > context) {
      throw ArgumentError(
          fmt::format("the prompt has {}, of which the first {} alone are more than {}, the context; "
                      "shorten it or raise the context",
                      counted(text.size(), "byte"), end, counted(context, "token")));
    }
  }
  return tokenizer.encode(text, special);
}

std::string TextGenerator::chat(const std::vector<std::pair<std::string, std::string>>& messages,
                                const GenerateOptions& options, const std::function<bool(const std::string&)>& on_text,
                                GenerateStats* stats) try {
  return impl_->run(impl_->conversation_tokens(messages, options), options, on_text, stats);
} catch (const Interrupted&) {
  return nothing_yet(stats);
} catch (...) {
  rethrow_as_error("chat");
}

void TextGenerator::batch(const std::vector<BatchRequest>& requests, int64_t sequences,
                          const std::function<bool(size_t, const BatchAnswer&)>& on_answer,
                          const std::function<bool()>& on_step) try {
  std::vector<Impl::Prompt> prompts;
  for (const BatchRequest& request : requests) {
    Impl::Prompt& prompt = prompts.emplace_back();
    prompt.options = request.options;
    try {
      if (request.options.speculate > 0) {
        throw ArgumentError("speculate",
                            "speculate: expected 0, because the prompts of a batch share their steps and "
                            "nothing is drafted for them; leave it out, or generate one prompt at a time");
      }
      impl_->warn(request.options);
      prompt.tokens = request.messages.empty() ? impl_->prompt_tokens(request.prompt, true, request.options)
                                               : impl_->conversation_tokens(request.messages, request.options);
    } catch (const Error&) {
      prompt.failure = std::current_exception();
    }
  }
  impl_->run_batch(std::move(prompts), sequences, on_answer, on_step);
} catch (...) {
  rethrow_as_error("batch");
}

std::vector<int32_t> TextGenerator::tokenize(const std::string& text, bool special) const try {
  return impl_->source->tokenizer().encode(text, special);
} catch (...) {
  rethrow_as_error("tokenize");
}

std::string TextGenerator::detokenize(const std::vector<int32_t>& tokens) const try {
  return impl_->source->tokenizer().decode(tokens, false);
} catch (...) {
  rethrow_as_error("detokenize");
}

int64_t TextGenerator::vocab_size() const noexcept {
  return impl_->head->vocab_size();
}

std::vector<float> TextGenerator::logits(const std::vector<int32_t>& tokens) try {
  return impl_->logits(tokens);
} catch (...) {
  rethrow_as_error("logits");
}

}  // namespace metal_marlin
