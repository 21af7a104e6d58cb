#include "pipeline/ignored_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "pipeline/mixed_bits.h"
#include "pipeline/texts.h"

namespace metal_marlin {
namespace {

class List {
 public:
  explicit List(const std::vector<std::string>& given) : given_(given) {}
  void add(const char* name, bool used, bool changed, const std::string& reason) {
    if (used) return;
    const bool asked = changed || std::find(given_.begin(), given_.end(), name) != given_.end();
    options_.push_back({name, reason, asked});
  }
  void add_self_text(const CalibrationOptions& c) {
    const CalibrationOptions defaults;
    const bool self = has_source(c, SourceKind::kSelf);
    add("seed", self, c.seed != defaults.seed, "only --calibration self uses it");
    add("temperature", self, c.temperature != defaults.temperature, "only --calibration self uses it");
    add("calibration-weights", c.calibration.size() > 1 || c.calibration_weights.empty(), true,
        "there is one source alone");
  }
  std::vector<IgnoredOption> take() { return std::move(options_); }

 private:
  const std::vector<std::string>& given_;
  std::vector<IgnoredOption> options_;
};

}  // namespace

std::vector<IgnoredOption> ignored_options(const QuantizeOptions& o, const Recipe& r) {
  const QuantizeOptions defaults;
  const CalibrationOptions& c = o.calibration;
  const bool npz = from_statistics(c);
  const bool named_text = !o.evaluation.text.empty() && o.evaluation.text != "none";
  const bool gptq = r.rounding == Rounding::kGptq;
  const std::string how = rounding_option(o);
  const std::string no_scales = o.scale_search == "off" ? "--scale-search off searches no scales"
                                                        : fmt::format("--method {} searches no scales", o.method);
  List list(o.given);
  list.add("effort", o.method == "awq", o.effort != defaults.effort, fmt::format("--method {} has only one", o.method));
  list.add("salient-ratio", r.scales == ScaleMethod::kSalient, o.salient_ratio != defaults.salient_ratio,
           o.method == "awq-salient" ? no_scales : "only --method awq-salient uses it");
  list.add("activation-method", r.scales != ScaleMethod::kNone, o.activation_method != defaults.activation_method,
           no_scales);
  list.add("awq-loss", r.scales == ScaleMethod::kAwq && (r.scale_loss == ScaleLoss::kBlock || o.awq_loss != "block"),
           o.awq_loss != defaults.awq_loss,
           r.scales == ScaleMethod::kNone      ? no_scales
           : r.scales == ScaleMethod::kSalient ? "--method awq-salient has no search"
                                               : "statistics from a file hold no inputs of blocks to replay");
  list.add("sensitivity-tokens", chooses_bits(o), o.sensitivity_tokens != defaults.sensitivity_tokens,
           "only --target-bits and --bits mixed use it");
  list.add("damping", gptq || r.refine, o.damping != defaults.damping, how + " rounds without the Gram matrix");
  list.add("guard", gptq && !npz, o.guard != defaults.guard,
           npz                         ? "the statistics come from a file, in which no tokens are apart"
           : o.error_feedback == "off" ? "--error-feedback off leaves nothing to judge"
                                       : how + " has no error feedback");
  list.add("act-order", gptq, o.act_order != defaults.act_order, how + " rounds each weight by itself");
  const std::string from_file = "the statistics come from a file";
  list.add("samples", !npz, c.samples != defaults.calibration.samples, from_file);
  list.add("sequence-length", !npz, c.sequence_length != defaults.calibration.sequence_length, from_file);
  list.add("first-token-weight", needs_gram(r), o.first_token_weight != defaults.first_token_weight,
           "nothing that was chosen looks at Gram matrices");
  list.add("precision", !npz, o.machine.precision != defaults.machine.precision, from_file);
  list.add(
      "builtin-share", from_files(c) || o.builtin_share == 0, o.builtin_share > 0,
      npz ? from_file : "only texts in files take such a share beside them; --calibration may name builtin itself");
  list.add_self_text(c);
  list.add("bos", !npz || named_text, c.bos != defaults.calibration.bos, "no text is read");
  list.add("chunks", named_text, o.evaluation.chunks != defaults.evaluation.chunks, "only --evaluate FILE uses it");
  const bool held_back_text = (has_source(c, SourceKind::kText) || has_source(c, SourceKind::kBuiltin) ||
                               has_source(c, SourceKind::kConversations)) &&
                              o.evaluation.text.empty();
  list.add(
      "context", named_text || held_back_text, o.evaluation.context != defaults.evaluation.context,
      o.evaluation.text == "none" || npz ? "nothing is evaluated" : "self-made text is evaluated by --sequence-length");
  return list.take();
}

std::vector<IgnoredOption> ignored_options(const CalibrationOptions& c) {
  List list(c.given);
  list.add_self_text(c);
  return list.take();
}

std::string ignored_options_warning(const std::vector<IgnoredOption>& ignored) {
  std::vector<std::string> parts;
  for (const IgnoredOption& o : ignored) {
    if (o.asked) parts.push_back(fmt::format("--{} ({})", o.name, o.reason));
  }
  return parts.empty() ? std::string() : fmt::format("without effect: {}", fmt::join(parts, ", "));
}

}  // namespace metal_marlin
