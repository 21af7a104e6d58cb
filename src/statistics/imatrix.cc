#include "statistics/imatrix.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <filesystem>
#include <span>

#include "checkpoint/gguf/gguf_names.h"
#include "core/counted.h"
#include "formats/gguf.h"
#include "formats/gguf/gguf_write.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

// A linear's name in GGUF files, of every weight of the model's blocks.
std::map<std::string, std::string> names_in_gguf(const ModelSource& source) {
  std::map<std::string, std::string> out;
  for (const GgufName& n : gguf_names(source.family(), source.config())) out[n.name] = n.gguf;
  return out;
}

}  // namespace

bool is_imatrix_name(const std::string& path) {
  return std::filesystem::path(path).extension() == ".gguf";
}

bool is_imatrix(const std::string& path) {
  try {
    return GgufFile(path).metadata().find_string("general.type") == "imatrix";
  } catch (const FormatError&) {
    return false;
  } catch (const UnsupportedError&) {
    return false;
  }
}

ImatrixFile::ImatrixFile(const std::string& path, const ModelSource& source) : path_(path) {
  const GgufFile file(path);
  const std::string type = file.metadata().find_string("general.type").value_or("");
  if (type != "imatrix") {
    throw FormatError(
        fmt::format("{}: expected llama.cpp's imatrix (general.type \"imatrix\"), found {}; a model's own "
                    "GGUF file has no statistics",
                    path, type.empty() ? std::string("no such key") : shown(type)));
  }
  datasets_ = file.metadata().find_strings("imatrix.datasets").value_or(std::vector<std::string>());
  const auto fail = [&](const std::string& name, const std::string& expected, const std::string& found) {
    throw FormatError(fmt::format("{}: tensor {}: expected {}, found {}", path, name, expected, found));
  };
  const auto floats = [&](const std::string& name, int64_t count) {
    const GgufTensor* tensor = file.find(name);
    if (tensor == nullptr) fail(name, "it for each linear of the model", "none: the imatrix is of another model");
    if (tensor->type != GgmlType::kF32 || tensor->elements() != count)
      fail(name, fmt::format("F32 of {}", counted(count, "value")),
           fmt::format("{} {}", ggml_type_info(tensor->type).name, shape_string(tensor->shape)));
    std::vector<float> values(static_cast<size_t>(count));
    dequantize_rows(*tensor, 0, count / tensor->shape.back(), values.data());
    return values;
  };
  const std::map<std::string, std::string> names = names_in_gguf(source);
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : source.linears(layer)) {
      Input& input = inputs_[{layer, static_cast<int>(input_of(slot.kind))}];
      if (!input.mean_squares.empty()) continue;  // the linears of an input have the same
      const std::string& name = names.at(slot.weight);
      const float tokens = floats(name + ".counts", 1).front();
      if (!(tokens >= 1 && tokens < 1e18F)) fail(name + ".counts", "a count of tokens", fmt::format("{}", tokens));
      input.tokens = static_cast<uint64_t>(tokens);
      for (const float sum : floats(name + ".in_sum2", slot.columns)) {
        if (!std::isfinite(sum) || sum < 0) fail(name + ".in_sum2", "sums of squares", fmt::format("{}", sum));
        input.mean_squares.push_back(sum / tokens);
      }
    }
  }
}

ActivationStats ImatrixFile::load(int64_t layer, LinearInput input) const {
  const Input& from = find(layer, input);
  ActivationStats out;
  out.in_features = std::ssize(from.mean_squares);
  out.tokens = from.tokens;
  for (const float v : from.mean_squares) out.rms.push_back(std::sqrt(v));
  out.mean = out.rms;
  out.max = out.rms;
  out.gram = Matrix(out.in_features, out.in_features);
  for (int64_t k = 0; k < out.in_features; ++k) out.gram(k, k) = from.mean_squares[static_cast<size_t>(k)];
  return out;
}

void ImatrixWriter::add(int64_t layer, const std::array<ActivationStats, kLinearInputs>& stats) {
  for (int t = 0; t < kLinearInputs; ++t) {
    const ActivationStats& s = stats[static_cast<size_t>(t)];
    Input& input = inputs_[{layer, t}];
    input.tokens = static_cast<float>(s.tokens);
    for (const float v : s.rms)
      input.sums.push_back(static_cast<float>(static_cast<double>(v) * v * static_cast<double>(s.tokens)));
  }
}

void ImatrixWriter::write(const std::string& path, const std::vector<std::string>& datasets, int64_t chunks,
                          int64_t chunk_tokens) const {
  const std::map<std::string, std::string> names = names_in_gguf(source_);
  std::map<std::string, const Input*> inputs;  // ascending, as llama.cpp has them
  for (int64_t layer = 0; layer < source_.config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : source_.linears(layer))
      inputs[names.at(slot.weight)] = &inputs_.at({layer, static_cast<int>(input_of(slot.kind))});
  }
  std::vector<GgufTensorInfo> tensors;
  for (const auto& [name, input] : inputs) {
    tensors.push_back({name + ".in_sum2", GgmlType::kF32, {1, std::ssize(input->sums)}});
    tensors.push_back({name + ".counts", GgmlType::kF32, {1, 1}});
  }
  const std::vector<GgufPair> pairs = {gguf_pair<std::string_view>("general.type", "imatrix"),
                                       gguf_strings("imatrix.datasets", datasets),
                                       gguf_pair<uint32_t>("imatrix.chunk_count", static_cast<uint32_t>(chunks)),
                                       gguf_pair<uint32_t>("imatrix.chunk_size", static_cast<uint32_t>(chunk_tokens))};
  GgufWriter file(path, pairs, std::move(tensors));
  for (const auto& [name, input] : inputs) {
    file.write(name + ".in_sum2", std::as_bytes(std::span(input->sums)));
    file.write(name + ".counts", std::as_bytes(std::span(&input->tokens, 1)));
  }
  file.commit();
}

}  // namespace metal_marlin
