#include "records/json_records.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <metal_marlin/check.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/diff.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/plan_records.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "records/fields.h"
#include "records/strings.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// Says the first fault.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};
const RecordFault kFault = [](const std::string& place, const std::string& expected, const std::string& found) {
  throw Fault(place + ": expected " + expected + ", found " + found);
};

template <class Record = Report>
std::string fault_of(const json& value) {
  try {
    record_of<Record>(value, kFault);
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "";
}

class Golden : public testing::TestWithParam<const char*> {
 protected:
  std::string text() const { return text_of(TEST_DATA "/report/" + std::string(GetParam()) + ".json"); }
};

// Reports of version 0.2.0 as it was before there were records: schema 1 is what they hold, to the byte, beside keys
// that were added later. Only that of statistics from a file did not say that nothing was selected.
TEST_P(Golden, TheSchemaStays) {
  json value = json::parse(text());
  value["calibration"].emplace("selection", nullptr);
  json same = json_of(record_of<Report>(value, kFault));
  for (const json& change : json::diff(value, same)) {
    if (change["op"] == "add") same = same.patch({{{"op", "remove"}, {"path", change["path"]}}});
  }
  EXPECT_TRUE(same.dump(2) == value.dump(2)) << json::diff(value, same);
}

INSTANTIATE_TEST_SUITE_P(Report, Golden, testing::Values("evaluated", "mixed", "statistics"));

TEST(JsonRecords, AFaultNamesPlaceExpectedAndFound) {
  json value = json::parse(text_of(TEST_DATA "/report/mixed.json"));
  const auto with = [&](const char* pointer, const json& other) {
    json changed = value;
    changed[json::json_pointer(pointer)] = other;
    return fault_of(changed);
  };
  EXPECT_EQ(with("/linears/0/shape/1", "wide"), "linears/0/shape/1: expected an integer, found \"wide\"");
  EXPECT_EQ(with("/linears/0/shape", 7), "linears/0/shape: expected a list, found 7");
  EXPECT_EQ(with("/linears/0", nullptr), "linears/0: expected an object, found null");
  EXPECT_EQ(with("/model/bytes", 1.5), "model/bytes: expected an integer, found 1.5");
  EXPECT_EQ(with("/model/bytes", uint64_t{1} << 63), "model/bytes: expected an integer, found 9223372036854775808");
  EXPECT_EQ(with("/model/kl_divergence/mean", "x"), "model/kl_divergence/mean: expected a number or null, found \"x\"");
  EXPECT_EQ(with("/gate/passed", 1), "gate/passed: expected true, false or null, found 1");
  EXPECT_EQ(with("/input/path", 3), "input/path: expected a text, found 3");
  EXPECT_EQ(with("/run/stages/round", 3), "run/stages/round: expected an object, found 3");
  EXPECT_EQ(with("/options/skip", {1, "x"}), "options/skip: expected the value of an option, found [1,\"x\"]");
  EXPECT_EQ(with("/mixed/items/0/chosen/bits", nullptr), "mixed/items/0/chosen/bits: expected an integer, found null");
  EXPECT_EQ(fault_of(json::array()), ": expected an object, found []");
  value["model"].erase("positions");
  EXPECT_EQ(fault_of(value), "model/positions: expected an integer, found nothing");
}

// Earlier reports lack what came later, and files may hold more than we know.
TEST(JsonRecords, EarlierAndLaterReportsAreRead) {
  json value = json::parse(text_of(TEST_DATA "/report/evaluated.json"));
  for (const char* key : {"mixed", "rounding_choice", "scales", "files", "warnings", "padded"}) value.erase(key);
  value["run"].erase("identity");
  value["model"].erase("parts");
  value["model"]["later"] = {1, 2, 3};
  const auto report = record_of<Report>(value, kFault);
  EXPECT_FALSE(report.mixed);
  EXPECT_FALSE(report.run.identity);
  EXPECT_TRUE(report.model.parts.empty());
  EXPECT_FALSE(report.linears.empty());
}

TEST(JsonRecords, OptionsKeepTheirTypes) {
  const json value = {{"a", nullptr},    {"b", true},          {"c", -3},
                      {"d", 0.5},        {"e", "x"},           {"f", {"x"}},
                      {"g", {1.0, 2.5}}, {"h", json::array()}, {"i", uint64_t{1} << 63}};
  const auto identity = record_of<IdentityRecord>(json{{"options", value}}, kFault);
  EXPECT_EQ(json_of(identity)["options"], value);
  EXPECT_TRUE(std::holds_alternative<std::vector<double>>(identity.options.at("g")));
  EXPECT_TRUE(std::holds_alternative<uint64_t>(identity.options.at("i")));
}

TEST(StringVisitor, FindsEveryString) {
  auto report = record_of<Report>(json::parse(text_of(TEST_DATA "/report/mixed.json")), kFault);
  const std::string text = json_of(report).dump(2);
  StringVisitor([](std::string& s) { s += "!"; }, true).visit(report);
  // Every text and every key of a map in it, and nothing else.
  json value = json_of(report);
  std::function<void(json&, const std::string&)> check = [&](json& entry, const std::string& place) {
    if (entry.is_string()) {
      EXPECT_EQ(entry.get<std::string>().back(), '!') << place;
      entry = entry.get<std::string>().substr(0, entry.get<std::string>().size() - 1);
    }
    if (!entry.is_structured()) return;
    for (auto& [key, inner] : entry.items()) check(inner, place + "/" + key);
  };
  check(value, "");
  for (const char* map : {"/options", "/run/stages", "/run/identity/options", "/rounding_choice/damping"}) {
    json& object = value[json::json_pointer(map)];
    json cleaned = json::object();
    for (const auto& [key, entry] : object.items()) {
      EXPECT_EQ(key.back(), '!') << map;
      cleaned[key.substr(0, key.size() - 1)] = entry;
    }
    object = cleaned;
  }
  EXPECT_TRUE(value.dump(2) == text) << json::diff(json::parse(text), value);
}

// The pages list the fields as the records have them. METAL_MARLIN_WRITE_DOCS=1 writes the tables anew.
void expect_table(const std::string& name, const std::string& fields) {
  SCOPED_TRACE(name);
  const std::string path = SOURCE_FOLDER "/docs/" + name;
  const std::string page = text_of(path);
  const std::string begin = "<!-- fields -->\n";
  const std::string end = "<!-- end of fields -->\n";
  const size_t first = page.find(begin);
  const size_t last = page.find(end);
  ASSERT_NE(first, std::string::npos);
  ASSERT_NE(last, std::string::npos);
  const std::string table = fmt::format("\n{}\n", fields);
  if (std::getenv("METAL_MARLIN_WRITE_DOCS") != nullptr) {
    std::ofstream(path) << page.substr(0, first + begin.size()) << table << page.substr(last);
    return;
  }
  EXPECT_EQ(page.substr(first + begin.size(), last - first - begin.size()), table)
      << "run records_tests with METAL_MARLIN_WRITE_DOCS=1";
}

// As it was before Evaluation described its fields.
TEST(Evaluation, ItsJsonStays) {
  Evaluation e;
  e.model.perplexity = {.reference = 10, .quantized = 11.5};
  e.model.kl_divergence = {.mean = 0.5, .standard_error = 0.25, .p99 = 2};
  e.model.top1_agreement = 0.75;
  e.model.positions = 14;
  e.model.bits_per_weight = 4.25;
  e.model.bytes = 1000;
  EXPECT_EQ(e.to_json(), R"({
  "model": {
    "bits_per_weight": 4.25,
    "bytes": 1000,
    "kl_divergence": {
      "mean": 0.5,
      "p99": 2.0,
      "standard_error": 0.25
    },
    "perplexity": {
      "quantized": 11.5,
      "reference": 10.0
    },
    "positions": 14,
    "top1_agreement": 0.75
  },
  "perplexity": 11.5,
  "reference_perplexity": 10.0
})");
  e.model.perplexity.reference.reset();
  EXPECT_TRUE(json::parse(e.to_json())["reference_perplexity"].is_null());
}

TEST(Fields, ThePagesListThem) {
  expect_table("report.md", field_table<Report>());
  expect_table("quantize.md", field_table<Plan>());
  expect_table("inspect.md", field_table<Inspection>());
  expect_table("compare.md", field_table<Comparison>());
  expect_table("convert.md", field_table<ConvertResult>());
  expect_table("check.md", field_table<CheckResult>());
  expect_table("diff.md", field_table<DiffResult>());
}

}  // namespace
}  // namespace metal_marlin
