#include "statistics/stats_file.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/counted.h"
#include "formats/json/bounded_json.h"
#include "formats/text.h"
#include "records/json_records.h"
#include "statistics/model_identity.h"
#include "statistics/statistics.h"

namespace metal_marlin {
namespace {

constexpr int64_t kRows = 4096;  // rows of raw activations at a time
constexpr const char* kCalibrationKey = "metal_marlin.calibration";

std::string prefix(int64_t layer, LinearInput input) {
  return fmt::format("layers.{}.{}.", layer, input_name(input));
}

OwnedTensor array(const std::string& name, DType dtype, std::vector<int64_t> shape, const void* data, size_t bytes) {
  OwnedTensor t{name, dtype, std::move(shape), Buffer(bytes)};
  if (bytes > 0) std::memcpy(t.bytes.data(), data, bytes);
  return t;
}

void require_finite_values(std::span<const float> values, bool positive, const std::string& file,
                           const std::string& key) {
  for (const float v : values) {
    if (!std::isfinite(v) || (positive && v < 0)) {
      throw NumericError(
          fmt::format("{}: {}: expected finite{} numbers, found {}", file, key, positive ? " non-negative" : "", v));
    }
  }
}

}  // namespace

StatsFile::StatsFile(const std::string& path, const ModelSource& source, bool gram, uint64_t held_limit)
    : path_(path), source_(source) {
  if (is_imatrix_name(path)) {
    imatrix_.emplace(path, source);
    first_rows_ = false;
    tokens_ = tokens(0, LinearInput::kQkv);
    return;
  }
  file_.emplace(path, held_limit);
  check_identity(*file_, source);
  raw_ = !file_->contains(prefix(0, LinearInput::kQkv) + "mean");
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (int t = 0; t < kLinearInputs; ++t) {
      const auto input = static_cast<LinearInput>(t);
      const int64_t width = features(input);
      if (raw_) {
        const std::string key = raw_key(layer, input);
        const NpyHeader header = file_->header(key);
        if (header.shape.size() < 2 || header.columns() != width || header.rows() < 1) {
          throw FormatError(fmt::format("{}: {}: expected activations [batch, seq, {}], found {}", path, key, width,
                                        shape_string(header.shape)));
        }
        first_rows_ = first_rows_ && header.shape.size() == 3;
        continue;
      }
      const std::string first = prefix(layer, input) + "first";
      if (file_->contains(first)) {
        const NpyHeader header = file_->header(first);
        if (header.shape.size() != 2 || header.columns() != width || header.rows() < 1) {
          throw FormatError(fmt::format("{}: {}: expected the shape [sequences, {}], found {}", path, first, width,
                                        shape_string(header.shape)));
        }
      } else {
        first_rows_ = false;
      }
      for (const char* part : {"mean", "max", "rms", "gram"}) {
        const std::string key = prefix(layer, input) + part;
        if (std::strcmp(part, "gram") == 0 && !file_->contains(key)) {
          if (!gram) continue;
          throw FormatError(fmt::format(
              "{}: {} is missing, and this method needs it; calibrate again without --no-gram, or use --method rtn",
              path, key));
        }
        const NpyHeader header = file_->header(key);
        const std::vector<int64_t> expected =
            std::strcmp(part, "gram") == 0 ? std::vector<int64_t>{width, width} : std::vector<int64_t>{width};
        if (header.shape != expected) {
          throw FormatError(fmt::format("{}: {}: expected the shape {}, found {}", path, key, shape_string(expected),
                                        shape_string(header.shape)));
        }
      }
    }
  }
  tokens_ = tokens(0, LinearInput::kQkv);
  read_calibration();
}

uint64_t StatsFile::tokens(int64_t layer, LinearInput input) const {
  if (imatrix_) return imatrix_->tokens(layer, input);
  return raw_ ? static_cast<uint64_t>(file_->header(raw_key(layer, input)).rows())
              : read_tokens(prefix(layer, input) + "tokens");
}

