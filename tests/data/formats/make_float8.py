#!/usr/bin/env python3
"""Makes float8.safetensors: weights in floats of 8 bits (E4M3), with numpy and ml_dtypes.

e4m3 F8_E4M3 [256] and ref.e4m3 F32: every byte, and its value by ml_dtypes 0.6. NAME.weight F8_E4M3 [40, 88] and
NAME.weight_scale (block: weight_scale_inv, F32 for blocks of [16, 32], the last ones short), and ref.NAME F32: the weight by value times
scale in float32. Names: tensor, channel, group (8 inputs), block.
"""

import json
import pathlib
import struct

import ml_dtypes
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
OUT, IN, BLOCK = 40, 88, (16, 32)
NAMES = {"float8_e4m3fn": "F8_E4M3", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def save(tensors, path):
    header, data = {}, b""
    for name, value in tensors.items():
        raw = value.tobytes()
        header[name] = {
            "dtype": NAMES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    rng = np.random.default_rng(3)
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    tensors = {"e4m3": every, "ref.e4m3": every.astype(np.float32)}
    rows, columns = np.arange(OUT), np.arange(IN)
    for name, shape, dtype, down, across in (
        ("tensor", (1,), np.float32, rows * 0, columns * 0),
        ("channel", (OUT, 1), ml_dtypes.bfloat16, rows, columns * 0),
        ("group", (OUT, IN // 8), np.float16, rows, columns // 8),
        ("block", (3, 3), np.float32, rows // BLOCK[0], columns // BLOCK[1]),
    ):
        weight = rng.standard_normal((OUT, IN)).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
        scale = (rng.random(shape) + 0.5).astype(dtype)
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.weight_scale" + ("_inv" if name == "block" else "")] = scale
        matrix = scale.astype(np.float32).reshape(shape if len(shape) == 2 else (1, 1))
        tensors[f"ref.{name}"] = weight.astype(np.float32) * matrix[down][:, across]
    save(tensors, HERE / "float8.safetensors")


if __name__ == "__main__":
    main()
