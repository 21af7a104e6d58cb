#include "layouts/config/labels.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/counted.h"
#include "families/config/config_reader.h"
#include "formats/text.h"
#include "layouts/stored_layout.h"
#include "pack/bits/bit_runs.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

int64_t groups_of(const PackedLinear& l) {
  return l.scales != nullptr && l.scales->shape.size() == 2 ? l.scales->shape[0] : 0;
}

// The zeros of a linear as numbers, without the one that version 1 leaves out; empty where their shape is wrong, which
// reading them will say.
std::vector<uint8_t> stored_zeros(const PackedLinear& l, bool interleaved) {
  const TensorView* zeros = l.zeros;
  if (zeros == nullptr || zeros->shape.size() != 2 || dtype_size(zeros->dtype) != 4) return {};
  QuantizedTensor t;
  t.bits = l.bits;
  t.group_size = 1;
  t.in_features = zeros->shape[0];
  if (zeros->shape[1] % run_words(l.bits) != 0) return {};
  t.out_features = zeros->shape[1] / run_words(l.bits) * run_codes(l.bits);
  unpack_zero_words(zeros->bytes.data(), interleaved, 0, t);
  return std::move(t.zeros);
}

// Whether a g_idx is there that is none: reading it will say so.
bool is_no_index(const PackedLinear& l) {
  const TensorView* index = l.channels;
  if (index == nullptr) return false;
  const bool integers = index->dtype == DType::kI32 || index->dtype == DType::kU32;
  return !integers || l.codes->shape.size() != 2 || index->shape.size() != 1 ||
         index->shape[0] / run_codes(l.bits) != l.codes->shape[0] / run_words(l.bits) || index->shape[0] <= 0;
}

std::vector<int32_t> group_index_of(const PackedLinear& l) {
  const TensorView* index = l.channels;
  if (index == nullptr) return {};
  std::vector<int32_t> out(index->bytes.size() / sizeof(int32_t));
  if (!out.empty()) std::memcpy(out.data(), index->bytes.data(), out.size() * sizeof(int32_t));
  return out;
}

// The same checkpoint in the other version.
void require_width(const StoredLayout& layout, int bits) {
  if (layout.holds_width(bits)) return;
  throw UnsupportedError(fmt::format("{} bits are not supported in {}; supported are {}", bits, layout.name(),
                                     list_widths(layout.widths())));
}

struct Found {
  size_t count = 0;
  std::string first;
  void add(const std::string& name) {
    if (count++ == 0) first = name;
  }
};

}  // namespace

void settle_order(const ConfigReader& q, const std::vector<NamedLinear>& linears, const std::string& path,
                  std::vector<std::string>& warnings) {
  const bool act_order = q.find_bool("desc_act").value_or(false);
  Found dropped;
  Found same;
  Found scattered;
  for (const NamedLinear& n : linears) {
    if (groups_of(*n.linear) < 2 || is_no_index(*n.linear)) continue;
    const std::vector<int32_t> index = group_index_of(*n.linear);
    // One group for all columns, whichever it is. A number that is no group is refused where it is read.
    const bool nothing = index.empty() || (index.front() >= 0 && index.front() < groups_of(*n.linear) &&
                                           std::equal(index.begin() + 1, index.end(), index.begin()));
    if (act_order && nothing) {
      throw FormatError(fmt::format(
          "{}: g_idx {}, but the config says desc_act: true: which group a column belongs to is lost; fetch the "
          "checkpoint again, or set desc_act to false if it was made without act order",
          n.name,
          index.empty()        ? "is missing"
          : index.front() == 0 ? "holds only zeros"
                               : fmt::format("holds only the number {}", index.front())));
    }
    if (nothing && !index.empty()) {
      n.linear->channels = nullptr;
      (index.front() == 0 ? dropped : same).add(n.name);
    } else if (!act_order && !std::is_sorted(index.begin(), index.end())) {
      scattered.add(n.name);
    }
  }
  if (dropped.count > 0) {
    warnings.push_back(fmt::format(
        "{}: g_idx of {} holds only zeros over several groups: taken as none (consecutive groups), the first: "
        "{}",
        path, counted(dropped.count, "linear"), dropped.first));
  }
  if (same.count > 0) {
    warnings.push_back(fmt::format(
        "{}: g_idx of {} puts every column into one group, though {} several: taken as none (consecutive groups), the "
        "first: {}",
        path, counted(same.count, "linear"), form_for(same.count, "it has", "they have"), same.first));
  }
  if (scattered.count > 0) {
    warnings.push_back(fmt::format(
        "{}: the config says desc_act: false, but the g_idx of {} scatters {} columns over the "
        "groups; they are read as stored, and engines that go by the config read them wrongly; the first: "
        "{}",
        path, counted(scattered.count, "linear"), form_for(scattered.count, "its", "their"), scattered.first));
  }
}

