// A checkpoint in full precision: every float tensor in float16, no codes. Only `convert` writes it.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "layouts/layout.h"

namespace metal_marlin {

const Layout& f16_layout();

namespace {

class F16Layout : public Layout {
 public:
  const char* name() const noexcept override { return "f16"; }
  CardWords card_words(const LayoutPlan&) const override {
    return {.tag = "", .text = "float16", .transformers = true};
  }
  std::span<const int> widths() const noexcept override { return {}; }
  std::string refusal(int64_t, int64_t, int64_t, int) const override { return "it holds no codes"; }
  std::span<const PartNames> part_names() const noexcept override { return {}; }
  std::vector<TensorInfo> parts(const QuantizedLinear& linear) const override { refuse(linear.name); }
  PackedTensor pack(const QuantizedTensor&, const std::string& name) const override { refuse(name); }
  QuantizedTensor unpack(const PackedLinear&, int64_t, const std::string& name, Codes) const override { refuse(name); }
  const char* method() const noexcept override { return ""; }
  bool recognises(const ConfigReader&) const override { return false; }
  void check(const LayoutPlan& plan) const override {
    if (!plan.quantized.empty()) refuse(plan.quantized.front().name);
  }
  void configure(const LayoutPlan&, const std::vector<std::string>&, nlohmann::json& config) const override {
    set_model_type_f16(config);
  }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear&, int64_t, int64_t, const std::string& name) const override {
    refuse(name);
  }

 private:
  [[noreturn]] static void refuse(const std::string& name) {
    throw ArgumentError(fmt::format("{}: the format f16 holds no codes", name));
  }
};

}  // namespace

const Layout& f16_layout() {
  static const F16Layout kLayout;
  return kLayout;
}

}  // namespace metal_marlin
