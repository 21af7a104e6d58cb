#include "run/journal/journal_tensors.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/files/held_folder.h"
#include "core/files/mapped_file.h"
#include "formats/blocks/block_fields.h"
#include "formats/json/bounded_json.h"
#include "formats/text.h"
#include "pack/bits/row_stream.h"
#include "pack/group_arrays.h"
#include "records/journal_records.h"
#include "records/json_records.h"

namespace metal_marlin {

using nlohmann::json;

SafetensorsFile open_tensors(const std::string& path) {
  return SafetensorsFile(MappedFile(open_held_file(path), path));
}

OwnedTensor token_tensor(const std::string& name, const TokenSet& set) {
  OwnedTensor t;
  t.name = name;
  t.dtype = DType::kI32;
  std::vector<int32_t> flat;
  for (const auto& s : set.sequences) {
    flat.push_back(static_cast<int32_t>(s.size()));
    flat.insert(flat.end(), s.begin(), s.end());
  }
  t.shape = {static_cast<int64_t>(flat.size())};
  t.bytes = Buffer(flat.size() * sizeof(int32_t));
  if (!flat.empty()) std::memcpy(t.bytes.data(), flat.data(), t.bytes.size());
  return t;
}

TokenSet token_set(const TensorView& view, const std::string& path) {
  TokenSet set;
  const auto fail = [&](const std::string& expected, const std::string& found) {
    throw FormatError(
        fmt::format("{}: {}: expected {}, found {}; the interrupted run is damaged: run again with "
                    "--no-resume",
                    path, view.name, expected, found));
  };
  if (view.dtype != DType::kI32) fail("I32", std::string(dtype_name(view.dtype)));
  const auto* values = reinterpret_cast<const int32_t*>(view.bytes.data());
  const int64_t n = view.elements();
  for (int64_t i = 0; i < n;) {
    const int64_t length = values[i++];
    if (length < 1 || length > n - i) fail("sequences within the tensor", fmt::format("one of {} tokens", length));
    set.sequences.emplace_back(values + i, values + i + length);
    i += length;
  }
  return set;
}

OwnedTensor copy_of(const TensorView& view) {
  OwnedTensor t;
  t.name = view.name;
  t.dtype = view.dtype;
  t.shape = view.shape;
  t.bytes = Buffer(view.bytes.size());
  if (!view.bytes.empty()) std::memcpy(t.bytes.data(), view.bytes.data(), view.bytes.size());
  return t;
}

namespace {

constexpr int64_t kLargestSide = int64_t{1} << 31;

template <typename T>
OwnedTensor tensor_of(std::string name, DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  OwnedTensor t{std::move(name), dtype, std::move(shape), Buffer(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
  return t;
}

template <typename T>
std::vector<T> values_of(const TensorView& view, DType dtype, std::array<int64_t, 2> shape, const std::string& name) {
  expect_part(view, dtype, shape, name, view.name.c_str());
  std::vector<T> values(view.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
  return values;
}

void add_codes(const std::string& name, const QuantizedTensor& t, std::vector<OwnedTensor>& tensors) {
  OwnedTensor codes{name, DType::kU32, {t.out_features, row_words(t.in_features, t.bits)}, {}};
  codes.bytes = Buffer(static_cast<size_t>(codes.shape[0] * codes.shape[1]) * sizeof(uint32_t));
  if (!pack_rows(t.codes.data(), t.out_features, t.in_features, t.bits, codes.bytes.data())) refuse_codes(t, name);
  tensors.push_back(std::move(codes));
  const DType type = dtype_of(t.scale_type);
  const std::vector<int64_t> shape = {t.out_features, t.groups()};
  tensors.push_back(tensor_of(name + ".scales", type, shape, t.scales));
  if (t.minima.empty()) {
    tensors.push_back(tensor_of(name + ".zeros", DType::kU8, shape, t.zeros));
  } else {
    tensors.push_back(tensor_of(name + ".minima", type, shape, t.minima));
  }
}

void add_blocks(const std::string& name, const BlockTensor& t, std::vector<OwnedTensor>& tensors) {
  OwnedTensor blocks{name, DType::kU8, {t.out_features, t.row_bytes()}, Buffer(t.bytes.size())};
  if (!t.bytes.empty()) std::memcpy(blocks.bytes.data(), t.bytes.data(), t.bytes.size());
  tensors.push_back(std::move(blocks));
}

// `entry` names the type. Its name is believed where there are blocks of it and the tensor's shape agrees.
BlockTensor read_blocks(const SafetensorsFile& file, const std::string& name, const StoredBlocksRecord& entry) {
  const auto form = std::find_if(kBlockForms.begin(), kBlockForms.end(),
                                 [&](const BlockForm& f) { return ggml_type_info(f.type).name == entry.type; });
  const int64_t in_features = entry.in_features;
  const TensorView& view = file.get(name);
  if (form == kBlockForms.end() || in_features < 1 || in_features > kLargestSide || in_features % form->block != 0 ||
      view.shape.size() != 2 || view.shape[0] < 1) {
    throw FormatError(fmt::format("{}: {}: expected rows of blocks, found type {}, {} inputs and {}", file.path(), name,
                                  escaped(entry.type), in_features, shape_string(view.shape)));
  }
  BlockTensor t{form->type, view.shape[0], in_features, {}};
  expect_part(view, DType::kU8, std::array<int64_t, 2>{t.out_features, block_row_bytes(t.type, in_features)},
              file.path(), name.c_str());
  t.bytes.assign(view.bytes.begin(), view.bytes.end());
  if (!blocks_are_finite(t.type, t.bytes))
    throw FormatError(fmt::format("{}: {}: a scale is no finite number", file.path(), name));
  return t;
}

// `entry` says what the codes are. Nothing of it is believed before the tensors' shapes agree.
QuantizedTensor read_codes(const SafetensorsFile& file, const std::string& name, const StoredCodesRecord& entry) {
  QuantizedTensor t;
  t.in_features = entry.in_features;
  t.group_size = entry.group_size;
  t.symmetric = entry.symmetric;
  t.scale_type = entry.scale_type == dtype_name(DType::kBF16) ? ScaleType::kBF16 : ScaleType::kF16;
  if (entry.scale_type != dtype_name(dtype_of(t.scale_type))) {
    throw FormatError(
        fmt::format("{}: {}: expected scales in F16 or BF16, found {}", file.path(), name, escaped(entry.scale_type)));
  }
  const TensorView& codes = file.get(name);
  if (entry.bits < 1 || entry.bits > 8 || t.in_features < 1 || t.in_features > kLargestSide || t.group_size < 1 ||
      t.group_size > t.in_features || codes.shape.size() != 2 || codes.shape[0] < 1 || codes.shape[0] > kLargestSide) {
    throw FormatError(fmt::format("{}: {}: expected codes of 1 to 8 bits in groups, found {} bits, groups of {} and {}",
                                  file.path(), name, entry.bits, t.group_size, shape_string(codes.shape)));
  }
  t.bits = static_cast<int>(entry.bits);
  t.out_features = codes.shape[0];
  expect_part(codes, DType::kU32, std::array<int64_t, 2>{t.out_features, row_words(t.in_features, t.bits)}, file.path(),
              name.c_str());
  const std::array<int64_t, 2> shape = {t.out_features, t.groups()};
  t.scales = values_of<uint16_t>(file.get(name + ".scales"), dtype_of(t.scale_type), shape, file.path());
  if (file.find(name + ".minima") != nullptr) {
    t.minima = values_of<uint16_t>(file.get(name + ".minima"), dtype_of(t.scale_type), shape, file.path());
    t.zeros.assign(t.scales.size(), 0);
  } else {
    t.zeros = values_of<uint8_t>(file.get(name + ".zeros"), DType::kU8, shape, file.path());
  }
  t.codes.resize(static_cast<size_t>(t.out_features * t.in_features));
  unpack_rows(codes.bytes.data(), t.out_features, t.in_features, t.bits, t.codes.data());
  validate(t, fmt::format("{}: {}", file.path(), name));
  return t;
}

}  // namespace

void write_block_tensors(const std::string& path, const FinishedBlock& block) {
  std::vector<OwnedTensor> tensors;
  StoredLinearsRecord linears;
  for (const auto& [name, tensor] : block.quantized) {
    add_codes(name, tensor, tensors);
    linears.codes[name] = {tensor.bits, tensor.in_features, tensor.group_size, tensor.symmetric,
                           std::string(dtype_name(dtype_of(tensor.scale_type)))};
  }
  for (const auto& [name, tensor] : block.blocks) {
    add_blocks(name, tensor, tensors);
    linears.blocks[name] = {std::string(ggml_type_info(tensor.type).name), tensor.in_features};
  }
  for (const OwnedTensor& t : block.changed) tensors.push_back(copy_of(t.view()));
  write_safetensors(path, std::span<const OwnedTensor>(tensors), {{"linears", json_of(linears).dump()}});
}

FinishedBlock read_block_tensors(const std::string& path) {
  const SafetensorsFile file = open_tensors(path);
  FinishedBlock block;
  const auto it = file.metadata().find("linears");
  if (it == file.metadata().end()) {
    throw FormatError(
        fmt::format("{}: no list of quantized tensors: the journal of another version of this program; run again with "
                    "--no-resume",
                    file.path()));
  }
  const json written = parse_json_or_discard(it->second);
  if (!written.is_object()) {
    throw FormatError(
        fmt::format("{}: its list of quantized tensors is damaged; run again with --no-resume", file.path()));
  }
  const auto linears = record_of<StoredLinearsRecord>(
      written, [&](const std::string& place, const std::string& expected, const std::string& found) {
        throw FormatError(
            fmt::format("{}: its list of quantized tensors: {}: expected {}, found {}; the interrupted run is damaged: "
                        "run again with --no-resume",
                        file.path(), escaped(place), expected, found));
      });
  try {
    for (const auto& [name, entry] : linears.codes) block.quantized.emplace(name, read_codes(file, name, entry));
    for (const auto& [name, entry] : linears.blocks) block.blocks.emplace(name, read_blocks(file, name, entry));
  } catch (const FormatError& e) {
    throw FormatError(fmt::format("{}; the interrupted run is damaged: run again with --no-resume", e.what()));
  }
  const auto is_linear = [&](const std::string& name) {
    return linears.codes.count(name) > 0 || linears.blocks.count(name) > 0;
  };
  for (const TensorView& view : file.tensors()) {
    const size_t dot = view.name.rfind(".weight.");
    if (is_linear(view.name) || (dot != std::string::npos && is_linear(view.name.substr(0, dot + 7)))) continue;
    block.changed.push_back(copy_of(view));
  }
  return block;
}

}  // namespace metal_marlin