void settle_version(PackedConfig& packed, json& config, const ZeroLabel& label, const std::vector<NamedLinear>& linears,
                    const std::string& path, std::vector<std::string>& warnings) {
  const bool versions = label.other != nullptr;
  const int less = label.stored_less;
  Found right;
  Found off;
  Found others;
  for (const NamedLinear& n : linears) {
    const std::vector<uint8_t> zeros = stored_zeros(*n.linear, label.interleaved);
    if (zeros.empty()) continue;
    const int half = 1 << (n.linear->bits - 1);
    const auto all = [&](int value) {
      return std::all_of(zeros.begin(), zeros.end(), [&](uint8_t z) { return int{z} == value; });
    };
    const int wanted = half - less;
    if (all(wanted)) {
      right.add(n.name);
    } else if (versions && all(half - 1 + less)) {
      off.add(n.name);
    } else {
      others.add(n.name);
    }
  }
  if (off.count > 0 && right.count > 0) {
    throw FormatError(
        fmt::format("{}: the zeros are those of symmetric codes in version {} of GPTQ, but those of {} are of version "
                    "{}: the file mixes both, or is damaged; fetch it again",
                    off.first, less > 0 ? 2 : 1, right.first, less > 0 ? 1 : 2));
  }
  if (off.count > 0) {
    const std::string other = label.other->name();
    warnings.push_back(fmt::format(
        "{}: the config says {} and the format {}, but every zero is then off by one: the tensors are those of {} and "
        "are read so; correct checkpoint_format for other engines",
        path, label.says, packed.layout->name(), other));
    require_width(*label.other, packed.bits);
    packed.layout = label.other;
    config["quantization_config"]["checkpoint_format"] = other;
  }
  if (others.count > 0 && label.stated) {
    warnings.push_back(
        fmt::format("{}: the config says {}, but the zeros of {} are not all in the middle; they are read as "
                    "stored, and engines that go by the config read them wrongly; the first: {}",
                    path, label.says, counted(others.count, "linear"), others.first));
  }
}

// Not symmetric by the config. Nothing contradicts zeros that are all the same number, but where the other version
// reads it as the middle, that version is the likely one.
void warn_of_version(const PackedConfig& packed, const ZeroLabel& label, const std::vector<NamedLinear>& linears,
                     const std::string& path, std::vector<std::string>& warnings) {
  const int less = label.stored_less;
  size_t looked_at = 0;
  int found = 0;
  for (const NamedLinear& n : linears) {
    const std::vector<uint8_t> zeros = stored_zeros(*n.linear, false);
    if (zeros.empty()) continue;
    const int half = 1 << (n.linear->bits - 1);
    found = half - 1 + less;
    if (!std::all_of(zeros.begin(), zeros.end(), [&](uint8_t z) { return int{z} == found; })) return;
    ++looked_at;
  }
  if (looked_at == 0) return;
  const char* other = label.other->name();
  warnings.push_back(fmt::format(
      "{}: the config says sym: false and the format {}, but every zero is stored as {}, which {} reads as {} and {} "
      "as "
      "{}, the middle; the config counts, but the tensors are probably those of {}: if the model writes nonsense, set "
      "checkpoint_format to {}",
      path, packed.layout->name(), found, packed.layout->name(), found + less, other, found + 1 - less, other, other));
}

