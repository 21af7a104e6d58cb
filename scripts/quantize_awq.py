#!/usr/bin/env python3
"""Quantizes a model to 4 bits by AWQ with stored activations. Makes these first where there are none.

    python scripts/quantize_awq.py --model-path MODEL --output-path OUT --activations-path STATS.npz

The npz holds one array per weight (its name with or without ".weight"), [batch, seq, in_features], or the statistics that
`metal-marlin calibrate` writes. Where it does not exist, it is made: the model runs on text that it writes itself, and the
statistics (not the activations) are kept. `metal-marlin quantize` does all of it in one step, with more options.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time

import metal_marlin
from metal_marlin import _core

GIB = 1024**3
WIDE = "=" * 70
THIN = "-" * 70


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-path", required=True, help="a Hugging Face folder, a .safetensors or a .gguf file")
    parser.add_argument("--output-path", required=True, help="folder for the quantized model")
    parser.add_argument(
        "--activations-path", required=True, help="npz of activations or statistics; made when it does not exist"
    )
    parser.add_argument("--group-size", type=int, default=128, help="input channels that share a scale (default: 128)")
    parser.add_argument(
        "--salient-ratio",
        type=float,
        default=0.01,
        help="share of weights that decide which channels are scaled (default: 0.01)",
    )
    parser.add_argument(
        "--activation-method",
        choices=["mean", "max", "rms"],
        default="rms",
        help="statistic of a channel (default: rms)",
    )
    parser.add_argument(
        "--verbose", action=argparse.BooleanOptionalAction, default=True, help="print progress (default: on)"
    )
    parser.add_argument("--quiet", dest="verbose", action="store_false", help="the same as --no-verbose")
    parser.add_argument(
        "--dry-run", action="store_true", help="make the activations if need be, print the plan, quantize nothing"
    )
    return parser.parse_args(arguments)


def generate_calibration_activations(
    model_path: str, num_samples: int = 100, seq_len: int = 128, path: str | None = None, verbose: bool = False
) -> str:
    """Runs the model on num_samples sequences of text that it writes itself; returns the path of the npz of statistics."""
    if path is None:
        path = os.path.join(tempfile.mkdtemp(prefix="metal-marlin-"), "statistics.npz")
    last = [0.0]

    def progress(p: dict) -> None:
        if verbose and time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            print(f"  {p['stage']}: {p['done']} of {p['total']}", flush=True)

    metal_marlin.calibrate_model(model_path, path, samples=num_samples, sequence_length=seq_len, on_progress=progress)
    return path


def load_calibration_activations(path: str) -> dict:
    """The arrays of an npz by name; never unpickles."""
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def save_calibration_activations(activations: dict, path: str) -> None:
    """A compressed npz of arrays by name."""
    import numpy as np

    np.savez_compressed(path, **activations)


def is_model(path: str) -> bool:
    """As awq_quantize_model decides: a name in the cache, a GGUF, or safetensors with a config.json beside them; tensors of others are taken one by one."""
    if not os.path.exists(path):
        return True
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    return path.endswith(".gguf") or os.path.exists(os.path.join(folder, "config.json"))


def plan(options: argparse.Namespace, calibration: str) -> dict:
    """The plan of the quantization; refuses by name what cannot be done."""
    return metal_marlin.plan_quantization(
        options.model_path, options.output_path, calibration=calibration, evaluate="none", formats="native",
        method="awq-salient", scheme="sym", range="gram", group_size=options.group_size, salient_ratio=options.salient_ratio,
        activation_method=options.activation_method,
    )  # fmt: skip


def print_plan(options: argparse.Namespace) -> None:
    if is_model(options.model_path):
        import json

        print(_core.render_plan(json.dumps(plan(options, options.activations_path))))
        return
    print("No config.json: the tensors are taken one by one, each 2-D weight with activations of its width.")
    with tempfile.TemporaryDirectory(prefix="metal-marlin-") as folder:
        stats = metal_marlin.awq_quantize_model(
            options.model_path, os.path.join(folder, "plan"), options.activations_path, options.group_size, options.salient_ratio,
            options.activation_method, False,
        )  # fmt: skip
    print(f"{stats['quantized_count']} tensors to quantize, {stats['skipped_count']} to copy:")
    for name, reason in stats["skipped"].items():
        print(f"  {name}: {reason}")
    print(f"{stats['original_bytes']} bytes become {stats['quantized_bytes']}, {stats['compression_ratio']:.2f}x")


def run(options: argparse.Namespace) -> None:
    def say(text: str = "") -> None:
        if options.verbose:
            print(text, flush=True)

    say(f"{WIDE}\nAWQ Quantization Pipeline\n{WIDE}")
    if os.path.exists(options.activations_path):
        say(f"Using the activations in {options.activations_path}")
    else:
        if is_model(options.model_path):
            plan(options, "self")  # before minutes of calibration: whether the rest can be done at all
        say(f"Making {options.activations_path}: the model runs on text that it writes itself ...")
        generate_calibration_activations(options.model_path, path=options.activations_path, verbose=options.verbose)
    say(THIN)
    say(f"Model path: {options.model_path}")
    say(f"Output path: {options.output_path}")
    say(f"Group size: {options.group_size}")
    say(f"Salient ratio: {options.salient_ratio}")
    say(f"Activation method: {options.activation_method}")
    say(THIN)
    if options.dry_run:
        print_plan(options)
        return
    stats = metal_marlin.awq_quantize_model(
        options.model_path, options.output_path, options.activations_path, options.group_size, options.salient_ratio,
        options.activation_method, options.verbose,
    )  # fmt: skip
    say("\nQuantization complete!\n\nQuantization statistics:")
    say(f"  Layers quantized: {stats['quantized_count']}")
    say(f"  Layers skipped: {stats['skipped_count']}")
    say(f"  Original size: {stats['original_bytes'] / GIB:.2f} GB")
    say(f"  Quantized size: {stats['quantized_bytes'] / GIB:.2f} GB")
    say(f"  Compression ratio: {stats['compression_ratio']:.2f}x")
    say(f"  Quantization type: {stats['quant_type']}")
    say(f"  Group size: {stats['group_size']}")
    say(f"  Salient ratio: {stats['salient_ratio']}")
    say(f"  Bits per weight of the whole model: {stats['bits_per_weight']:.2f}")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except (metal_marlin.Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
