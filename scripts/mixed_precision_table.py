#!/usr/bin/env python3
"""Measures mixed precision: the tables of docs/accuracy.md.

  quality    KL divergence of uniform 4 bits, --target-bits, and the same bits given to all alike (smaller groups), as
             chosen but to other layers, at random or by size (8 bits for some)
  estimate   the measured KL divergence of single sets of linears (inspect --sensitivity) beside real runs in which
             all others stay in 16 bits, evaluated on another text

Options after -- go to every quantize command, e.g.
  scripts/mixed_precision_table.py quality MODEL --calibration c4.txt --evaluate wiki.txt -- --scheme sym --group-size 64
"""

import random

from measure import figures, parse, parser, quantize, run


def raised(items, order, budget):
    """--linear-bits that raise items to 8 bits in this order while they fit; and the bits that they take together."""
    options = []
    for item in order:
        have, more = (
            next(
                o["storage_bits"]
                for o in item["options"]
                if o["bits"] == bits and o["group_size"] == item["options"][0]["group_size"]
            )
            for bits in (4, 8)
        )
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
    uniform = quantize(args, [])
    chosen = quantize(args, ["--target-bits", str(args.target)])
    items = chosen["mixed"]["items"]
    weights = sum(i["weights"] for i in items)
    base = sum(i["options"][0]["storage_bits"] for i in items)
    budget = args.target * weights - base
    rows = [("uniform 4 bits", base / weights, uniform),
            (f"`--target-bits {args.target}`", chosen["mixed"]["bits_per_weight"], chosen)]  # fmt: skip
    half = items[0]["options"][0]["group_size"] // 2
    small = sum(
        next((o["storage_bits"] for o in i["options"] if o["bits"] == 4 and 0 < o["group_size"] == half), 1e99)
        for i in items
    )
    if small <= args.target * weights:  # the same bits without any choice
        report = quantize(args, ["--linear-bits", f"*=4:{half}"])
        rows.append((f"uniform 4 bits, groups of {half}", small / weights, report))
    for seed in range(args.random):
        name = f"those grids shuffled among the layers, seed {seed}"
        report = quantize(args, shuffled(items, seed))
        rows.append((name, chosen["mixed"]["bits_per_weight"], report))
    orders = [("8 bits by size, the smallest first", sorted(items, key=lambda i: i["weights"])),
              ("8 bits by size, the largest first", sorted(items, key=lambda i: -i["weights"]))]  # fmt: skip
    for seed in range(args.random):
        orders.append((f"8 bits at random, seed {seed}", random.Random(seed).sample(items, len(items))))
    for name, order in orders:
        options, left = raised(items, order, budget)
        report = quantize(args, options)
        rows.append((name, (base + budget - left) / weights, report))
    reference = uniform["model"]["kl_divergence"]["mean"]
    print(
        "| bits | bits per weight | in the file | KL divergence | perplexity | KL beside uniform |\n|---|---|---|---|---|---|"
    )
    for name, bits, report in rows:
        change = 100 * (report["model"]["kl_divergence"]["mean"] / reference - 1)
        print(
            f"| {name} | {bits:.3f} | {report['model']['linears_bits_per_weight']:.3f} | {figures(report)} | {change:+.1f} % |"
        )


def estimate(args):
    measured = run(args, ["inspect", args.model, "--sensitivity", "--calibration", args.calibration, "--samples", args.samples,
                          *args.options], args.work / "sensitivity.json")  # fmt: skip
    items = sorted(measured["sensitivity"]["items"], key=lambda i: -i["kl"])
    step = (len(items) - 1) / max(1, args.items - 1)
    print(
        "| rank | layer | input | measured by `--sensitivity` | a run of its own | ratio |\n|---|---|---|---|---|---|"
    )
    for k in range(args.items):
        rank = round(k * step)
        item = items[rank]
        skip = ["--guard", "off"]  # as the sensitivity is measured
        for other in items:
            if other is not item:
                for name in other["linears"]:
                    skip += ["--skip", name]
        report = quantize(args, skip)
        kl = report["model"]["kl_divergence"]["mean"]
        print(f"| {rank + 1} | {item['layer']} | {item['tap']} | {item['kl']:.6f} | {kl:.6f} | {kl / item['kl']:.2f} |")


def main():
    tables = {"quality": quality, "estimate": estimate}
    p = parser(__doc__, tables)
    p.add_argument("--target", type=float, default=4.5)
    p.add_argument("--random", type=int, default=2, help="random choices to try")
    p.add_argument("--items", type=int, default=12, help="of the ranking, evenly spread")
    args = parse(p)
    tables[args.table](args)


main()
