// AWQ gemv and gemv_fast (pack/awq_gemv.h), which are only read.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "families/config/config_reader.h"
#include "layouts/config/awq_settings.h"
#include "layouts/stored_layout.h"
#include "pack/awq_gemv.h"

namespace metal_marlin {

const StoredLayout& awq_gemv_layout();
const StoredLayout& awq_gemv_fast_layout();

namespace {

constexpr int kWidths[] = {4};

class AwqGemvLayout : public StoredLayout {
 public:
  const char* name() const noexcept override { return "awq_gemv"; }
  std::string text() const override { return "AWQ gemv"; }
  std::span<const int> widths() const noexcept override { return kWidths; }

  std::span<const PartNames> part_names() const noexcept override {
    static constexpr PartNames kNames[] = {{".qweight", ".scales", ".qzeros"}};
    return kNames;
  }
  bool has_rows() const noexcept override { return true; }
  QuantizedTensor unpack(const PackedLinear& l, int64_t group_size, const std::string& name,
                         Codes codes) const override {
    return unpack_awq_gemv(*l.codes, *l.zeros, *l.scales, group_size, name, codes);
  }

  const char* method() const noexcept override { return "awq"; }
  bool recognises(const ConfigReader& q) const override { return awq_variant(q) == "gemv"; }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear&, int64_t rows, int64_t columns,
                                      const std::string&) const override {
    return {rows, columns * 8};
  }
};

class AwqGemvFastLayout : public StoredLayout {
 public:
  const char* name() const noexcept override { return "awq_gemv_fast"; }
  std::string text() const override { return "AWQ gemv_fast"; }
  std::span<const int> widths() const noexcept override { return kWidths; }

  std::span<const PartNames> part_names() const noexcept override {
    static constexpr PartNames kNames[] = {{".qweight", ".scales", ".qzeros"},
                                           {".qweight", ".scales", ".scaled_zeros"}};
    return kNames;
  }
  QuantizedTensor unpack(const PackedLinear& l, int64_t group_size, const std::string& name,
                         Codes codes) const override {
    return unpack_awq_gemv_fast(*l.codes, *l.zeros, *l.scales, group_size, name, codes);
  }

  const char* method() const noexcept override { return "awq"; }
  bool recognises(const ConfigReader& q) const override {
    const std::string variant = awq_variant(q);
    return variant == "gemv_fast" || variant == "llm-awq";
  }
  void describe(const PackedConfig& config, const std::string&, const std::string& name,
                PackedLinear& linear) const override {
    linear.bits = config.bits;
    if (linear.codes->dtype == DType::kI16) return;
    throw FormatError(
        fmt::format("{}: expected I16, halfwords of gemv_fast, found {}; codes of I32 are those of version gemm, which "
                    "llm-awq wrote "
                    "at first: correct version and backend in quantization_config",
                    name, dtype_name(linear.codes->dtype)));
  }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear&, int64_t rows, int64_t columns,
                                      const std::string&) const override {
    return {rows * 4, columns};
  }
};

}  // namespace

const StoredLayout& awq_gemv_layout() {
  static const AwqGemvLayout kLayout;
  return kLayout;
}

const StoredLayout& awq_gemv_fast_layout() {
  static const AwqGemvFastLayout kLayout;
  return kLayout;
}

}  // namespace metal_marlin
