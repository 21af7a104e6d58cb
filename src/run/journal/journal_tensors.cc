#include "run/journal/journal_tensors.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/files/held_folder.h"
#include "core/files/mapped_file.h"
#include "formats/json/bounded_json.h"
#include "pack/native.h"

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

void write_block_tensors(const std::string& path, const FinishedBlock& block) {
  std::vector<OwnedTensor> tensors;
  json groups = json::object();
  for (const auto& [name, tensor] : block.quantized) {
    for (OwnedTensor& part : pack_native(tensor, name).parts) {
      part.name = name + part.name.substr(std::strlen("weight"));
      tensors.push_back(std::move(part));
    }
    groups[name] = {{"bits", tensor.bits}, {"group_size", tensor.group_size}, {"symmetric", tensor.symmetric}};
  }
  for (const OwnedTensor& t : block.changed) tensors.push_back(copy_of(t.view()));
  write_safetensors(path, std::span<const OwnedTensor>(tensors), {{"quantized", groups.dump()}});
}

FinishedBlock read_block_tensors(const std::string& path) {
  const SafetensorsFile file = open_tensors(path);
  FinishedBlock block;
  const auto it = file.metadata().find("quantized");
  if (it == file.metadata().end()) throw FormatError(fmt::format("{}: no list of quantized tensors", file.path()));
  const json groups = parse_json_or_discard(it->second);
  if (!groups.is_object()) {
    throw FormatError(
        fmt::format("{}: its list of quantized tensors is damaged; run again with --no-resume", file.path()));
  }
  try {
    for (const auto& [name, entry] : groups.items()) {
      QuantizedTensor t =
          unpack_native(file.get(name), file.get(name + ".scales"), file.get(name + ".zeros"),
                        entry.at("group_size").get<int64_t>(), name, Codes::kRead, entry.value("bits", 4));
      t.symmetric = entry.at("symmetric").get<bool>();
      block.quantized.emplace(name, std::move(t));
    }
  } catch (const json::exception&) {
    throw FormatError(
        fmt::format("{}: its list of quantized tensors is damaged; run again with --no-resume", file.path()));
  }
  for (const TensorView& view : file.tensors()) {
    const size_t dot = view.name.rfind(".weight.");
    if (groups.contains(view.name) || (dot != std::string::npos && groups.contains(view.name.substr(0, dot + 7))))
      continue;
    block.changed.push_back(copy_of(view));
  }
  return block;
}

}  // namespace metal_marlin
