#!/usr/bin/env python3
"""Times awq_quantize against the column-by-column numpy algorithm that its interface comes from.

    python bench/awq_numpy.py [--in-features 4096 --out-features 4096 --tokens 2048]

The numpy side is written after a description of that algorithm: salience by partition of all scores, one factor per
output channel found column by column, absmax groups, packing by eight rows. Prints both times, the ratio, both output
errors and the memory that awq_quantize added at its peak, relative to the float32 weights.
"""

import argparse
import time

import numpy as np

import metal_marlin


def numpy_awq(weights, activations, group_size=128, ratio=0.01):
    k, n = weights.shape
    groups = k // group_size
    stats = np.sqrt(np.mean(activations**2, axis=(0, 1)))
    scores = (stats / stats.max())[:, None] * (np.abs(weights) / np.abs(weights).max())
    count = int(scores.size * ratio)
    threshold = np.partition(scores.ravel(), -count)[-count]
    mask = scores >= threshold
    scales = np.maximum(np.abs(weights.reshape(groups, group_size, n)).max(1) / 7, 1e-7)
    full = np.repeat(scales, group_size, axis=0)
    q_scale = np.ones(n, np.float32)
    for column in range(n):
        rows = mask[:, column]
        if not rows.any():
            continue
        salient = np.abs(weights[rows, column])
        q_scale[column] = max(1.0, (7 * full[rows, column] / np.maximum(salient, 1e-7)).min())
    scaled = weights * q_scale
    scales = np.maximum(np.abs(scaled.reshape(groups, group_size, n)).max(1) / 7, 1e-7)
    codes = np.clip(np.round(scaled / np.repeat(scales, group_size, axis=0)), -8, 7).astype(np.int8)
    nibbles = np.clip(codes.astype(np.int32) + 7, 0, 15).astype(np.uint32).reshape(k // 8, 8, n)
    packed = np.zeros((k // 8, n), np.uint32)
    for i in range(8):
        packed |= nibbles[:, i] << np.uint32(4 * i)
    restored = codes * np.repeat(scales.astype(np.float16).astype(np.float32), group_size, axis=0) / q_scale
    error = float(((restored - weights) ** 2).sum())
    return packed, restored, error


def memory_kib(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in-features", type=int, default=4096)
    parser.add_argument("--out-features", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=2048)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((options.in_features, options.out_features)) * 0.1).astype(np.float32)
    activations = rng.standard_normal((1, options.tokens, options.in_features)).astype(np.float32)
    activations[:, :, ::50] *= 20
    outputs = activations[0] @ weights

    start = time.perf_counter()
    gptq = metal_marlin.gptq_quantize(weights[:, :64], activations)  # warms the libraries up
    del gptq
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak starts anew
    before = memory_kib("VmRSS")
    cpu = time.process_time()
    start = time.perf_counter()
    result = metal_marlin.awq_quantize(weights, activations)
    ours, ours_cpu = time.perf_counter() - start, time.process_time() - cpu
    memory = (memory_kib("VmHWM") - before) * 1024 / weights.nbytes

    cpu = time.process_time()
    start = time.perf_counter()
    _, restored, _ = numpy_awq(weights, activations)
    theirs, theirs_cpu = time.perf_counter() - start, time.process_time() - cpu
    relative = np.linalg.norm(activations[0] @ restored - outputs) / np.linalg.norm(outputs)
    print(f"awq_quantize      {ours:8.2f} s  ({ours_cpu:.2f} s of processor)  output error {result.output_error:.4f}")
    print(f"numpy, by columns {theirs:8.2f} s  ({theirs_cpu:.2f} s of processor)  output error {relative:.4f}")
    print(
        f"ratio {theirs / ours:.2f}, of processor time {theirs_cpu / ours_cpu:.2f}; peak memory of awq_quantize: {memory:.2f} x the float32 weights"
    )


if __name__ == "__main__":
    main()