void StatsFile::read_calibration() {
  if (!file_->contains(kCalibrationKey)) return;
  constexpr int64_t kMost = int64_t{16} << 20;
  const NpyHeader header = file_->header(kCalibrationKey);
  if (header.dtype != DType::kU8 || header.shape.size() != 1 || header.elements() > kMost) {
    throw FormatError(fmt::format("{}: {}: expected at most {} (u8), found {}", file_->path(), kCalibrationKey,
                                  counted(kMost, "byte"), shape_string(header.shape)));
  }
  const OwnedTensor array = file_->load(kCalibrationKey);
  const std::string_view text(reinterpret_cast<const char*>(array.bytes.data()), array.bytes.size());
  const bool excess = json_excess(text, {.depth = 16}).has_value();
  const nlohmann::json written = excess ? nlohmann::json() : parse_json_or_discard(text);
  if (!written.is_object())
    throw FormatError(fmt::format("{}: {}: expected the text of a JSON object, found something else", file_->path(),
                                  kCalibrationKey));
  calibration_ = record_of<TextRecord>(
      written, [&](const std::string& place, const std::string& expected, const std::string& found) {
        throw FormatError(fmt::format("{}: {}: {}: expected {}, found {}; make the statistics again", file_->path(),
                                      kCalibrationKey, escaped(place), expected, found));
      });
}

