#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/report.h>

namespace metal_marlin {
namespace {

TEST(Report, RefusesWhatIsNone) {
  EXPECT_THROW(report_from_json("{"), FormatError);
  EXPECT_THROW(report_from_json("{}"), FormatError);
  // One cure: a damaged report is made again, another file was named by mistake.
  const auto message = [](const std::string& text) {
    try {
      report_from_json(text, "f.txt");
    } catch (const FormatError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  for (const char* text : {"hello world", "", "  \n", "\x89PNG"}) {
    const std::string said = message(text);
    EXPECT_NE(said.find("expected a report that quantize wrote, found "), std::string::npos) << said;
    EXPECT_NE(said.find("name the folder of a run"), std::string::npos) << said;
    for (const char* other : {"download", "again"}) EXPECT_EQ(said.find(other), std::string::npos) << said;
  }
  const std::string damaged = message(R"({"schema": )");
  EXPECT_NE(damaged.find("run quantize again"), std::string::npos) << damaged;
  EXPECT_EQ(damaged.find("download"), std::string::npos) << damaged;
}

}  // namespace
}  // namespace metal_marlin
