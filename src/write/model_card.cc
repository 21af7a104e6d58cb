#include "write/model_card.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <version_text.h>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "formats/json/bounded_json.h"
#include "layouts/layouts.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

// The name of a folder may be invalid UTF-8.
std::string dumped(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// A JSON scalar is a valid YAML scalar; strings stay quoted.
void append_yaml(const json& object, int indent, std::string& out) {
  for (const auto& [key, value] : object.items()) {
    const std::string name = dumped(key);
    if (value.is_object()) {
      if (value.empty()) continue;
      out += fmt::format("{:{}}{}:\n", "", indent, name);
      append_yaml(value, indent + 2, out);
    } else {
      out += fmt::format("{:{}}{}: {}\n", "", indent, name, dumped(value));
    }
  }
}

// Returns valid UTF-8 in one line, which cannot break out of a table's cell or a sentence.
std::string one_line(const std::string& text) {
  std::string out;
  for (const char c : parse_json_or_discard(dumped(text)).get<std::string>()) {
    if (c == '|') {
      out += "\\|";
    } else {
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

void append_rows(const json& object, const std::string& prefix, std::string& out) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      append_rows(value, prefix + key + ".", out);
    } else {
      out += fmt::format("| {} | {} |\n", one_line(prefix + key),
                         one_line(value.is_string() ? value.get<std::string>() : dumped(value)));
    }
  }
}

double round_to(double value, int decimals) {
  const double power = std::pow(10.0, decimals);
  return std::isfinite(value * power) ? std::round(value * power) / power : value;
}

// Decimals that show `digits` of a value.
int decimals_of(double value, int digits) {
  if (value == 0 || !std::isfinite(value)) return digits;
  return std::clamp(digits - 1 - static_cast<int>(std::floor(std::log10(std::fabs(value)))), 0, 15);
}

// A mean has as many digits as its standard error justifies.
json rounded(const json& figures) {
  json out = figures;
  const auto error = figures.find("standard_error");
  const bool has_error = error != figures.end() && error->is_number_float() && error->get<double>() > 0;
  for (auto& [key, value] : out.items()) {
    if (value.is_object()) {
      value = rounded(value);
    } else if (value.is_number_float()) {
      const auto number = value.get<double>();
      const bool by_error = has_error && (key == "mean" || key == "standard_error");
      value = round_to(number, by_error ? decimals_of(error->get<double>(), 2) : decimals_of(number, 5));
    }
  }
  return out;
}

// The figures that are there.
json stated(const EvaluationRecord& r) {
  json out = json::object();
  const auto put = [&](const char* pointer, const std::optional<double>& value) {
    if (value) out[json::json_pointer(pointer)] = *value;
  };
  put("/perplexity/reference", r.perplexity.reference);
  put("/perplexity/quantized", r.perplexity.quantized);
  put("/kl_divergence/mean", r.kl_divergence.mean);
  put("/kl_divergence/standard_error", r.kl_divergence.standard_error);
  put("/kl_divergence/p99", r.kl_divergence.p99);
  put("/top1_agreement", r.top1_agreement);
  if (r.positions > 0) out["positions"] = r.positions;
  return out;
}

// Makes the rows of the figures that have a form of their own, and removes these figures from `figures`.
std::string rows_of_known(json& figures) {
  std::string out;
  const auto number = [&](const char* pointer) {
    const json::json_pointer p(pointer);
    return figures.contains(p) && figures[p].is_number() ? std::optional<double>(figures[p].get<double>())
                                                         : std::nullopt;
  };
  const auto reference = number("/perplexity/reference");
  const auto quantized = number("/perplexity/quantized");
  if (reference && quantized) {
    out += fmt::format("| perplexity, before and after | {:.{}f}, {:.{}f} |\n", *reference, decimals_of(*reference, 5),
                       *quantized, decimals_of(*quantized, 5));
    figures.erase("perplexity");
  }
  const auto mean = number("/kl_divergence/mean");
  const auto error = number("/kl_divergence/standard_error");
  const auto p99 = number("/kl_divergence/p99");
  if (mean && error && p99) {
    const int decimals = decimals_of(*error, 2);
    out += fmt::format(
        "| KL divergence of the next token's probabilities, with standard error | {:.{}f} ± {:.{}f} nats |\n", *mean,
        decimals, *error, decimals);
    out += fmt::format("| KL divergence, 99 % of positions below | {:.3g} nats |\n", *p99);
    figures.erase("kl_divergence");
  }
  if (const auto same = number("/top1_agreement")) {
    out += fmt::format("| same top token | {:.2f} % |\n", 100 * *same);
    figures.erase("top1_agreement");
  }
  if (figures.contains("positions") && figures["positions"].is_number_integer()) {
    out += fmt::format("| positions scored | {} |\n", dumped(figures["positions"]));
    figures.erase("positions");
  }
  return out;
}

// "org/name" as hubs have them.
bool is_hub_id(const std::string& name) {
  const size_t slash = name.find('/');
  const auto plain = [](std::string_view part) {
    return !part.empty() && part.front() != '.' && std::all_of(part.begin(), part.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
             c == '.';
    });
  };
  return slash != std::string::npos && plain(std::string_view(name).substr(0, slash)) &&
         plain(std::string_view(name).substr(slash + 1));
}

}  // namespace

