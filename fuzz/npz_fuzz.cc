// npy and npz: any bytes give arrays of the size that their header says, or an Error.
#include <metal_marlin/error.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "formats/npz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  const auto bytes = std::as_bytes(std::span(data, size));
  constexpr uint64_t kLimit = uint64_t{1} << 22;
  try {
    const OwnedTensor array = parse_npy(bytes, "fuzz");
    if (static_cast<uint64_t>(array.view().elements()) * dtype_size(array.dtype) != array.bytes.size()) std::abort();
  } catch (const Error&) {
  }
  try {
    const NpzFile file(bytes, "fuzz", kLimit);
    for (const std::string& name : file.names()) {
      try {
        const NpyHeader header = file.header(name);
        if (header.data_bytes() > kLimit || header.columns() > 1 << 16) continue;
        file.load(name);
        NpzRows rows = file.rows(name);
        std::vector<float> out(static_cast<size_t>(header.columns()) * 2);
        rows.read(2, out.data());
        if (rows.remaining() > 1) rows.skip(1);
        rows.read(1, out.data());
      } catch (const Error&) {
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
