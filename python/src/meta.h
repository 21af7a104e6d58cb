// AWQMeta to and from the dict of Python.
#pragma once

#include <metal_marlin/awq.h>
#include <nanobind/nanobind.h>

namespace metal_marlin::python {

nanobind::dict to_dict(const AWQMeta& meta);
// ValueError or TypeError naming the key.
AWQMeta from_dict(const nanobind::dict& dict);

}  // namespace metal_marlin::python
