// All of the public interface.
#pragma once

#include <metal_marlin/array.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/bench.h>
#include <metal_marlin/compute.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/export.h>
#include <metal_marlin/generate.h>
#include <metal_marlin/gptq.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/interrupt.h>
#include <metal_marlin/mixed_precision.h>
#include <metal_marlin/mr_gptq.h>
#include <metal_marlin/options.h>
#include <metal_marlin/progress.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/quantize_matrix.h>
#include <metal_marlin/report.h>
#include <metal_marlin/report_records.h>
#include <metal_marlin/version.h>
