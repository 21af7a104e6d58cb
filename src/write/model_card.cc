#include "write/model_card.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <nlohmann/json.hpp>

namespace metal_marlin {
namespace {

using nlohmann::json;

// A name of a folder may be no UTF-8.
std::string dumped(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

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

void append_rows(const json& object, const std::string& prefix, std::string& out) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      append_rows(value, prefix + key + ".", out);
    } else {
      out += fmt::format("| {}{} | {} |\n", prefix, key, value.is_string() ? value.get<std::string>() : dumped(value));
    }
  }
}

}  // namespace

namespace {

struct FormatNames {
  const char* format;
  const char* tag;
  const char* text;
};
constexpr FormatNames kNames[] = {{"native", "metal-marlin-native", "native"},
                                  {"awq", "awq", "AWQ gemm"},
                                  {"gptq", "gptq", "GPTQ (version 1)"},
                                  {"gptq_v2", "gptq", "GPTQ (version 2)"},
                                  {"marlin", "marlin", "Marlin"}};
const FormatNames& names_of(const std::string& format) {
  for (const FormatNames& names : kNames) {
    if (format == names.format) return names;
  }
  return kNames[0];
}

}  // namespace

std::string base_model_of(const std::string& path) {
  const std::filesystem::path p(path);
  for (const auto& part : p) {
    const std::string name = part.string();
    if (!name.starts_with("models--")) continue;
    std::string id = name.substr(8);
    const size_t dashes = id.find("--");
    if (dashes != std::string::npos) id.replace(dashes, 2, "/");
    return id;
  }
  const std::string name = p.has_filename() ? p.filename().string() : p.parent_path().filename().string();
  for (const char* extension : {".gguf", ".safetensors"}) {
    if (name.ends_with(extension)) return name.substr(0, name.size() - std::string_view(extension).size());
  }
  return name;
}

std::string render_model_card(const std::string& base_model, const std::string& family, const std::string& format,
                              const CheckpointPlan& plan, const WriteReport& report) {
  const json figures = json::parse(plan.figures_json, nullptr, false);
  if (!figures.is_object()) throw FormatError("model card: the figures are no JSON object");
  json quantization = {{"format", format},
                       {"bits", plan.bits},
                       {"group_size", plan.group_size},
                       {"scheme", plan.symmetric ? "sym" : "asym"},
                       {"bits_per_weight", report.bits_per_weight},
                       {"quantized_weights", report.quantized_weights},
                       {"kept_weights", report.kept_weights},
                       {"tensor_bytes", report.quantized_bytes + report.kept_bytes}};
  const bool converted = !plan.converted_from.empty();
  quantization[converted ? "converted_from" : "method"] = converted ? plan.converted_from : plan.method;
  const FormatNames& names = names_of(format);
  std::string out = "---\n";
  out += fmt::format("base_model: {}\nbase_model_relation: quantized\npipeline_tag: text-generation\n",
                     dumped(base_model));
  if (format != "native" && format != "marlin") out += "library_name: transformers\n";
  out += fmt::format("tags:\n- {}\n- {}-bit\n- quantized\n- metal-marlin\n- {}\n", names.tag, plan.bits, family);
  out += "quantization:\n";
  append_yaml(quantization, 2, out);
  if (!figures.empty()) {
    out += "figures:\n";
    append_yaml(figures, 2, out);
  }
  out += fmt::format("---\n\n# {} in {} bits\n\n", base_model, plan.bits);
  const std::string grid = fmt::format("{}, {}", plan.group_size < 0 ? "one group per row" : fmt::format("groups of {}", plan.group_size),
                                       plan.symmetric ? "symmetric" : "asymmetric");
  if (converted) {
    out += fmt::format("The {}-bit checkpoint {} converted by Metal Marlin {} from {} to the {} format ({}): the same codes, zeros and scales.\n\n",
                       plan.bits, base_model, METAL_MARLIN_VERSION, names_of(plan.converted_from).text, names.text, grid);
  } else {
    out += fmt::format("{} quantized to {} bits by Metal Marlin {} (method {}, {}), stored in the {} format.\n\n", base_model,
                       plan.bits, METAL_MARLIN_VERSION, plan.method.empty() ? "not stated" : plan.method, grid, names.text);
  }
  out += "| figure | value |\n|---|---|\n";
  out += fmt::format("| bits per weight, all tensors | {:.3f} |\n| bytes of all tensors | {} |\n",
                     report.bits_per_weight, report.quantized_bytes + report.kept_bytes);
  append_rows(figures, "", out);
  if (!report.skipped.empty()) {
    out += "\nLinears left in their own precision:\n\n| tensor | reason |\n|---|---|\n";
    for (const SkippedTensor& s : report.skipped) out += fmt::format("| `{}` | {} |\n", s.name, s.reason);
  }
  return out;
}

}  // namespace metal_marlin
