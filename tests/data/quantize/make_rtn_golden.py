#!/usr/bin/env python3
"""Writes rtn_golden.bin, plain rounding as numpy does it. Needs numpy.

Per case, little-endian: int64 out, in, group, symmetric (0 or 1); float32 weight [out, in]; uint16 f16 scale bits
[out, groups]; uint8 zeros [out, groups]; uint8 codes [out, in]. The last group of a row may be short.
"""
import pathlib
import sys

import numpy as np


def rtn(w, symmetric):
    """One group: w float32 [n] -> (f16 scale, zero, codes)."""
    low, high = min(w.min(), np.float32(0)), max(w.max(), np.float32(0))
    s = np.abs(w).max() / np.float32(7) if symmetric else (high - low) / np.float32(15)
    s16 = np.float16(np.clip(s, np.float32(2.0**-14), np.float32(65504)))
    s = np.float32(s16)
    z = np.float32(8) if symmetric else np.clip(np.rint(-low / s), 0, 15)
    return s16, z, np.clip(np.rint(w / s) + z, 0, 15)


def main():
    rng = np.random.default_rng(7)
    out = bytearray()
    for rows, cols, group in [(6, 256, 64), (3, 200, 64), (1, 7, 7), (5, 128, 128), (4, 96, 32)]:
        w = rng.standard_normal((rows, cols)).astype(np.float32) * rng.choice([1e-4, 0.05, 3.0], (rows, 1)).astype(np.float32)
        w[-1, : group // 2] = np.linspace(-3.5, 3.5, group // 2, dtype=np.float32)  # many exact ties
        if rows > 2:
            w[0, :group] = 0
            w[1, :group] = np.float32(1e-9)  # below what f16 can scale
            w[2, group : 2 * group] = np.abs(w[2, group : 2 * group]) * np.float32(3e5)  # scales beyond f16
        for symmetric in (1, 0):
            groups = [[rtn(row[g : g + group], symmetric) for g in range(0, cols, group)] for row in w]
            out += np.array([rows, cols, group, symmetric], "<i8").tobytes() + w.astype("<f4").tobytes()
            out += np.array([[g[0] for g in row] for row in groups], "<f2").tobytes()
            out += np.array([[g[1] for g in row] for row in groups]).astype(np.uint8).tobytes()
            out += np.concatenate([np.concatenate([g[2] for g in row]) for row in groups]).astype(np.uint8).tobytes()
    path = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("rtn_golden.bin"))
    path.write_bytes(out)


if __name__ == "__main__":
    main()
