#!/usr/bin/env python3
"""Writes rtn_golden.bin (4 bits) and rtn_widths_golden.bin (3 and 8 bits), plain rounding as numpy does it. Needs numpy.

Per case, little-endian: int64 out, in, group, symmetric (0 or 1), and in rtn_widths_golden.bin bits; float32 weight [out, in]; uint16 f16 scale bits
[out, groups]; uint8 zeros [out, groups]; uint8 codes [out, in]. The last group of a row may be short.
"""

import pathlib
import sys

import numpy as np


def rtn(w, symmetric, bits):
    """One group: w float32 [n] -> (f16 scale, zero, codes)."""
    low, high = min(w.min(), np.float32(0)), max(w.max(), np.float32(0))
    top = 2**bits - 1
    s = np.abs(w).max() / np.float32(top // 2) if symmetric else (high - low) / np.float32(top)
    s16 = np.float16(np.clip(s, np.float32(2.0**-14), np.float32(65504)))
    s = np.float32(s16)
    z = np.float32(2 ** (bits - 1)) if symmetric else np.clip(np.rint(-low / s), 0, top)
    return s16, z, np.clip(np.rint(w / s) + z, 0, top)


def cases(rng, shapes, bits, with_bits):
    out = bytearray()
    for rows, cols, group in shapes:
        w = rng.standard_normal((rows, cols)).astype(np.float32) * rng.choice([1e-4, 0.05, 3.0], (rows, 1)).astype(
            np.float32
        )
        w[-1, : group // 2] = np.linspace(-3.5, 3.5, group // 2, dtype=np.float32)  # many exact ties
        if rows > 2:
            w[0, :group] = 0
            w[1, :group] = np.float32(1e-9)  # below what f16 can scale
            w[2, group : 2 * group] = np.abs(w[2, group : 2 * group]) * np.float32(3e5)  # scales beyond f16
        for symmetric in (1, 0):
            groups = [[rtn(row[g : g + group], symmetric, bits) for g in range(0, cols, group)] for row in w]
            out += (
                np.array([rows, cols, group, symmetric] + [bits] * with_bits, "<i8").tobytes()
                + w.astype("<f4").tobytes()
            )
            out += np.array([[g[0] for g in row] for row in groups], "<f2").tobytes()
            out += np.array([[g[1] for g in row] for row in groups]).astype(np.uint8).tobytes()
            out += np.concatenate([np.concatenate([g[2] for g in row]) for row in groups]).astype(np.uint8).tobytes()
    return out


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    rng = np.random.default_rng(7)
    shapes = [(6, 256, 64), (3, 200, 64), (1, 7, 7), (5, 128, 128), (4, 96, 32)]
    (folder / "rtn_golden.bin").write_bytes(cases(rng, shapes, 4, False))
    shapes = [(4, 200, 64), (1, 7, 7), (3, 256, 256), (4, 96, 32)]
    (folder / "rtn_widths_golden.bin").write_bytes(cases(rng, shapes, 3, True) + cases(rng, shapes, 8, True))


if __name__ == "__main__":
    main()
