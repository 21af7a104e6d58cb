// Options of quantize_model.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "layouts/layouts.h"
#include "options/choices.h"
#include "options/sources.h"
#include "options/tables.h"
#include "write/outer_types.h"

namespace metal_marlin {
namespace {

using Options = QuantizeOptions;
using Table = OptionTable<Options>;

bool by_gram(const Options& in_force) {
  return in_force.range == RangeChoice::kGram || in_force.range == RangeChoice::kDiagonal;
}
bool feeds_back(const Options& in_force) {
  return in_force.error_feedback == true;
}
bool writes_gguf(const Options& asked) {
  return std::any_of(asked.formats.begin(), asked.formats.end(), [](const std::string& format) {
    const Layout* layout = find_layout(format);
    return layout != nullptr && layout->container() == ContainerKind::kGguf;
  });
}
bool mlx_holds(int64_t bits) {
  return layout_named("mlx").holds_width(bits);
}
std::vector<std::string> outer_type_choices() {
  std::vector<std::string> choices = {"auto"};
  for (const std::string& name : outer_type_names()) choices.push_back(name);
  return choices;
}
std::string no_scales(const Options& asked) {
  return asked.scale_search == false ? "--scale-search off searches no scales"
                                     : fmt::format("--method {} searches no scales", name_of(asked.method));
}

// --bits takes "mixed" beside the numbers: it stands for QuantizeOptions::mixed_bits.
bool set_bits(Options& o, const OptionValue& value) {
  if (const auto* bits = std::get_if<int64_t>(&value)) return set_option(o.bits, value) && *bits != 0;
  const auto* text = std::get_if<std::string>(&value);
  if (text == nullptr) return false;
  const bool digit = text->size() == 1 && text->front() >= '2' && text->front() <= '8';
  if (!digit && *text != "mixed") return false;
  o.mixed_bits = *text == "mixed";
  o.bits = o.mixed_bits ? 4 : text->front() - '0';
  return true;
}

void add_input(Table& t) {
  t.group("Input and result");
  t.add(
       "--format", [](auto& o) -> auto& { return o.formats; },
       "Checkpoint format; several, separated by commas, come from one calibration into one subfolder each")
      .of_kind(OptionKind::kChoices)
      .one_of(checkpoint_formats())
      .keyed("formats");
  t.add(
       "--max-shard-size", [](auto& o) -> auto& { return o.max_shard_bytes; },
       "Most bytes of tensors in one file; larger checkpoints have several")
      .of_kind(OptionKind::kBytes)
      .by_default("5 GB")
      .keyed("max_shard_bytes")
      .shapes_nothing();
  t.add(
       "--embedding-bits", [](auto& o) -> auto& { return o.embedding_bits; },
       "mlx: bits of the embedding and the head, rounded row by row; 16: they stay in float16")
      .of_kind(OptionKind::kInteger)
      .in_range(2, 16)
      .must([](int64_t n) { return n == 16 || mlx_holds(n); }, "2, 3, 4, 5, 6, 8 or 16")
      .idle([](const Options& asked, const Options&) {
        const bool held = std::any_of(asked.formats.begin(), asked.formats.end(), [](const std::string& format) {
          const Layout* layout = find_layout(format);
          return layout != nullptr && layout->holds_embedding();
        });
        return held ? std::string() : "only mlx holds an embedding as codes";
      });
  for (const char* part : {"embedding", "head"}) {
    const bool head = part == std::string_view("head");
    t.add(
         fmt::format("--{}-type", part), [head](auto& o) -> auto& { return head ? o.head_type : o.embedding_type; },
         head ? "GGUF: type of the head, and of an embedding that is the head; auto: Q6_K, or Q8_0 where 256 does not "
                "divide its columns"
              : "GGUF: type of the embedding where it is not the head; auto: that of most linears")
        .of_kind(OptionKind::kChoice)
        .called("auto|F16|Q8_0|Q6_K|...")
        .one_of(outer_type_choices())
        .idle([](const Options& asked, const Options&) {
          return writes_gguf(asked) ? std::string() : "only GGUF formats have types for it";
        });
  }
  t.add(
       "--resume", [](auto& o) -> auto& { return o.resume; },
       "Continue an interrupted run of the same model and options")
      .of_kind(OptionKind::kToggle)
      .shapes_nothing();
  t.add(
       "--overwrite", [](auto& o) -> auto& { return o.overwrite; },
       "Replace a result or an interrupted run of this program in OUT")
      .shapes_nothing();
}

void add_quantization(Table& t) {
  t.group("Quantization");
  t.add(
      "--method", [](auto& o) -> auto& { return o.method; },
      "awq: the best recipe: scales searched, ranges by the Gram matrix, error feedback, refinement; awq-paper: scales "
      "and clips searched as published; awq-salient: only salient channels scaled; gptq: error feedback; rtn: plain "
      "rounding");
  t.add(
       "--effort", [](auto& o) -> auto& { return o.effort; },
       "awq: fast: 16 calibration sequences unless --samples says otherwise, refinement without error feedback, no "
       "guard: a third of the time, less accurate")
      .idle([](const Options& asked, const Options&) {
        return asked.method == Method::kAwq ? std::string()
                                            : fmt::format("--method {} has only one", name_of(asked.method));
      });
  t.add(
      "--scheme", [](auto& o) -> auto& { return o.scheme; },
      "asym: codes with a zero point, 0..15 at 4 bits; sym: signed codes, -8..7 at 4 bits");
  OptionRow<Options>& bits =
      t.add(
           "--bits", [](auto& o) -> auto& { return o.bits; },
           "Bits of a code; awq and marlin hold 4, gptq 2, 4 and 8, gptq_v2 2, 3, 4 and 8, native 3, 4 and 8, mlx all "
           "but 7, compressed-tensors all, GGUF's types their own; mixed: each linear its own, as --target-bits or "
           "--max-kl says")
          .of_kind(OptionKind::kChoice)
          .one_of({"2", "3", "4", "5", "6", "7", "8", "mixed"})
          .in_python("Literal[2, 3, 4, 5, 6, 7, 8, \"mixed\"]");
  bits.set = set_bits;
  t.add(
       "--target-bits", [](auto& o) -> auto& { return o.target_bits; },
       "Bits per weight of the linears at most: codes, 16 bits for each scale and, with --scheme asym, a zero of a "
       "code's width (what a layout adds, such as the 16-bit zeros of native, is reported, not counted). Bits and "
       "group "
       "size are chosen for each linear (q,k,v and gate,up alike) by the KL divergence that its quantization causes")
      .in_range(2, 16)
      .by_default("none");
  t.add(
       "--group-size", [](auto& o) -> auto& { return o.group_size; },
       "Weights that share a scale; auto: 128 where it divides every in_features, else 64, else 32; -1: a whole row")
      .called("auto|128|64|32|-1")
      .one_of({"auto", "128", "64", "32", "-1"})
      .must([](int64_t n) { return n == -1 || (n > 0 && n % 8 == 0); }, "auto, -1 or a multiple of 8 such as 32")
      .in_python("int");
  t.add(
       "--skip", [](auto& o) -> auto& { return o.skip; },
       "Shell pattern of weight names that stay in 16 bits, e.g. '*.layers.0.*'")
      .called("PATTERN");
  t.add(
      "mixed-bits", [](auto& o) -> auto& { return o.mixed_bits; },
      "Without target_bits: the fewest bits whose estimated KL divergence meets max_kl");
}

void add_choices(Table& t) {
  t.advanced();
  t.add(
       "--sensitivity-tokens", [](auto& o) -> auto& { return o.sensitivity_tokens; },
       "Tokens of the calibration text on which KL divergences are measured")
      .in_range(1, int64_t{1} << 24)
      .idle([](const Options& asked, const Options&) {
        return std::string(chooses_bits(asked) ? "" : "only --target-bits and --bits mixed use it");
      });
  t.add(
       "--linear-bits", [](auto& o) -> auto& { return o.linear_bits; },
       "Bits (2 to 8; 16: not quantized) and group size of the weights whose names match a shell pattern, e.g. "
       "'*.down_proj.*=8'; the last that matches counts")
      .called("PATTERN=BITS[:GROUP]");
  t.add(
       "--range", [](auto& o) -> auto& { return o.range; },
       "How the range of a group is chosen: auto: the method's own; absmax: largest magnitude (asym: min and max); "
       "mse: "
       "least error of the weights; gram: least error of the outputs; diagonal: the same as if the group's channels "
       "were uncorrelated")
      .follows_method();
  t.add("--clip", [](auto& o) -> auto& { return o.clip; }, "Clip search; auto: on for awq-paper").follows_method();
  t.add(
       "--guard", [](auto& o) -> auto& { return o.guard; },
       "Judge error feedback and refinement of each linear on the last eighth of the calibration sequences: as much "
       "damping as does well there, plainer rounding where they do worse; auto: on for awq")
      .follows_method()
      .idle([](const Options& asked, const Options& in_force) -> std::string {
        if (feeds_back(in_force) && !from_statistics(asked.calibration)) return "";
        if (from_statistics(asked.calibration)) return "the statistics come from a file, in which no tokens are apart";
        return asked.error_feedback == false ? "--error-feedback off leaves nothing to judge"
                                             : rounding_option(asked) + " has no error feedback";
      });
  t.add(
       "--awq-loss", [](auto& o) -> auto& { return o.awq_loss; },
       "Loss of the scale search: linear: output error of the linears that share the input; feedback: the same after "
       "error feedback; block: the block is run again on a part of the tokens; auto: feedback for awq, else linear")
      .follows_method()
      .idle([](const Options& asked, const Options& in_force) -> std::string {
        if (in_force.scale_search != true) return no_scales(asked);
        if (asked.method == Method::kAwqSalient) return "--method awq-salient has no search";
        return asked.awq_loss == ScaleLoss::kBlock && in_force.awq_loss != ScaleLoss::kBlock
                   ? "statistics from a file hold no inputs of blocks to replay"
                   : "";
      });
  t.add(
       "--first-token-weight", [](auto& o) -> auto& { return o.first_token_weight; },
       "How many times the first token of a sequence counts in the Gram matrices: every other token attends to it")
      .in_range(1, 1e6)
      .by_default("9 for awq, else 1")
      .follows_method()
      .idle([](const Options&, const Options& in_force) {
        const bool used = in_force.scale_search == true || in_force.clip == true || by_gram(in_force) ||
                          feeds_back(in_force) || in_force.refine == true;
        return std::string(used ? "" : "nothing that was chosen looks at Gram matrices");
      });
  t.add(
       "--salient-ratio", [](auto& o) -> auto& { return o.salient_ratio; },
       "awq-salient: share of the weights that decide which channels are scaled")
      .in_range(0, 1)
      .follows_method()
      .idle([](const Options& asked, const Options& in_force) -> std::string {
        if (asked.method != Method::kAwqSalient) return "only --method awq-salient uses it";
        return in_force.scale_search == true ? "" : no_scales(asked);
      });
  t.add(
       "--activation-method", [](auto& o) -> auto& { return o.activation_method; },
       "Statistic of the scale search; auto: mean, but rms for awq-salient")
      .follows_method()
      .idle([](const Options& asked, const Options& in_force) {
        return in_force.scale_search == true ? std::string() : no_scales(asked);
      });
  t.add(
       "--damping", [](auto& o) -> auto& { return o.damping; },
       "gptq, awq: share of each diagonal entry of the Gram matrix that is added to it; with --guard the least that is "
       "tried")
      .in_range(0, 1)
      .by_default("0.01; awq with --guard off or STATS.npz 0.49, asymmetric 1")
      .follows_method()
      .idle([](const Options& asked, const Options& in_force) {
        const bool used = feeds_back(in_force) || in_force.refine == true;
        return used ? std::string() : rounding_option(asked) + " rounds without the Gram matrix";
      });
  t.add(
       "--scale-search", [](auto& o) -> auto& { return o.scale_search; },
       "Activation-aware scales of the input channels, folded into the module before; auto: on for awq, awq-paper, "
       "awq-salient")
      .follows_method();
  t.add(
       "--error-feedback", [](auto& o) -> auto& { return o.error_feedback; },
       "Rounding in which later columns make good the errors of earlier ones (GPTQ), else each weight to nearest; "
       "auto: "
       "on for gptq and awq, off with --effort fast")
      .follows_method();
  t.add(
       "--signed-scales", [](auto& o) -> auto& { return o.signed_scales; },
       "Searched ranges of --scheme sym: also negative scales, which give the longer side of a group its extra code; "
       "auto: on for awq")
      .follows_method();
  t.add(
       "--refine", [](auto& o) -> auto& { return o.refine; },
       "After rounding: codes improved one by one and scales refitted on the Gram matrix; auto: on for awq")
      .follows_method();
  t.add(
       "--act-order", [](auto& o) -> auto& { return o.act_order; },
       "gptq, awq: columns in order of decreasing diagonal")
      .of_kind(OptionKind::kToggle)
      .follows_method()
      .idle([](const Options& asked, const Options& in_force) {
        return feeds_back(in_force) ? std::string() : rounding_option(asked) + " rounds each weight by itself";
      });
}

void add_texts(Table& t) {
  t.include(calibration_options(), [](auto& o) -> auto& { return o.calibration; });
  t.at("calibration").help += ". Or, alone, an .npz of statistics (made by 'calibrate') or of raw activations";
  const auto needs_text = [](const Options& asked, const Options&) {
    return std::string(from_statistics(asked.calibration) ? "the statistics come from a file" : "");
  };
  t.at("samples").idle(needs_text).by_default(fmt::format("{}; {} with --effort fast", kSamples, kFastSamples));
  t.at("sequence_length").idle(needs_text);
  // One setting for both texts.
  OptionRow<Options>& bos = t.at("bos").idle([](const Options& asked, const Options&) {
    const bool read = !from_statistics(asked.calibration) || names_text(asked.evaluation);
    return std::string(read ? "" : "no text is read");
  });
  bos.set = [](Options& o, const OptionValue& value) {
    return set_option(o.calibration.bos, value) && set_option(o.evaluation.bos, value);
  };
  t.add(
       "--builtin-share", [](auto& o) -> auto& { return o.builtin_share; },
       "Share of the sequences that comes from the program's own text of many kinds (code, dialogue, tables, "
       "mathematics, ...) where --calibration names files: what quantizes well for one kind of text alone does worse "
       "on "
       "others")
      .in_range(0, 0.9)
      .by_default("0.0625 for awq, else 0")
      .follows_method()
      .idle([](const Options& asked, const Options&) -> std::string {
        if (from_files(asked.calibration) || asked.builtin_share.value_or(0) == 0) return "";
        return from_statistics(asked.calibration)
                   ? "the statistics come from a file"
                   : "only texts in files take such a share beside them; --calibration may name builtin itself";
      });
}

void add_evaluation(Table& t) {
  t.group("Evaluation");
  t.add(
       "--evaluate", [](auto& o) -> auto& { return o.evaluation.text; },
       "UTF-8 text, or JSON Lines (FILE.jsonl), to evaluate on, or none; without it a part of the calibration tokens "
       "is "
       "held back for it, on which the figures are better than on other text")
      .called("FILE|none")
      .completed_by(Completes::kFiles)
      .by_default("the last tenth of the calibration tokens, at least 4096")
      .in_python("StrPath");
  t.add(
       "--max-kl", [](auto& o) -> auto& { return o.max_kl; },
       "Limit on the mean KL divergence: exit code 4 when it is missed")
      .in_range(0, std::numeric_limits<double>::max())
      .by_default("none")
      .only_judges();
  t.advanced();
  t.include(evaluation_options(), [](auto& o) -> auto& { return o.evaluation; }, {"chunks", "context"});
  t.at("chunks").idle([](const Options& asked, const Options&) {
    return std::string(names_text(asked.evaluation) ? "" : "only --evaluate FILE uses it");
  });
  t.at("context").idle([](const Options& asked, const Options&) -> std::string {
    const CalibrationOptions& c = asked.calibration;
    const bool held_back_text = (has_source(c, SourceKind::kText) || has_source(c, SourceKind::kBuiltin) ||
                                 has_source(c, SourceKind::kConversations)) &&
                                asked.evaluation.text.empty();
    if (names_text(asked.evaluation) || held_back_text) return "";
    return asked.evaluation.text == "none" || from_statistics(c) ? "nothing is evaluated"
                                                                 : "self-made text is evaluated by --sequence-length";
  });
  t.include(machine_options(), [](auto& o) -> auto& { return o.machine; });
  t.at("precision").idle([](const Options& asked, const Options&) {
    return std::string(from_statistics(asked.calibration) ? "the statistics come from a file" : "");
  });
}

}  // namespace

bool is_idle_in_sensitivity(const std::string& key) {
  constexpr const char* kIdle[] = {"resume",   "overwrite", "target_bits", "mixed_bits",
                                   "evaluate", "max_kl",    "chunks",      "context"};
  return std::find(std::begin(kIdle), std::end(kIdle), key) != std::end(kIdle);
}

const OptionTable<QuantizeOptions>& quantize_options() {
  static const Table table = [] {
    Table t;
    add_input(t);
    add_quantization(t);
    add_choices(t);
    add_texts(t);
    add_evaluation(t);
    return t;
  }();
  return table;
}

}  // namespace metal_marlin
