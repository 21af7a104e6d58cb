// Checkpoints in full precision: every float tensor in float16, or in GGUF in bfloat16, no codes. Only `convert` writes
// them.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "layouts/layout.h"

namespace metal_marlin {

const Layout& f16_layout();
const Layout& gguf_f16_layout();
const Layout& gguf_bf16_layout();

namespace {

class FloatLayout : public Layout {
 public:
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

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear&, int64_t, int64_t, const std::string& name) const override {
    refuse(name);
  }

 private:
  [[noreturn]] void refuse(const std::string& linear) const {
    throw ArgumentError(fmt::format("{}: the format {} holds no codes", linear, name()));
  }
};

class F16Layout : public FloatLayout {
 public:
  const char* name() const noexcept override { return "f16"; }
  CardWords card_words(const LayoutPlan&) const override {
    return {.tag = "", .text = "float16", .transformers = true};
  }
  void configure(const LayoutPlan&, const std::vector<std::string>&, nlohmann::json& config) const override {
    set_model_type_f16(config);
  }
};

class GgufFloatLayout : public FloatLayout {
 public:
  explicit GgufFloatLayout(DType type) : type_(type) {}
  const char* name() const noexcept override { return type_ == DType::kBF16 ? "gguf:BF16" : "gguf:F16"; }
  CardWords card_words(const LayoutPlan&) const override {
    return {.tag = "gguf",
            .text = type_ == DType::kBF16 ? "bfloat16 (GGUF)" : "float16 (GGUF)",
            .transformers = false,
            .llama_cpp = true};
  }
  ContainerKind container() const noexcept override { return ContainerKind::kGguf; }
  std::optional<uint32_t> gguf_file_type() const noexcept override { return type_ == DType::kBF16 ? 32 : 1; }
  DType kept_type(DType, const LayoutPlan&) const override { return type_; }
  void configure(const LayoutPlan&, const std::vector<std::string>&, nlohmann::json&) const override {}

 private:
  DType type_;
};

}  // namespace

const Layout& f16_layout() {
  static const F16Layout kLayout;
  return kLayout;
}

const Layout& gguf_f16_layout() {
  static const GgufFloatLayout kLayout(DType::kF16);
  return kLayout;
}

const Layout& gguf_bf16_layout() {
  static const GgufFloatLayout kLayout(DType::kBF16);
  return kLayout;
}

}  // namespace metal_marlin
