// Whatever the renderers are given, what leaves the public interface is an Error.
#include <gtest/gtest.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/mixed_precision.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>

#include <filesystem>
#include <functional>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "core/border.h"
#include "model_run_fixture.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using Renderer = std::function<void(const std::string&)>;

// Lists cut to one entry: what holds for the first holds for the tenth.
void shorten(json& value) {
  if (value.is_array() && value.size() > 1) value.erase(value.begin() + 1, value.end());
  if (value.is_structured()) {
    for (json& entry : value) shorten(entry);
  }
}

std::vector<json::json_pointer> places_of(const json& value) {
  std::vector<json::json_pointer> out;
  const json flat = value.flatten();
  for (const auto& [path, unused] : flat.items()) {
    json::json_pointer place(path);
    for (; !place.empty(); place.pop_back()) {
      if (std::find(out.begin(), out.end(), place) == out.end()) out.push_back(place);
    }
  }
  return out;
}

// Every value of `valid` once as null, a number, a text, a list and an object, and once left out.
void expect_only_errors(const json& valid, const std::vector<Renderer>& renderers) {
  const json substitutes[] = {nullptr, -7, "text", json::array({1}), json::object({{"a", 1}})};
  for (const auto& place : places_of(valid)) {
    std::vector<json> damaged;
    for (const json& substitute : substitutes) {
      damaged.push_back(valid);
      damaged.back()[place] = substitute;
    }
    damaged.push_back(valid);
    json& parent = damaged.back()[place.parent_pointer()];
    if (parent.is_object()) parent.erase(place.back());
    for (const json& text : damaged) {
      for (const Renderer& render : renderers) {
        try {
          render(text.dump());
        } catch (const Error&) {
        } catch (const std::exception& error) {
          FAIL() << place.to_string() << ": " << error.what();
        }
      }
    }
  }
}

const std::vector<Renderer> kOfReports = {
    [](const std::string& text) { render_report_text(report_from_json(text)); },
    [](const std::string& text) { render_report_summary(report_from_json(text)); },
    [](const std::string& text) { render_report_html(report_from_json(text)); },
    [](const std::string& text) { quantization_report(report_from_json(text)); }};

class BorderTest : public ModelRunTest {};

TEST_F(BorderTest, DamagedReportsGiveErrorsAlone) {
  QuantizeOptions o = tiny_options();
  o.method = Method::kAwq;
  evaluate_on_text(o, 1);
  json report = json::parse(quantize_model(model(), out("o"), o).report.to_json());
  report["clamped"] = {{{"name", "a"}, {"format", "awq"}, {"clamped", 2}, {"flushed", 1}, {"largest", 1e6}}};
  report["calibration"]["few_tokens"] = {{{"name", "a.weight"}, {"tokens", 5}, {"in_features", 32}}};
  report["gate"] = {{"max_kl", 0.1}, {"passed", true}};
  report["mixed"] = {{"tokens", 4},
                     {"kl_together", 0.1},
                     {"bits_per_weight", 4.0},
                     {"file_bits_per_weight", 4.5},
                     {"estimated_kl", 0.1},
                     {"target_bits", 4.5},
                     {"items",
                      {{{"layer", 0},
                        {"tap", "qkv"},
                        {"weights", 12},
                        {"kl", 0.1},
                        {"kl_standard_error", 0.01},
                        {"chosen", {{"bits", 4}, {"group_size", 8}, {"estimated_kl", 0.1}}}}}}};
  shorten(report);
  for (const Renderer& render : kOfReports) EXPECT_NO_THROW(render(report.dump()));
  expect_only_errors(report, kOfReports);
}

// Fields that the library would fill, as a caller may.
TEST_F(BorderTest, AnyRecordIsRendered) {
  EXPECT_FALSE(render_inspection({}).empty());
  EXPECT_FALSE(render_comparison({}).empty());
  EXPECT_FALSE(render_conversion({}).empty());
  Inspection inspection = inspect_model(model());
  for (const char* text : {"", "{", "\xff"}) {
    inspection.quantization = JsonText{text};
    EXPECT_THROW(render_inspection(inspection), Error) << text;
    EXPECT_THROW(inspection.to_json(), Error) << text;
  }
  for (const char* text : {"[]", "null", "3", "\"x\"", "[[[]]]", "{\"dynamic\": 4}"}) {
    inspection.quantization = JsonText{text};
    EXPECT_NO_THROW(render_inspection(inspection)) << text;
    EXPECT_EQ(json::parse(inspection.to_json())["quantization"], json::parse(text));
  }
  Comparison comparison;
  comparison.tensors.push_back({"\x1b[31m", {}, 0, 0, {}});
  EXPECT_NE(render_comparison(comparison).find("\\x1b[31m"), std::string::npos);
}

TEST_F(BorderTest, DamagedSensitivityGivesErrorsAlone) {
  json measured = json::parse(sensitivity_of_model(model(), tiny_options()).to_json());
  shorten(measured);
  const Renderer read = [](const std::string& text) { sensitivity_profile(sensitivity_from_json(text)); };
  EXPECT_NO_THROW(read(measured.dump()));
  expect_only_errors(measured, {read});
  for (const Renderer& reader : std::vector<Renderer>{read, [](const std::string& text) { report_from_json(text); }}) {
    for (const char* text : {"", "{", "[]", "null", "3", "\"x\"", "{}", "[[[]]]"})
      EXPECT_THROW(reader(text), Error) << text;
  }
}

TEST(Border, ForeignExceptionsBecomeErrors) {
  const auto passed = [](const std::function<void()>& fault) {
    try {
      try {
        fault();
      } catch (...) {
        rethrow_as_error("the_function");
      }
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("passed");
  };
  EXPECT_NE(passed([] { throw std::bad_alloc(); }).find("out of memory"), std::string::npos);
  EXPECT_NE(passed([] { throw std::length_error("x"); }).find("out of memory"), std::string::npos);
  EXPECT_NE(passed([] { static_cast<void>(std::vector<int>().at(3)); }).find("internal fault"), std::string::npos);
  EXPECT_NE(passed([] { static_cast<void>(json::parse("{}").at("x")); }).find("the_function: expected JSON"),
            std::string::npos);
  EXPECT_NE(passed([] {
              static_cast<void>(std::filesystem::file_size("/nothing/there"));
            }).find("/nothing/there: the system refuses"),
            std::string::npos);
  EXPECT_EQ(passed([] { throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again)); }),
            "the_function: the system refuses: Resource temporarily unavailable");
  EXPECT_EQ(passed([] { throw ArgumentError("as it was"); }), "as it was");
  try {
    try {
      throw Interrupted("stopped");
    } catch (...) {
      rethrow_as_error("f");
    }
  } catch (const Interrupted&) {
    return;
  }
  FAIL() << "Interrupted lost its kind";
}

}  // namespace
}  // namespace metal_marlin
