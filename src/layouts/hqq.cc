// HQQ (pack/hqq.h), which is only read. Its tensors say all that there is to know, in small tensors beside the codes;
// the package's own files have no quantization_config.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "families/config/config_reader.h"
#include "formats/text.h"
#include "layouts/stored_layout.h"
#include "pack/group_arrays.h"
#include "pack/hqq.h"

namespace metal_marlin {

const StoredLayout& hqq_layout();

namespace {

// In this order PackedLinear::notes has them. The last ones are of no use here.
enum Note : uint8_t { kBits, kGroupSize, kAxis, kQuantScale, kQuantZero, kChannelWise };
constexpr const char* kNotes[] = {".nbits",
                                  ".group_size",
                                  ".axis",
                                  ".quant_scale",
                                  ".quant_zero",
                                  ".channel_wise",
                                  ".packing",
                                  ".view_as_float",
                                  ".unpack_view_dtype",
                                  ".compute_dtype",
                                  ".offload_meta",
                                  ".encoded_state_dict",
                                  ".stores_quant_config",
                                  ".optimize",
                                  ".round_zero"};

// The number in a note; nothing where there is none.
std::optional<double> number_in(const PackedLinear& l, Note note, const std::string& name) {
  const TensorView* view = l.notes[note];
  if (view == nullptr) return std::nullopt;
  const auto take = [&]<typename T>(T value) {
    std::memcpy(&value, view->bytes.data(), sizeof value);
    return static_cast<double>(value);
  };
  if (view->elements() == 1) {
    switch (view->dtype) {
      case DType::kU8:
        return take(uint8_t{});
      case DType::kI32:
        return take(int32_t{});
      case DType::kI64:
        return take(int64_t{});
      case DType::kF32:
        return take(float{});
      default:
        break;
    }
  }
  throw FormatError(fmt::format("{}: {}: expected one number, found {} {}", name, kNotes[note] + 1,
                                dtype_name(view->dtype), shape_string(view->shape)));
}

void refuse_parameters(const ConfigReader& q, const char* what) {
  if (!q.has(what)) return;
  throw UnsupportedError(
      fmt::format("{}: {}: scales and zeros that are quantized in turn are not supported: their settings are stored "
                  "by pickle alone",
                  q.file(), what));
}

// Bits and group size of "weight_quant_params".
ModuleScheme scheme_of(const ConfigReader& q) {
  refuse_parameters(q, "scale_quant_params");
  refuse_parameters(q, "zero_quant_params");
  const auto weights = q.find_object("weight_quant_params");
  if (!weights) q.fail("weight_quant_params", "an object");
  if (weights->find_int("axis", 0, 1).value_or(1) == 0) {
    throw UnsupportedError(fmt::format(
        "{}: axis 0 is not supported: its groups run along the outputs, which no grid here has; supported is axis 1",
        q.file()));
  }
  ModuleScheme out;
  const double bits = weights->find_number("nbits", 1, 8).value_or(4);
  out.bits = static_cast<int>(std::ceil(bits));  // 1.58 is stored as 2
  out.group_size = weights->find_int("group_size", 1, kLargestSize).value_or(-1);
  return out;
}

class HqqLayout : public StoredLayout {
 public:
  const char* name() const noexcept override { return "hqq"; }
  std::string text() const override { return "HQQ"; }
  std::span<const int> widths() const noexcept override { return hqq_widths(); }

  std::span<const PartNames> part_names() const noexcept override {
    static constexpr PartNames kNames[] = {
        {.codes = ".W_q", .scales = ".scale", .zeros = ".zero", .shape = ".shape", .notes = kNotes},
        {.codes = ".W_q", .scales = ".zero_scale", .shape = ".shape", .notes = kNotes}};
    return kNames;
  }
  QuantizedTensor unpack(const PackedLinear& l, int64_t, const std::string& name, Codes codes) const override {
    return unpack_hqq(*l.codes, *l.scales, l.zeros, *l.shape, l.bits, name, codes);
  }

  const char* method() const noexcept override { return "hqq"; }
  bool recognises(const ConfigReader&) const override { return true; }
  bool describes_itself() const noexcept override { return true; }
  bool has_own_sizes() const noexcept override { return true; }
  void read_settings(const ConfigReader& q, PackedConfig& out) const override {
    const auto settings = q.find_object("quant_config");
    if (!settings) return;  // the tensors say it all
    if (settings->has("weight_quant_params")) {
      const ModuleScheme all = scheme_of(*settings);
      require_width(q, all.bits);
      out.bits = all.bits;
      out.group_size = all.group_size;
      out.bits_stated = true;
      return;
    }
    for (const auto& [module, unused] : settings->object().items()) {  // "self_attn.q_proj": settings of each
      const auto own = settings->find_object(module.c_str());
      if (own) require_width(q, scheme_of(*own).bits);
    }
  }
  void describe(const PackedConfig& config, const std::string&, const std::string& name,
                PackedLinear& l) const override {
    for (const Note quantized : {kQuantScale, kQuantZero}) {
      if (number_in(l, quantized, name).value_or(0) == 0) continue;
      throw UnsupportedError(
          fmt::format("{}: {}: scales and zeros that are quantized in turn are not supported: their settings are "
                      "stored by pickle alone",
                      name, kNotes[quantized] + 1));
    }
    if (number_in(l, kChannelWise, name).value_or(1) == 0)
      throw UnsupportedError(fmt::format("{}: channel_wise: one scale for a whole weight is not supported", name));
    const HqqForm form = hqq_form(*l.codes, *l.scales, *l.shape, name);
    if (number_in(l, kAxis, name).value_or(1) != 1) {
      throw FormatError(
          fmt::format("{}: axis: expected 1, as its scales {} have it, found another number; fetch the model again",
                      name, shape_string(l.scales->shape)));
    }
    expect_number(number_in(l, kGroupSize, name), static_cast<double>(form.group_size), "group_size", name);
    const auto noted = number_in(l, kBits, name);
    l.bits = form.stored_bits;
    if (noted && form.stored_bits == 8 && (*noted == 5 || *noted == 6)) {
      l.bits = static_cast<int>(*noted);
    } else {
      expect_number(noted ? std::optional(std::ceil(*noted)) : noted, form.stored_bits, "nbits", name);
    }
    l.group_size = form.group_size;
    if (config.bits_stated && config.bits != l.bits) {
      throw FormatError(fmt::format("{}: expected codes of {} bits, as {} says (nbits), found {}; correct the config",
                                    name, config.bits, config.file, l.bits));
    }
  }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear& l, int64_t, int64_t, const std::string& name) const override {
    const HqqForm form = hqq_form(*l.codes, *l.scales, *l.shape, name);
    return {form.out_features, form.in_features};
  }

 private:
  void require_width(const ConfigReader& q, int bits) const {
    if (holds_width(bits)) return;
    throw UnsupportedError(
        fmt::format("{}: nbits: {} bits are not supported; supported are {}", q.file(), bits, list_widths(widths())));
  }
  static void expect_number(std::optional<double> found, double by_shape, const char* what, const std::string& name) {
    if (!found || *found == by_shape) return;
    throw FormatError(
        fmt::format("{}: {}: expected {}, by the shapes of codes and scales, found {}; fetch the model "
                    "again",
                    name, what, by_shape, *found));
  }
};

}  // namespace

const StoredLayout& hqq_layout() {
  static const HqqLayout kLayout;
  return kLayout;
}

}  // namespace metal_marlin