namespace {

// Which programs load the format, and how; docs/use.md has the same. MODEL stands for the folder.
std::string usage_of(const CardWords& words, bool chat_template) {
  const std::string own =
      fmt::format("metal-marlin, on this machine's processor:\n\n```sh\n{}metal-marlin generate MODEL -p TEXT\n```\n",
                  chat_template ? "metal-marlin chat MODEL\n" : "");
  const char* question =
      chat_template
          ? "messages = [{\"role\": \"user\", \"content\": \"What is the capital of France?\"}]\ninputs = "
            "tokenizer.apply_chat_template(\n    messages, add_generation_prompt=True, return_tensors=\"pt\", "
            "return_dict=True\n).to(model.device)\n"
          : "inputs = tokenizer(\"The capital of France is\", return_tensors=\"pt\").to(model.device)\n";
  const std::string transformers = fmt::format(
      "transformers (`pip install transformers accelerate {}`):\n\n```python\nfrom transformers import "
      "AutoModelForCausalLM, AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained(\"MODEL\")\nmodel = "
      "AutoModelForCausalLM.from_pretrained(\"MODEL\", device_map=\"auto\")\n{}print(tokenizer.decode(model.generate("
      "**inputs, max_new_tokens=64)[0]))\n```\n",
      words.packages, question);
  const std::string servers =
      "vLLM and SGLang (a GPU):\n\n```sh\nvllm serve MODEL\npython -m sglang.launch_server --model-path MODEL\n```\n";
  std::string out = "\n## Use\n\nMODEL is this folder.\n\n" + own;
  if (words.transformers) out += "\n" + transformers;
  if (words.servers) out += "\n" + servers;
  if (words.mlx) out += "\nmlx-lm (Apple silicon):\n\n```sh\nmlx_lm.generate --model MODEL --prompt TEXT\n```\n";
  if (words.llama_cpp)
    out +=
        "\nllama.cpp, and what is built on it; MODEL.gguf is the file of this folder, or the first of its parts:\n\n"
        "```sh\nllama-cli -m MODEL.gguf\nllama-server -m MODEL.gguf\n```\n";
  if (!words.otherwise.empty()) out += "\n" + words.otherwise + "\n";
  return out;
}

}  // namespace

std::string source_name_of(const std::string& path) {
  const std::filesystem::path p(path);
  for (const auto& part : p) {
    const std::string name = part.string();
    if (!name.starts_with("models--")) continue;
    const std::string id = name.substr(8);
    const size_t dashes = id.find("--");
    return dashes == std::string::npos ? id : id.substr(0, dashes) + "/" + id.substr(dashes + 2);
  }
  const std::string name = p.has_filename() ? p.filename().string() : p.parent_path().filename().string();
  for (const char* extension : {".gguf", ".safetensors"}) {
    if (name.ends_with(extension)) return name.substr(0, name.size() - std::string_view(extension).size());
  }
  return name;
}

