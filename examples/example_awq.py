#!/usr/bin/env python3
"""AWQ on synthetic layers, and on a layer of a real model.

python examples/example_awq.py                  # synthetic layers
python examples/example_awq.py --model MODEL    # also the first layer's linears of MODEL, on text that it writes itself
"""

from __future__ import annotations

import argparse
import os
import tempfile

import numpy as np

from metal_marlin import (
    awq_dequantize,
    awq_quantize,
    calibrate_model,
    compute_activation_stats,
    find_salient_weights,
    gptq_quantize,
)

GROUP = 128


def banner(text: str) -> None:
    print(f"\n{'=' * 70}\n{text}\n{'=' * 70}")


def synthetic(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((512, 256)) * 0.1).astype(np.float32)
    activations = rng.standard_normal((10, 128, 512)).astype(np.float32)
    activations[:, :, :50] *= 2
    return weights, activations


def outliers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Channels of very different strength, as language models have them."""
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((1024, 256)) * 0.1).astype(np.float32)
    activations = rng.standard_normal((10, 128, 1024)).astype(np.float32)
    activations[:, :, rng.permutation(1024)[:120]] *= np.geomspace(5, 12, 120, dtype=np.float32)
    return weights, activations


def size(result) -> int:
    return result.Q.nbytes + result.scales.nbytes + result.zeros.nbytes + result.q_scale.nbytes


def basic() -> None:
    banner("Basic AWQ Quantization")
    weights, activations = synthetic()
    print(f"Weights: {weights.shape}, {weights.dtype}, {weights.min():.3f} to {weights.max():.3f}")
    stats = compute_activation_stats(activations)
    print(f"Activation statistics: {stats.shape}, {stats.min():.3f} to {stats.max():.3f}")
    mask, _ = find_salient_weights(weights, stats)
    print(f"Salient weights: {mask.sum()} / {mask.size} ({100 * mask.mean():.2f} %)")
    result = awq_quantize(weights, activations, group_size=GROUP)
    print(
        f"Q: {result.Q.shape}, scales: {result.scales.shape}, zeros: {result.zeros.shape}, q_scale: {result.q_scale.shape}"
    )
    print(f"Quantization error: {result.quantization_error:.6f}")
    values = awq_dequantize(result.Q, result.scales, result.zeros, result.q_scale, result.meta, "float32")
    print(f"MSE: {np.mean((values - weights) ** 2):.8f}")
    print(f"Relative error of the weights: {np.linalg.norm(values - weights) / np.linalg.norm(weights):.4f}")
    print(f"Relative error of the outputs: {result.output_error:.4f}")
    before, after = weights.nbytes, size(result)
    print(f"Size: {before / 1024:.1f} KB in float32, {after / 1024:.1f} KB in 4 bits")
    print(f"Compression ratio: {before / after:.2f}x against float32, {before / 2 / after:.2f}x against float16")


def compare(rows) -> list:
    results = []
    for name, result in rows:
        print(
            f"  {name:<12} error {result.quantization_error:10.6f}   outputs {result.output_error:.5f}   "
            f"scaled channels {result.meta['salient_channels']:4d}   {size(result) / 1024:.1f} KB"
        )
        results.append((name, result))
    return results


def salient_ratios(weights: np.ndarray, activations: np.ndarray, group: int = GROUP) -> None:
    ratios = (0.005, 0.01, 0.02)
    results = compare((str(r), awq_quantize(weights, activations, group, r)) for r in ratios)
    print(f"Best accuracy: {min(results, key=lambda r: r[1].output_error)[0]}")
    print("Best compression: none, the size does not depend on the ratio")


def methods(weights: np.ndarray, activations: np.ndarray, group: int = GROUP) -> None:
    compare((m, awq_quantize(weights, activations, group, activation_method=m)) for m in ("mean", "max", "rms"))


def real_layer(model: str) -> None:
    banner(f"The first layer of {model}")
    with tempfile.TemporaryDirectory() as folder:
        npz = os.path.join(folder, "activations.npz")
        calibrate_model(model, npz, samples=8, sequence_length=128, gram=False, keep_activations=True)
        arrays = np.load(npz, allow_pickle=False)
        for name in arrays.files:
            if "layers.0." not in name or not name.endswith("_proj.weight"):
                continue
            weights = read_weight(model, name)
            if weights is None:
                print("(the weights are read from safetensors in F32, F16 or BF16; this model has none)")
                return
            group = 64 if weights.shape[0] % GROUP else GROUP
            print(f"\n{name} {weights.shape}, groups of {group}")
            activations = arrays[name].reshape(-1, weights.shape[0])
            salient_ratios(weights, activations, group)
            methods(weights, activations, group)
            print(f"  gptq         outputs {gptq_quantize(weights, activations, group).output_error:.5f}")


def read_weight(model: str, name: str) -> np.ndarray | None:
    """A tensor of a Hugging Face folder as float32 [in, out]."""
    import glob
    import json
    import struct

    files = [model] if model.endswith(".safetensors") else sorted(glob.glob(os.path.join(model, "*.safetensors")))
    for path in files:
        with open(path, "rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            entry = json.loads(f.read(length)).get(name)
            if entry is None or entry["dtype"] not in ("F32", "F16", "BF16"):
                continue
            begin, end = entry["data_offsets"]
            f.seek(8 + length + begin)
            raw = f.read(end - begin)
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, np.float32 if entry["dtype"] == "F32" else np.float16).astype(np.float32)
        return values.reshape(entry["shape"]).T
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a Hugging Face folder; also quantize its first layer")
    options = parser.parse_args()
    basic()
    banner("Comparing Different Salient Ratios")
    salient_ratios(*outliers())
    banner("Comparing Activation Methods")
    methods(*outliers())
    if options.model:
        real_layer(options.model)
    banner("Examples Complete!")


if __name__ == "__main__":
    main()