OwnedTensor calibration_array(const TextRecord& text) {
  const std::string written = json_of(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return array(kCalibrationKey, DType::kU8, {static_cast<int64_t>(written.size())}, written.data(), written.size());
}

uint64_t StatsFile::read_tokens(const std::string& key) const {
  const NpyHeader header = file_->header(key);
  if (header.elements() != 1)
    throw FormatError(
        fmt::format("{}: {}: expected one number, found {}", file_->path(), key, shape_string(header.shape)));
  const OwnedTensor array = file_->load(key);
  uint64_t tokens = 0;
  if (array.dtype == DType::kU64) {
    std::memcpy(&tokens, array.bytes.data(), sizeof tokens);
    if (tokens == 0 || tokens > (uint64_t{1} << 60))
      throw FormatError(fmt::format("{}: {}: expected a count of tokens, found {}", file_->path(), key, tokens));
    return tokens;
  }
  float value = 0;
  convert_to_f32(array.view(), &value);
  if (!(value >= 1 && value < 1e18F))
    throw FormatError(fmt::format("{}: {}: expected a count of tokens, found {}", file_->path(), key, value));
  return static_cast<uint64_t>(value);
}

int64_t StatsFile::features(LinearInput input) const {
  for (const LinearSlot& slot : source_.linears(0)) {
    if (input_of(slot.kind) == input) return slot.columns;
  }
  return 0;
}

std::string StatsFile::raw_key(int64_t layer, LinearInput input) const {
  std::string first;
  for (const LinearSlot& slot : source_.linears(layer)) {
    if (input_of(slot.kind) != input) continue;
    const std::string module = slot.weight.substr(0, slot.weight.size() - std::strlen(".weight"));
    for (const std::string& key : {slot.weight, module}) {
      if (file_->contains(key)) return key;
    }
    if (first.empty()) first = slot.weight;
  }
  throw FormatError(
      fmt::format("{}: expected activations under \"{}\" (with or without .weight), or statistics written by "
                  "metal-marlin calibrate; found neither",
                  file_->path(), first));
}

std::array<ActivationStats, kLinearInputs> StatsFile::load(int64_t layer) const {
  if (imatrix_) {
    std::array<ActivationStats, kLinearInputs> out;
    for (int t = 0; t < kLinearInputs; ++t)
      out[static_cast<size_t>(t)] = imatrix_->load(layer, static_cast<LinearInput>(t));
    return out;
  }
  if (raw_) {
    std::array<ActivationStats, kLinearInputs> out;
    for (int t = 0; t < kLinearInputs; ++t) {
      const auto input = static_cast<LinearInput>(t);
      NpzRows rows = file_->rows(raw_key(layer, input));
      const int64_t width = rows.header().columns();
      std::vector<int64_t> lengths;
      if (first_rows_) lengths.assign(static_cast<size_t>(rows.header().shape[0]), rows.header().shape[1]);
      StatsCollector collector(true, MatmulPrecision::kF32, std::move(lengths));
      Matrix batch(kRows, width);
      while (rows.remaining() > 0) {
        const int64_t n = rows.read(kRows, batch.data());
        collector.add(input, batch.data(), n, width);
      }
      out[static_cast<size_t>(t)] = std::move(collector.finish([&](LinearInput) {
        return fmt::format("{}: {}", file_->path(), raw_key(layer, input));
      })[static_cast<size_t>(t)]);
    }
    return out;
  }
  std::array<ActivationStats, kLinearInputs> out;
  for (int t = 0; t < kLinearInputs; ++t) {
    const auto input = static_cast<LinearInput>(t);
    ActivationStats& s = out[static_cast<size_t>(t)];
    s.in_features = features(input);
    const auto read = [&](const char* part, int64_t count, float* to) {
      const std::string key = prefix(layer, input) + part;
      const OwnedTensor array = file_->load(key);
      convert_to_f32(array.view(), to);
      require_finite_values({to, static_cast<size_t>(count)},
                            std::strcmp(part, "gram") != 0 && std::strcmp(part, "first") != 0, file_->path(), key);
    };
    for (auto [part, values] : {std::pair{"mean", &s.mean}, std::pair{"max", &s.max}, std::pair{"rms", &s.rms}}) {
      values->resize(static_cast<size_t>(s.in_features));
      read(part, s.in_features, values->data());
    }
    if (file_->contains(prefix(layer, input) + "gram")) {
      s.gram = Matrix(s.in_features, s.in_features);
      read("gram", s.gram.size(), s.gram.data());
      for (int64_t k = 0; k < s.in_features; ++k) {
        if (s.gram(k, k) >= 0) continue;
        throw FormatError(fmt::format("{}: {}gram: expected a diagonal >= 0, found {} at [{}, {}]", file_->path(),
                                      prefix(layer, input), s.gram(k, k), k, k));
      }
    }
    if (file_->contains(prefix(layer, input) + "first")) {
      s.first_rows = Matrix(file_->header(prefix(layer, input) + "first").rows(), s.in_features);
      read("first", s.first_rows.size(), s.first_rows.data());
    }
    s.tokens = read_tokens(prefix(layer, input) + "tokens");
  }
  return out;
}

std::vector<OwnedTensor> stats_arrays(int64_t layer, const std::array<ActivationStats, kLinearInputs>& stats) {
  std::vector<OwnedTensor> out;
  for (int t = 0; t < kLinearInputs; ++t) {
    const ActivationStats& s = stats[static_cast<size_t>(t)];
    const std::string name = prefix(layer, static_cast<LinearInput>(t));
    const auto vector = [&](const char* part, const std::vector<float>& v) {
      out.push_back(array(name + part, DType::kF32, {s.in_features}, v.data(), v.size() * sizeof(float)));
    };
    vector("mean", s.mean);
    vector("max", s.max);
    vector("rms", s.rms);
    out.push_back(array(name + "tokens", DType::kU64, {1}, &s.tokens, sizeof s.tokens));
    if (!s.gram.empty()) {
      out.push_back(array(name + "gram", DType::kF32, {s.in_features, s.in_features}, s.gram.data(),
                          static_cast<size_t>(s.gram.size()) * sizeof(float)));
    }
    if (s.first_rows.rows() > 0) {
      out.push_back(array(name + "first", DType::kF32, {s.first_rows.rows(), s.in_features}, s.first_rows.data(),
                          static_cast<size_t>(s.first_rows.size()) * sizeof(float)));
    }
  }
  return out;
}

}  // namespace metal_marlin
