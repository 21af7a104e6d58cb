// metal_marlin._core: the public C++ interface for Python, one file per header. The package's Python modules put names,
// defaults and result classes around it.
#include <metal_marlin/interrupt.h>
#include <metal_marlin/version.h>

#include "calls.h"

NB_MODULE(_core, m) {
  using namespace metal_marlin::python;
  metal_marlin::set_interrupt_check(&Callbacks::interrupt_asked);
  bind_errors(m);
  bind_awq(m);
  bind_gptq(m);
  bind_matrix(m);
  bind_mr_gptq(m);
  bind_mixed_precision(m);
  bind_models(m);
  m.attr("__version__") = metal_marlin::version();
}
