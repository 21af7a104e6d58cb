#!/usr/bin/env python3
"""Measures the recipe. Each name below makes one table of docs/accuracy.md.

  stages     every stage of the method awq switched off, and the other methods
  bits       3, 4 and 8 bits in several groups
  sequences  KL divergence against the number of calibration sequences: of the text, of text that the model makes itself,
             and chosen by --select from four times as many; without the program's own text. Drawn to WORK/kl_against_sequences.svg
  draws      selection against other stretches of the same text as long: the text is cut in --draws parts
  texts      awq, with and without the program's own text among the sequences, against awq-paper, symmetric and asymmetric,
             on each of --text beside --evaluate

Options after -- go to every quantize command, e.g.
  scripts/accuracy_tables.py stages MODEL --calibration c4.txt --evaluate wiki.txt -- --scheme sym --group-size 64
"""

import math
import sys
from pathlib import Path

from measure import figures, name_of, parse, parser, quantize, run, work_seconds
from plot import plot

STAGES = {
    "`rtn`": ["--method", "rtn"],
    "`rtn --range gram`": ["--method", "rtn", "--range", "gram"],
    "`awq-paper --clip off`": ["--method", "awq-paper", "--clip", "off"],
    "`awq-paper`": ["--method", "awq-paper"],
    "`gptq`": ["--method", "gptq"],
    "`awq --effort fast` (16 sequences)": ["--effort", "fast", "--samples", 16],
    "`awq --effort fast`, as many sequences as the others": ["--effort", "fast"],
    "**`awq`**": [],
    "`awq --builtin-share 0`": ["--builtin-share", "0"],
    "`awq --guard off`": ["--guard", "off"],
    "the same, `--refine off`": ["--guard", "off", "--refine", "off"],
    "the same, `--signed-scales off`": ["--guard", "off", "--signed-scales", "off"],
    "the same, `--range absmax`": ["--guard", "off", "--range", "absmax"],
    "the same, `--range mse`": ["--guard", "off", "--range", "mse"],
    "the same, `--range diagonal`": ["--guard", "off", "--range", "diagonal"],
    "the same, `--scale-search off`": ["--guard", "off", "--scale-search", "off"],
    "the same, `--error-feedback off`": ["--guard", "off", "--error-feedback", "off"],
    "the same, `--no-act-order`": ["--guard", "off", "--no-act-order"],
    "the same, `--awq-loss linear`": ["--guard", "off", "--awq-loss", "linear"],
    "the same, `--first-token-weight 1`": ["--guard", "off", "--first-token-weight", "1"],
    "the same, `--damping 1`": ["--guard", "off", "--damping", "1"],
}


def stages(args):
    print("| run | KL divergence | perplexity | CPU seconds without the evaluation |\n|---|---|---|---|")
    for label, options in STAGES.items():
        report = quantize(args, options)
        print(f"| {label} | {figures(report)} | {work_seconds(report):.0f} |", flush=True)


def bits(args):
    print("| bits | group | bits per weight | KL divergence | perplexity |\n|---|---|---|---|---|")
    for width in args.widths:
        for group in args.groups:
            report = quantize(args, ["--bits", width, "--group-size", group])
            items = report["model"]["linears_bits_per_weight"]
            print(f"| {width} | {'a row' if group == -1 else group} | {items:.3f} | {figures(report)} |", flush=True)


def sequences(args):
    print("| sequences | text | text of the model itself | selected from four times as many |\n|---|---|---|---|")
    lines = {"text": [], "text of the model itself": [], "selected": []}
    for n in args.counts:
        cells = []
        runs = (
            ["--samples", n, "--builtin-share", 0],
            ["--samples", n, "--calibration", "self"],
            ["--samples", 4 * n, "--select", n, "--builtin-share", 0],
        )
        for (name, line), options in zip(lines.items(), runs, strict=True):
            if name == "selected" and 4 * n > args.pool:
                cells.append("")
                continue
            report = quantize(args, options)
            line.append((n, report["model"]["kl_divergence"]["mean"]))
            cells.append(figures(report).split(" | ")[0])
        print(f"| {n} | {' | '.join(cells)} |", flush=True)
    plot(
        args.work / "kl_against_sequences.svg",
        "calibration sequences of 512 tokens",
        list(lines.items()),
        ticks=args.counts,
    )


def draws(args):
    """Compares selected sequences with several stretches of the same text, and shows how much the stretches differ."""
    text = Path(args.calibration).read_bytes().decode("utf-8")
    step = len(text) // args.draws
    values = []
    print("| calibrated on | KL divergence | perplexity |\n|---|---|---|")
    for i in range(args.draws):
        part = args.work / f"part-{i}.txt"
        part.write_bytes(text[i * step : (i + 1) * step].encode("utf-8"))
        report = quantize(args, ["--calibration", part, "--builtin-share", 0])
        found = report["calibration"]["sources"][0]["sequences"]
        if found != args.samples:
            sys.exit(f"{part}: has {found} sequences, {args.samples} are asked for: give fewer --samples or --draws")
        values.append(report["model"]["kl_divergence"]["mean"])
        print(f"| {args.samples} sequences, stretch {i + 1} of {args.draws} | {figures(report)} |", flush=True)
    mean = sum(values) / len(values)
    scatter = math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
    print(f"| mean of these, scatter between them | {mean:.4f}, {scatter:.4f} | |")
    for n in (args.samples // 2, args.samples):
        report = quantize(args, ["--samples", args.pool, "--select", n, "--builtin-share", 0])
        print(f"| {n} sequences selected from {args.pool} | {figures(report)} |", flush=True)


def texts(args):
    print(
        "| text | scheme | `awq-paper` | `awq` | ratio | `awq --builtin-share 0` | ratio |\n|---|---|---|---|---|---|---|"
    )
    runs = (["--method", "awq-paper"], ["--method", "awq"], ["--method", "awq", "--builtin-share", "0"])
    for scheme in ("sym", "asym"):
        own = [quantize(args, ["--scheme", scheme, *options]) for options in runs]
        for text in [args.evaluate, *args.text]:
            reports = own
            if text != args.evaluate:
                reports = [run(args, ["evaluate", r["folder"], "--reference", args.model, "--text", text, "--chunks", args.chunks],
                               args.work / f"{r['folder'].name}-on-{name_of([text])}.json") for r in own]  # fmt: skip
            paper, *ours = (r["model"]["kl_divergence"] for r in reports)
            cells = [f"{paper['mean']:.4f} +- {paper['standard_error']:.4f}"]
            for kl in ours:
                ratio = kl["mean"] / paper["mean"]
                error = ratio * math.hypot(paper["standard_error"] / paper["mean"], kl["standard_error"] / kl["mean"])
                cells += [f"{kl['mean']:.4f} +- {kl['standard_error']:.4f}", f"{ratio:.3f} +- {error:.3f}"]
            print(f"| {Path(text).name} | {scheme} | {' | '.join(cells)} |", flush=True)


def main():
    tables = {"stages": stages, "bits": bits, "sequences": sequences, "draws": draws, "texts": texts}
    p = parser(__doc__, tables)
    p.add_argument("--widths", type=int, nargs="+", default=[3, 4, 8])
    p.add_argument("--groups", type=int, nargs="+", default=[32, 64, -1])
    p.add_argument("--counts", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="of calibration sequences")
    p.add_argument("--pool", type=int, default=150, help="sequences that the text has at most")
    p.add_argument("--draws", type=int, default=4, help="stretches of the text")
    p.add_argument("--text", nargs="+", default=[], help="further texts to evaluate on")
    args = parse(p)
    tables[args.table](args)


main()
