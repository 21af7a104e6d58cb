#!/usr/bin/env python3
"""Make the container files of tests/formats with the reference packages, and check their verdicts again.

reference_writer.safetensors  safetensors.serialize of one tensor of every element type, names that need escapes
savez.npz                     plain numpy.savez (zip64 extra fields, as numpy streams them)
deflated.npz                  numpy.savez_compressed
npy_v1.npy, npy_v2.npy, npy_v3.npy
container.gguf                gguf-py: every kind of value, tensors of three types
safetensors_cases.json        only checked here: safe_open must give the verdict that the file holds

Needs numpy, gguf 0.19 and safetensors 0.8.
"""

import json
import pathlib
import tempfile

import gguf
import numpy as np
import safetensors

HERE = pathlib.Path(__file__).resolve().parent
TYPES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "float8_e5m2": 1,
    "float8_e4m3fn": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "float64": 8,
    "int64": 8,
    "uint64": 8,
}


def arrays():
    a = np.arange(60, dtype=np.float32).reshape(3, 4, 5) / 8 - 3
    return {
        "model.layers.0.self_attn.q_proj.weight": a,
        "a/b": a[0],
        "f2": a.astype(np.float16),
        "f8": a.astype(np.float64),
        "big_f4": a.astype(">f4"),
        "big_f2": a.astype(">f2"),
        "big_i8": (a * 8).astype(">i8"),
        "fortran": np.asfortranarray(a),
        "fortran_big": np.asfortranarray(a.astype(">f4")),
        "i1": np.arange(-4, 4, dtype=np.int8),
        "u1": np.arange(8, dtype=np.uint8),
        "i2": np.arange(-4, 4, dtype=np.int16),
        "u2": np.arange(8, dtype=np.uint16) + 65528,
        "i4": np.arange(6, dtype=np.int32).reshape(2, 3),
        "u4": np.arange(3, dtype=np.uint32) + (1 << 31),
        "i8": np.arange(3, dtype=np.int64) - (1 << 40),
        "u8": np.arange(3, dtype=np.uint64) + (1 << 63),
        "b1": np.array([True, False, True]),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 4), np.float32),
        "no_columns": np.zeros((4, 0), np.float32),
    }


def main():
    tensors = {}
    for i, (name, size) in enumerate(TYPES.items()):
        data = bytes((17 * i + k) % 2 if name == "bool" else (17 * i + k) % 251 for k in range(size * 6))
        tensors[f"t.{name}"] = (name, [2, 3], data)
    tensors['q"uote\\ \n\x01 \u00e9\u4e2d'] = ("float32", [1], b"\0\0\x80\x3f")
    tensors["scalar"] = ("float16", [], b"\0\x3c")
    tensors["empty"] = ("bfloat16", [0, 4], b"")
    buffers = {k: np.frombuffer(data, np.uint8) for k, (_, _, data) in tensors.items()}
    specs = {
        k: safetensors.TensorSpec(dtype=dtype, shape=shape, data_ptr=buffers[k].ctypes.data, data_len=len(data))
        for k, (dtype, shape, data) in tensors.items()
    }
    (HERE / "reference_writer.safetensors").write_bytes(safetensors.serialize(specs, {"for\tmat": 'p"t'}))

    np.savez(HERE / "savez.npz", **arrays())
    np.savez_compressed(HERE / "deflated.npz", **arrays())
    for version in (1, 2, 3):
        with open(HERE / f"npy_v{version}.npy", "wb") as file:
            np.lib.format.write_array(file, np.arange(40, dtype=np.float32).reshape(5, 8), version=(version, 0))

    w = gguf.GGUFWriter(HERE / "container.gguf", "llama")
    w.add_name("tiny")
    w.add_uint8("t.u8", 200)
    w.add_int8("t.i8", -100)
    w.add_uint16("t.u16", 60000)
    w.add_int16("t.i16", -30000)
    w.add_uint32("t.u32", 4000000000)
    w.add_int32("t.i32", -2000000000)
    w.add_uint64("t.u64", (1 << 63) + 5)
    w.add_int64("t.i64", -(1 << 60))
    w.add_float32("t.f32", 0.1)
    w.add_float64("t.f64", 0.1)
    w.add_bool("t.bool", True)
    w.add_string("t.string", "h\u00e9llo")
    w.add_array("t.strings", ["<s>", "", "\u4e2d"])
    w.add_array("t.ints", [1, -2, 3])
    w.add_array("t.floats", [0.5, -1.25])
    w.add_array("t.bools", [True, False, True])
    m = (np.arange(64, dtype=np.float32).reshape(2, 32) - 31) / 4
    w.add_tensor("token_embd.weight", m)
    w.add_tensor(
        "blk.0.attn_q.weight",
        gguf.quants.quantize(m, gguf.GGMLQuantizationType.Q8_0),
        raw_dtype=gguf.GGMLQuantizationType.Q8_0,
    )
    w.add_tensor("blk.0.attn_norm.weight", m[0].astype(np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

    for name, case in json.loads((HERE / "safetensors_cases.json").read_text())["cases"].items():
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            file.write(bytes.fromhex(case["hex"]))
            file.flush()
            try:
                with safetensors.safe_open(file.name, framework="np"):
                    verdict = "accepted"
            except Exception:
                verdict = "rejected"
            assert case["verdict"].startswith(verdict), name


if __name__ == "__main__":
    main()