// The native layout stores each zero less the middle.
void warn_of_native_zeros(const std::vector<NamedLinear>& linears, const std::string& path,
                          std::vector<std::string>& warnings) {
  Found off;
  for (const NamedLinear& n : linears) {
    const TensorView* zeros = n.linear->zeros;
    if (zeros == nullptr || zeros->dtype != DType::kF16) continue;
    for (size_t at = 0; at + 2 <= zeros->bytes.size(); at += 2) {
      uint16_t bits = 0;
      std::memcpy(&bits, zeros->bytes.data() + at, 2);
      if ((bits & 0x7fffu) == 0) continue;
      off.add(n.name);
      break;
    }
  }
  if (off.count == 0) return;
  warnings.push_back(
      fmt::format("{}: the config says zero_point: false, but the zeros of {} linears are not all in the middle; they "
                  "are read as stored, and engines that go by the config read them wrongly; the first: {}",
                  path, off.count, off.first));
}

namespace {

std::vector<std::string> listed_modules(const json& settings, const char* key) {
  std::vector<std::string> out;
  const auto it = settings.find(key);
  if (it == settings.end() || !it->is_array()) return out;
  for (const json& entry : *it) {
    if (entry.is_string() && !entry.get<std::string>().empty()) out.push_back(entry.get<std::string>());
  }
  return out;
}

// Whether `entry` names the module, one above it, or the last parts of its name.
bool names_module(const std::string& entry, const std::string& module) {
  return ("." + module + ".").find("." + entry + ".") != std::string::npos;
}

// What the config leaves out and the file holds as codes, and the other way round.
void warn_of_modules(const json& settings, const std::vector<NamedLinear>& linears, const std::string& path,
                     std::vector<std::string>& warnings) {
  const std::vector<std::string> kept = listed_modules(settings, "modules_to_not_convert");
  Found found;
  std::string entry_of_first;
  bool head = false;
  for (const NamedLinear& n : linears) {
    head = head || n.module == "lm_head";
    const auto entry = std::find_if(kept.begin(), kept.end(), [&](const auto& e) { return names_module(e, n.module); });
    if (entry == kept.end()) continue;
    if (found.count == 0) entry_of_first = *entry;
    found.add(n.name);
  }
  if (found.count > 0) {
    warnings.push_back(fmt::format(
        "{}: modules_to_not_convert names {}, but codes are stored for {} of its linears; they are read as stored, and "
        "engines that go by the config do not load them; the first: {}",
        path, shown(entry_of_first), found.count, found.first));
  }
  const auto it = settings.find("lm_head");
  if (it == settings.end() || !it->is_boolean() || it->get<bool>() == head) return;
  warnings.push_back(
      head ? fmt::format(
                 "{}: the config says lm_head: false, but codes are stored for lm_head; they are read as stored, "
                 "and engines that go by the config do not load them",
                 path)
           : fmt::format(
                 "{}: the config says lm_head: true, but no codes are stored for lm_head; what is stored counts, "
                 "and engines that go by the config do not load it",
                 path));
}

}  // namespace

std::vector<std::string> settle_labels(PackedConfig& packed, json& config, const std::vector<NamedLinear>& linears,
                                       const std::string& path) {
  std::vector<std::string> warnings;
  if (packed.layout == nullptr || !config.contains("quantization_config")) return warnings;
  warn_of_modules(config["quantization_config"], linears, path, warnings);
  packed.layout->settle_labels(packed, config, linears, path, warnings);
  return warnings;
}

}  // namespace metal_marlin
