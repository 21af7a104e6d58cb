#!/usr/bin/env python3
"""Make gguf_blocks.safetensors: blocks of every ggml type that the program dequantizes, and gguf-py's values for them.

random.TYPE U8: blocks of random bytes whose f16 fields are random finite halfs of both signs, zero and subnormal too;
random.TYPE.values F32: gguf.quants.dequantize of them. weight F32 and quantized.TYPE U8: a weight and gguf-py's
quantization of it, where it has one. Needs numpy, gguf 0.19 and safetensors 0.8.
"""

import pathlib

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
ELEMENTS = 1024
# Offsets of the f16 fields in a block.
HALFS = {
    T.Q4_0: [0],
    T.Q4_1: [0, 2],
    T.Q5_0: [0],
    T.Q5_1: [0, 2],
    T.Q8_0: [0],
    T.Q2_K: [80, 82],
    T.Q3_K: [108],
    T.Q4_K: [0, 2],
    T.Q5_K: [0, 2],
    T.Q6_K: [208],
    T.IQ4_NL: [0],
    T.IQ4_XS: [0],
}
QUANTIZERS = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]


def finite_halfs(rng, n):
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] ^= 0x4000
    bits[::7] &= 0x83FF  # zero and subnormal
    return bits


def main():
    rng = np.random.Generator(np.random.PCG64(20260802))
    tensors = {}
    for kind, offsets in HALFS.items():
        block, size = GGML_QUANT_SIZES[kind]
        rows = ELEMENTS // block
        data = rng.integers(0, 256, (rows, size), dtype=np.uint8)
        for offset in offsets:
            data[:, offset : offset + 2] = finite_halfs(rng, rows).view(np.uint8).reshape(rows, 2)
        tensors[f"random.{kind.name}"] = data
        tensors[f"random.{kind.name}.values"] = np.ascontiguousarray(dequantize(data, kind)).astype(np.float32)
    halfs = finite_halfs(rng, ELEMENTS)
    tensors["random.F16"] = halfs.view(np.uint8)
    tensors["random.F16.values"] = halfs.view(np.float16).astype(np.float32)
    brains = rng.integers(0, 1 << 16, ELEMENTS, dtype=np.uint16)
    brains[(brains & 0x7F80) == 0x7F80] ^= 0x4000
    tensors["random.BF16"] = brains.view(np.uint8)
    tensors["random.BF16.values"] = np.ascontiguousarray(dequantize(brains.view(np.uint8), T.BF16)).astype(np.float32)
    weight = rng.standard_normal((2, 512)).astype(np.float32) * 0.05
    tensors["weight"] = weight
    for kind in QUANTIZERS:
        tensors[f"quantized.{kind.name}"] = np.ascontiguousarray(quantize(weight, kind))
    save_file(tensors, HERE / "gguf_blocks.safetensors", {"source": "gguf-py 0.19.0"})


if __name__ == "__main__":
    main()
