// Names of the enumerators of options, as the command line, Python and the report have them.
#pragma once

#include <metal_marlin/compute.h>
#include <metal_marlin/options.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace metal_marlin {

template <class E>
struct EnumNames;
template <>
struct EnumNames<Method> {
  static constexpr std::pair<Method, const char*> kAll[] = {{Method::kAwq, "awq"},
                                                            {Method::kAwqPaper, "awq-paper"},
                                                            {Method::kAwqSalient, "awq-salient"},
                                                            {Method::kGptq, "gptq"},
                                                            {Method::kRtn, "rtn"}};
};
template <>
struct EnumNames<Effort> {
  static constexpr std::pair<Effort, const char*> kAll[] = {{Effort::kBest, "best"}, {Effort::kFast, "fast"}};
};
template <>
struct EnumNames<Scheme> {
  static constexpr std::pair<Scheme, const char*> kAll[] = {{Scheme::kAsymmetric, "asym"}, {Scheme::kSymmetric, "sym"}};
};
template <>
struct EnumNames<RangeChoice> {
  static constexpr std::pair<RangeChoice, const char*> kAll[] = {{RangeChoice::kAbsmax, "absmax"},
                                                                 {RangeChoice::kMse, "mse"},
                                                                 {RangeChoice::kGram, "gram"},
                                                                 {RangeChoice::kDiagonal, "diagonal"}};
};
template <>
struct EnumNames<ScaleLoss> {
  static constexpr std::pair<ScaleLoss, const char*> kAll[] = {
      {ScaleLoss::kLinear, "linear"}, {ScaleLoss::kFeedback, "feedback"}, {ScaleLoss::kBlock, "block"}};
};
template <>
struct EnumNames<Statistic> {
  static constexpr std::pair<Statistic, const char*> kAll[] = {
      {Statistic::kMean, "mean"}, {Statistic::kMax, "max"}, {Statistic::kRms, "rms"}};
};
template <>
struct EnumNames<MatmulPrecision> {
  static constexpr std::pair<MatmulPrecision, const char*> kAll[] = {{MatmulPrecision::kF32, "f32"},
                                                                     {MatmulPrecision::kBF16, "bf16"}};
};
template <>
struct EnumNames<Arithmetic> {
  static constexpr std::pair<Arithmetic, const char*> kAll[] = {
      {Arithmetic::kInt8, "int8"}, {Arithmetic::kBF16, "bf16"}, {Arithmetic::kF32, "f32"}};
};
template <>
struct EnumNames<Bos> {
  static constexpr std::pair<Bos, const char*> kAll[] = {
      {Bos::kAuto, "auto"}, {Bos::kAlways, "always"}, {Bos::kNever, "never"}};
};

// "awq-paper"; empty for a value that is none of the enumerators.
template <class E>
constexpr const char* name_of(E value) {
  for (const auto& [known, name] : EnumNames<E>::kAll)
    if (known == value) return name;
  return "";
}
template <class E>
constexpr std::optional<E> enum_named(std::string_view text) {
  for (const auto& [value, name] : EnumNames<E>::kAll)
    if (text == name) return value;
  return std::nullopt;
}
template <class E>
std::vector<std::string> enum_names() {
  std::vector<std::string> names;
  for (const auto& [value, name] : EnumNames<E>::kAll) names.emplace_back(name);
  return names;
}

}  // namespace metal_marlin
