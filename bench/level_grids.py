#!/usr/bin/env python3
"""Output errors and processor time of 4 bits on FP4, NF4 and INT4, by GPTQ and plain rounding, with and without rotation.

A synthetic layer of 1024 x 1024: correlated inputs of which 20 channels are 20 times as strong, weights of which 0.2 % are 10
times as large; groups of 128. For docs/awq.md.
"""

from __future__ import annotations

import time

import numpy as np

from metal_marlin import FP4GPTQQuantizer, GPTQQuantizer, MRGPTQQuantizer, compute_hessian

SIZE, TOKENS = 1024, 4096


def main() -> None:
    r = np.random.default_rng(0)
    inputs = (r.standard_normal((TOKENS, SIZE)) @ (np.eye(SIZE) + 0.05 * r.standard_normal((SIZE, SIZE)))).astype(
        np.float32
    )
    inputs[:, r.choice(SIZE, 20, replace=False)] *= 20
    weights = (r.standard_normal((SIZE, SIZE)) * 0.05).astype(np.float32)
    weights = np.where(r.random(weights.shape) < 0.002, weights * 10, weights).astype(np.float32)
    hessian = compute_hessian(inputs)

    def output_error(values: np.ndarray) -> float:
        error = (values - weights).astype(np.float64)
        return float(np.sqrt(((error @ hessian) * error).sum() / ((weights @ hessian) * weights).sum()))

    print("format  plain   gptq    rotated: plain  gptq")
    for name in ("fp4", "nf4", "int4"):
        row = []
        for rotate in (False, True):
            quantizer = MRGPTQQuantizer(format=name, use_hadamard=rotate)
            row += [output_error(quantizer.dequantize(*quantizer.quantize_layer(weights, h))) for h in (None, hessian)]
        print(f"{name:6}  {row[0]:.4f}  {row[1]:.4f}           {row[2]:.4f}  {row[3]:.4f}")
    print("FP4GPTQQuantizer: scale_method, output error, seconds of processor time")
    for method in ("maxabs", "mse_grid", "mse_newton", "hessian"):
        start = time.process_time()
        result = FP4GPTQQuantizer(scale_method=method).quantize_weight(weights, hessian)
        print(f"{method:10}  {result.meta['output_error']:.4f}  {time.process_time() - start:.2f}")
    start = time.process_time()
    values = GPTQQuantizer().quantize_weight(weights, hessian).Q
    print(f"GPTQQuantizer (INT4, groups in act order)  {output_error(values):.4f}  {time.process_time() - start:.2f}")


if __name__ == "__main__":
    main()
