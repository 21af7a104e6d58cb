"""Products of OpenVINO with one weight [4096, 4096] of 4 bits (asymmetric, groups of 128), weights from memory.

  openvino_product.py THREADS SECONDS

For 1, 8 and 512 rows a line `rows GB/s GFLOP/s`, the median of the calls. scripts/bench_peers.sh runs it in its venv.
"""

import statistics
import sys
import time

import numpy as np
import openvino as ov
from openvino import opset13 as op

SIZE, GROUP, WEIGHTS = 4096, 128, 12
BYTES = SIZE * SIZE // 2 + SIZE * SIZE // GROUP * 2.5


KEPT = []  # a tensor of 4-bit values shares the memory of its array


def four_bits(rng, shape):
    KEPT.append(rng.integers(0, 256, int(np.prod(shape)) // 2, np.uint8))
    return op.constant(ov.Tensor(KEPT[-1], ov.Shape(shape), ov.Type.u4))


def model(rng):
    codes = op.convert(four_bits(rng, [SIZE, SIZE // GROUP, GROUP]), ov.Type.f16)
    zeros = op.convert(four_bits(rng, [SIZE, SIZE // GROUP, 1]), ov.Type.f16)
    scale = op.constant(np.full((SIZE, SIZE // GROUP, 1), 0.01, np.float16))
    w = op.multiply(op.subtract(codes, zeros), scale)
    w = op.convert(op.reshape(w, [SIZE, SIZE], False), ov.Type.f32)
    x = op.parameter([-1, SIZE], ov.Type.f32)
    return ov.Model([op.matmul(x, w, False, True)], [x])


def main():
    threads, seconds = int(sys.argv[1]), float(sys.argv[2])
    core, rng = ov.Core(), np.random.default_rng(0)
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    requests = [core.compile_model(model(rng), "CPU", options).create_infer_request() for _ in range(WEIGHTS)]
    for rows in (1, 8, 512):
        x = ov.Tensor(rng.standard_normal((rows, SIZE), np.float32))
        for r in requests:
            r.set_input_tensor(x)
            r.infer()
        times, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 5:
            begin = time.perf_counter()
            requests[len(times) % WEIGHTS].infer()
            times.append(time.perf_counter() - begin)
        median = statistics.median(times)
        print(rows, f"{BYTES * 1e-9 / median:.2f}", f"{2e-9 * rows * SIZE * SIZE / median:.1f}", flush=True)


if __name__ == "__main__":
    main()