std::string render_model_card(const std::string& source, const std::string& family, const Layout& layout,
                              const CheckpointPlan& plan, const WriteReport& report) {
  const json exact = stated(plan.figures);
  json figures = rounded(exact);
  json quantization = {{"format", layout.name()},
                       {"bits", plan.bits},
                       {"group_size", plan.group_size},
                       {"scheme", plan.symmetric ? "sym" : "asym"},
                       {"bits_per_weight", round_to(report.bits_per_weight, 3)},
                       {"quantized_weights", report.quantized_weights},
                       {"kept_weights", report.kept_weights},
                       {"tensor_bytes", report.quantized_bytes + report.kept_bytes}};
  const bool converted = !plan.converted_from.empty();
  const bool floats = layout.widths().empty();
  if (floats) quantization = {{"format", layout.name()}, {"tensor_bytes", report.kept_bytes}};
  quantization[converted ? "converted_from" : "method"] = converted ? plan.converted_from : plan.method;
  if (!plan.calibration.empty()) quantization["calibration"] = plan.calibration;
  if (!plan.evaluation.empty() && !figures.empty()) figures["text"] = plan.evaluation;
  const CardWords words = layout.card_words(plan);
  std::string out = "---\n";
  if (is_hub_id(source) && floats) out += fmt::format("base_model: {}\n", source);
  if (is_hub_id(source) && !floats) out += fmt::format("base_model: {}\nbase_model_relation: quantized\n", source);
  out += "pipeline_tag: text-generation\n";
  if (words.transformers || words.mlx)
    out += fmt::format("library_name: {}\n", words.transformers ? "transformers" : "mlx");
  if (floats) {
    out += fmt::format("tags:\n- metal-marlin\n- {}\n", family);
  } else {
    out += fmt::format("tags:\n- {}\n- {}-bit\n- quantized\n- metal-marlin\n- {}\n", words.tag, plan.bits, family);
  }
  out += floats ? "conversion:\n" : "quantization:\n";
  append_yaml(quantization, 2, out);
  if (!figures.empty()) {
    out += "figures:\n";
    append_yaml(figures, 2, out);
  }
  const std::string name = one_line(source);
  if (floats) {
    out += fmt::format(
        "---\n\n# {0} in {3}\n\n{0} converted by Metal Marlin {1} from {2} to {3}: each value is the one that the "
        "source "
        "stands for, rounded once.\n\n",
        name, METAL_MARLIN_VERSION, plan.converted_from, words.text);
    out += fmt::format("| figure | value |\n|---|---|\n| bytes of all tensors | {} |\n", report.kept_bytes);
    return out;
  }
  out += fmt::format("---\n\n# {} in {} bits\n\n", name, plan.bits);
  const std::string grid =
      fmt::format("{}, {}", plan.group_size < 0 ? "one group per row" : fmt::format("groups of {}", plan.group_size),
                  plan.symmetric ? "symmetric" : "asymmetric");
  if (converted) {
    const StoredLayout* source_layout = find_stored_layout(plan.converted_from);
    const std::string from = source_layout != nullptr ? source_layout->text() : plan.converted_from;
    out += fmt::format(
        "{} in {} bits, converted by Metal Marlin {} from the {} format to the {} format ({}). Codes, zeros and scales "
        "are the same.\n\n",
        name, plan.bits, METAL_MARLIN_VERSION, from, words.text, grid);
  } else {
    out += fmt::format("{} quantized to {} bits by Metal Marlin {} (method {}, {}), stored in the {} format.\n\n", name,
                       plan.bits, METAL_MARLIN_VERSION, plan.method.empty() ? "not stated" : plan.method, grid,
                       words.text);
  }
  out += "| figure | value |\n|---|---|\n";
  out += fmt::format("| bits per weight, all tensors | {:.3f} |\n| bytes of all tensors | {} |\n",
                     report.bits_per_weight, report.quantized_bytes + report.kept_bytes);
  if (!plan.calibration.empty()) out += fmt::format("| calibration | {} |\n", one_line(plan.calibration));
  json rest = exact;
  if (!plan.evaluation.empty())
    out += fmt::format("| evaluated against the source on | {} |\n", one_line(plan.evaluation));
  out += rows_of_known(rest);
  append_rows(rounded(rest), "", out);
  if (plan.evaluation.starts_with("held-back")) {
    out +=
        "\nThe figures are of text like that of the calibration; on other text they are higher. `metal-marlin evaluate "
        "MODEL --reference SOURCE --text FILE` measures on a text of yours, and is what to compare with the figures of "
        "others.\n";
  }
  if (!report.skipped.empty()) {
    out += "\nLinears left in their own precision:\n\n| tensor | reason |\n|---|---|\n";
    for (const SkippedTensor& s : report.skipped) out += fmt::format("| `{}` | {} |\n", s.name, s.reason);
  }
  out += usage_of(words, plan.chat_template);
  return out;
}

}  // namespace metal_marlin
