#!/usr/bin/env python3
"""Measures mixed precision: the tables of docs/accuracy.md.

  quality    KL divergence of uniform 4 bits, --target-bits, and the same bits given to all alike (smaller groups), as
             chosen but to other layers, at random or by size (8 bits for some)
  estimate   the measured KL divergence of single sets of linears (inspect --sensitivity) beside real runs in which
             all others stay in 16 bits, evaluated on another text

Options after -- go to every quantize command, e.g.
  scripts/mixed_precision_table.py quality MODEL --calibration c4.txt --evaluate wiki.txt -- --scheme sym --group-size 64
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path


def run(args, command, out=None):
    """The JSON of a command; a result that `out` holds already is taken."""
    if out is not None and (out / "report.json").exists():
        return json.loads((out / "report.json").read_text())
    done = subprocess.run([args.program, *command, "--json", "--quiet"], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}")
    return json.loads(done.stdout)


def quantize(args, name, options):
    out = args.work / name
    return run(args, ["quantize", args.model, "-o", out, "--format", "native", "--calibration", args.calibration,
                      "--evaluate", args.evaluate, "--chunks", str(args.chunks), "--samples", str(args.samples),
                      *args.options, *options], out)  # fmt: skip


def figures(report):
    kl = report["model"]["kl_divergence"]
    perplexity = report["model"]["perplexity"]["quantized"]
    return f"{kl['mean']:.4f} +- {kl['standard_error']:.4f} | {perplexity:.3f}"


def raised(items, order, budget):
    """--linear-bits that raise items to 8 bits in this order while they fit; and the bits that they take together."""
    options = []
    for item in order:
        have, more = (next(o["storage_bits"] for o in item["options"] if o["bits"] == bits and o["group_size"] == item["options"][0]["group_size"]) for bits in (4, 8))
        if more - have > budget:
            continue
        budget -= more - have
        for name in item["linears"]:
            options += ["--linear-bits", f"{name}=8"]
    return options, budget


def shuffled(items, seed):
    """--linear-bits that give the chosen grids to other layers: shuffled among the sets of each kind, so in all as many bits."""
    options = []
    for tap in sorted({i["tap"] for i in items}):
        own = [i for i in items if i["tap"] == tap]
        for item, other in zip(own, random.Random(seed).sample(own, len(own)), strict=True):
            bits, group = other["chosen"]["bits"], other["chosen"]["group_size"]
            for name in item["linears"]:
                options += ["--linear-bits", f"{name}=16" if bits == 16 else f"{name}={bits}:{group}"]
    return options


def quality(args):
    uniform = quantize(args, "uniform", [])
    chosen = quantize(args, f"target-{args.target}", ["--target-bits", str(args.target)])
    items = chosen["mixed"]["items"]
    weights = sum(i["weights"] for i in items)
    base = sum(i["options"][0]["storage_bits"] for i in items)
    budget = args.target * weights - base
    rows = [("uniform 4 bits", base / weights, uniform),
            (f"`--target-bits {args.target}`", chosen["mixed"]["bits_per_weight"], chosen)]  # fmt: skip
    half = items[0]["options"][0]["group_size"] // 2
    small = sum(next((o["storage_bits"] for o in i["options"] if o["bits"] == 4 and o["group_size"] == half), 1e99) for i in items)
    if small <= args.target * weights:  # the same bits without any choice
        report = quantize(args, f"uniform-{half}", ["--linear-bits", f"*=4:{half}"])
        rows.append((f"uniform 4 bits, groups of {half}", small / weights, report))
    for seed in range(args.random):
        name = f"those grids shuffled among the layers, seed {seed}"
        report = quantize(args, f"shuffled-{seed}", shuffled(items, seed))
        rows.append((name, chosen["mixed"]["bits_per_weight"], report))
    orders = [("8 bits by size, the smallest first", sorted(items, key=lambda i: i["weights"])),
              ("8 bits by size, the largest first", sorted(items, key=lambda i: -i["weights"]))]  # fmt: skip
    for seed in range(args.random):
        orders.append((f"8 bits at random, seed {seed}", random.Random(seed).sample(items, len(items))))
    for name, order in orders:
        options, left = raised(items, order, budget)
        report = quantize(args, name.replace(" ", "-").replace(",", ""), options)
        rows.append((name, (base + budget - left) / weights, report))
    reference = uniform["model"]["kl_divergence"]["mean"]
    print("| bits | bits per weight | in the file | KL divergence | perplexity | KL beside uniform |\n|---|---|---|---|---|---|")
    for name, bits, report in rows:
        change = 100 * (report["model"]["kl_divergence"]["mean"] / reference - 1)
        print(f"| {name} | {bits:.3f} | {report['model']['linears_bits_per_weight']:.3f} | {figures(report)} | {change:+.1f} % |")


def estimate(args):
    path = args.work / "sensitivity.json"
    if not path.exists():
        text = json.dumps(run(args, ["inspect", args.model, "--sensitivity", "--calibration", args.calibration,
                                     "--samples", str(args.samples), *args.options])["sensitivity"])  # fmt: skip
        path.write_text(text)
    items = sorted(json.loads(path.read_text())["items"], key=lambda i: -i["kl"])
    step = (len(items) - 1) / max(1, args.items - 1)
    print("| rank | layer | input | measured by `--sensitivity` | a run of its own | ratio |\n|---|---|---|---|---|---|")
    for k in range(args.items):
        rank = round(k * step)
        item = items[rank]
        skip = ["--guard", "off"]  # as the sensitivity is measured
        for other in items:
            if other is not item:
                for name in other["linears"]:
                    skip += ["--skip", name]
        report = quantize(args, f"single-{item['layer']}-{item['tap']}", skip)
        kl = report["model"]["kl_divergence"]["mean"]
        print(f"| {rank + 1} | {item['layer']} | {item['tap']} | {item['kl']:.6f} | {kl:.6f} | {kl / item['kl']:.2f} |")


def main():
    own, options = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, options = own[:at], own[at + 1 :]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("table", choices=["quality", "estimate"])
    p.add_argument("model")
    p.add_argument("--program", default="metal-marlin")
    p.add_argument("--work", type=Path, default=Path("mixed-precision"), help="folder of the results; those there are taken")
    p.add_argument("--calibration", required=True)
    p.add_argument("--evaluate", required=True, help="another text than the one for calibration")
    p.add_argument("--samples", type=int, default=64)
    p.add_argument("--chunks", type=int, default=8)
    p.add_argument("--target", type=float, default=4.5)
    p.add_argument("--random", type=int, default=2, help="random choices to try")
    p.add_argument("--items", type=int, default=12, help="of the ranking, evenly spread")
    args = p.parse_args(own)
    args.options = options
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    args.work.mkdir(parents=True, exist_ok=True)
    {"quality": quality, "estimate": estimate}[args.table](args)


main()
