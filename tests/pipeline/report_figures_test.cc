#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/report.h>

namespace metal_marlin {
namespace {

TEST(Report, RefusesWhatIsNone) {
  EXPECT_THROW(report_from_json("{"), FormatError);
  EXPECT_THROW(report_from_json("{}"), FormatError);
}

}  // namespace
}  // namespace metal_marlin
