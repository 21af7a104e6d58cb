#!/usr/bin/env python3
"""Makes hqq.safetensors: weights as hqq's HQQLinear stores them, in each number of bits: make_hqq.py BITPACK.PY.

BITPACK.PY is hqq/core/bitpack.py of hqq 0.2.8, whose packing and unpacking run here on numpy arrays with the two things of
a tensor that they ask for. NAME.W_q, NAME.scale, NAME.zero, NAME.shape: a random weight [16, 64] in groups of 32 along the
inputs. ref.NAME.codes U8 [16, 64]: what hqq unpacks; ref.NAME.dequant F64 [16, 64]: (code - zero) * scale. Names: b1, b2, b3, b4, b8;
b4_view: labelled as float16; b4_round: zeros that are codes; b3_padded: 22 groups, no multiple of ten. Needs numpy and safetensors.
"""

import pathlib
import sys
import types

import numpy as np
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
GROUP = 32


class Tensor(np.ndarray):
    device = "cpu"

    def to(self, dtype):
        return self.astype(dtype)


def fake(shape, device=None, dtype=None):
    return np.zeros(shape, dtype).view(Tensor)


def bitpack(path):
    torch = types.ModuleType("torch")
    torch.uint8, torch.int32, torch.Tensor = np.uint8, np.int32, Tensor
    torch.zeros = torch.empty = fake
    sys.modules["torch"] = torch
    module = types.ModuleType("bitpack")
    exec(compile(pathlib.Path(path).read_text(), path, "exec"), module.__dict__)
    return module.BitPack


def main():
    pack = bitpack(sys.argv[1])
    rng = np.random.default_rng(1)
    tensors = {}
    for name, bits, out in (
        ("b1", 1, 16),
        ("b2", 2, 16),
        ("b3", 3, 16),
        ("b3_padded", 3, 11),
        ("b4", 4, 16),
        ("b4_view", 4, 16),
        ("b4_round", 4, 16),
        ("b8", 8, 16),
    ):
        form = "3bit_32" if bits == 3 else f"{bits}bit_u8"
        groups = out * 64 // GROUP
        codes = rng.integers(0, 2**bits, (groups, GROUP)).astype(np.uint8).view(Tensor)
        scale = (rng.random((groups, 1)) / 16 + 0.01).astype(np.float16)
        zero = (rng.random((groups, 1)) * (2**bits - 1)).astype(np.float16)
        if name == "b4_round":
            zero = zero.round()
        packed = getattr(pack, f"pack_{form}")(codes)
        unpacked = getattr(pack, f"unpack_{form}")(packed)[:groups]
        assert (unpacked == codes).all()
        packed = np.ascontiguousarray(packed).view(np.ndarray)
        tensors[f"{name}.W_q"] = packed.view(np.float16) if name == "b4_view" else packed
        tensors[f"{name}.scale"] = scale
        tensors[f"{name}.zero"] = zero
        tensors[f"{name}.shape"] = np.array([out, 64])
        tensors[f"ref.{name}.codes"] = np.ascontiguousarray(unpacked).view(np.ndarray).reshape(out, 64)
        weight = (codes.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)
        tensors[f"ref.{name}.dequant"] = np.ascontiguousarray(weight).view(np.ndarray).reshape(out, 64)
    save_file(tensors, HERE / "hqq.safetensors")


if __name__ == "__main__":
    main()
