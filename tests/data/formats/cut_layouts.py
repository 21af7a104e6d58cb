#!/usr/bin/env python3
"""Cut the tensors that tests/pack needs out of full layout files: cut_layouts.py FOLDER.

FOLDER holds native.safetensors, awq_{sym,asym}_g{64,128}.safetensors, gptq_*, marlin_*, ct_* and mlx_*.safetensors. Their
tensors: "q.*" logical codes [K, N] and zeros [G, N], "ref.gemm.*", "ref.gemv.*" and
"ref.gemv_fast.*" what AutoAWQ 0.2.9's WQLinear_GEMM, _GEMV and _GEMVFast.from_linear made of them, "ref.*" of gptq what GPTQModel 7.7.0's pack_original and zero shifts made of them ("qzeros_v1": by nibbles,
"qzeros_v1_word_sub": by words), "ref.*" of marlin what marlin.Layer.pack of IST-DASLab/marlin made of them, "in.scales"
its scales before, "ref.*" of ct what compressed-tensors 0.19.0 and of mlx what mlx 0.32.4 made, "own.*" the native layout by its formula in numpy. Needs numpy and safetensors 0.8.
"""

import json
import pathlib
import sys

from safetensors import safe_open
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
KEEP = {
    "native": ("own.", "in.full_range"),
    **{f"awq_{s}_g{g}": ("q.", "ref.") for s in ("sym", "asym") for g in (64, 128)},
    **{
        f"gptq_{s}": ("q.", "ref.")
        for s in ("sym_g64", "sym_g128", "asym_g64", "asym_g128", "sym_g64_desc_act", "asym_g64_desc_act")
    },
    **{f"marlin_{g}": ("q.", "ref.", "in.scales") for g in ("g128", "channel")},
    **{f"ct_{s}_{g}": ("q.", "ref.weight", "ref.dequant") for s in ("sym", "asym") for g in ("g64", "g128", "channel")},
    "ct_ragged": ("q.", "ref."),
    **{f"mlx_g{g}": ("q.", "ref.") for g in (32, 64, 128)},
}


def main():
    for name, prefixes in KEEP.items():
        with safe_open(pathlib.Path(sys.argv[1]) / f"{name}.safetensors", "np") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys() if k.startswith(prefixes)}
            metadata = {"source": json.dumps(file.metadata(), sort_keys=True)}
        save_file(tensors, HERE / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    main()
