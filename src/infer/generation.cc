#include "infer/generation.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <utility>

#include "checkpoint/model_source.h"
#include "core/counted.h"
#include "infer/bad_logits.h"
#include "options/ignored.h"
#include "options/tables.h"

namespace metal_marlin {
namespace {

constexpr int64_t kDefaultContext = 4096;
constexpr size_t kTextContext = 8;

}  // namespace

std::vector<int32_t> end_tokens(const ModelSource& source) {
  std::vector<int32_t> ends = source.config().eos_token_ids;
  const auto& more = source.tokenizer().eos_ids();
  ends.insert(ends.end(), more.begin(), more.end());
  return ends;
}

int64_t context_of(const ModelSource& source, const GenerateOptions& options) {
  const int64_t own = source.config().max_position_embeddings;
  return options.context > 0 ? options.context : (own > 0 ? std::min(own, kDefaultContext) : kDefaultContext);
}

Generation::Generation(const ModelSource& source, std::vector<int32_t> tokens, const GenerateOptions& options,
                       std::function<bool(const std::string&)> on_text, std::optional<Grammar> grammar)
    : source_(source),
      tokens_(std::move(tokens)),
      ends_(end_tokens(source)),
      ignore_eos_(options.ignore_eos && !grammar),
      sampler_(sampling_options(options), source.path()),
      random_(options.seed),
      stream_(source.tokenizer()),
      stops_(options.stop),
      on_text_(std::move(on_text)),
      on_warning_(options.on_warning),
      grammar_(std::move(grammar)) {
  const int64_t own = source.config().max_position_embeddings;
  const int64_t context = context_of(source, options);
  const auto prompt = static_cast<int64_t>(tokens_.size());
  if (prompt == 0)
    throw ArgumentError("the prompt is empty and the tokenizer adds no BOS token; give at least one word");
  if (prompt > context) {
    throw ArgumentError(fmt::format("the prompt has {}, the context {}; shorten it or raise the context",
                                    counted(prompt, "token"), context));
  }
  most_ = options.predict < 0 ? context - prompt : std::min(options.predict, context - prompt);
  if (options.on_warning) {
    const std::string idle = ignored_options_warning(ignored_of(generate_options(), options, options));
    if (!idle.empty()) options.on_warning(idle);
    if (grammar_ && options.ignore_eos) {
      options.on_warning(fmt::format("ignore_eos is without effect beside {}: the text ends with the JSON value",
                                     options.json_schema_name));
    }
    const bool grows = source.config().rope.type == RopeType::kDynamic;
    if (own > 0 && prompt + most_ > own && !grows) {
      options.on_warning(
          fmt::format("{} of prompt and {} to generate exceed the {} that the model was made for "
                      "(max_position_embeddings): what comes after them may be worthless",
                      counted(prompt, "token"), most_, counted(own, "position")));
    }
  }
  // Decode with the end of the prompt as context, because decoders drop the space in front of a text's first word.
  for (const int32_t token : std::span(tokens_).last(std::min(tokens_.size(), kTextContext))) stream_.push(token);
  stats_.prompt_tokens = prompt;
  stats_.stop = "length";
}

void Generation::emit(const std::string& piece) {
  text_ += piece;
  if (!piece.empty() && on_text_ && !on_text_(piece)) stats_.stop = "caller";
}

bool Generation::take(std::span<const float> logits) {
  if (grammar_) {
    masked_.assign(logits.begin(), logits.end());
    grammar_->mask(masked_);
    logits = masked_;
  }
  const int32_t token = with_bad_logits_explained(source_, [&] { return sampler_.sample(logits, tokens_, random_); });
  ++stats_.generated_tokens;
  if (!ignore_eos_ && std::find(ends_.begin(), ends_.end(), token) != ends_.end()) {
    stats_.stop = "eos";
    return false;
  }
  tokens_.push_back(token);
  const bool complete = grammar_ && grammar_->take(token);
  emit(stops_.push(stream_.push(token)));
  if (stops_.stopped() && stats_.stop == "length") stats_.stop = "string";
  if (complete && stats_.stop == "length") stats_.stop = "eos";
  return stats_.stop == "length" && stats_.generated_tokens < most_;
}

void Generation::cut(std::vector<int32_t>& drafts) {
  if (grammar_ && !drafts.empty()) drafts.resize(grammar_->fitting(drafts));
}

void Generation::finish() {
  if (grammar_ && on_warning_ && stats_.stop == "length" && !grammar_->may_end()) {
    on_warning_(fmt::format("the JSON is incomplete: the limit of {} ended it; raise the limit (predict, context)",
                            counted(most_, "token")));
  }
  if (stats_.stop == "caller" || stops_.stopped()) return;
  emit(stops_.push(stream_.finish()));
  emit(stops_.finish());
  if (stops_.stopped()) stats_.stop = "string";
}

}  // namespace metal_marlin
