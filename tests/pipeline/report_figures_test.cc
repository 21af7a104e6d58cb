#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/report.h>

namespace metal_marlin {
namespace {

TEST(QuantizationReport, RefusesWhatIsNoReport) {
  EXPECT_THROW(quantization_report("{"), FormatError);
  EXPECT_THROW(quantization_report("{}"), Error);
}

}  // namespace
}  // namespace metal_marlin
