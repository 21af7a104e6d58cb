"""Shared by the scripts that fill the tables of docs/accuracy.md: runs of `metal-marlin`, which are kept and not repeated."""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path


def parser(description, tables):
    """Makes an argument parser with what every table needs. After -- follow options of `quantize` for all runs of a table."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("table", choices=tables)
    p.add_argument("model")
    p.add_argument("--program", default="metal-marlin")
    p.add_argument("--work", type=Path, default=Path("accuracy"), help="folder of the results; those there are taken")
    p.add_argument("--calibration", required=True)
    p.add_argument("--evaluate", required=True, help="another text than the one for calibration")
    p.add_argument("--samples", type=int, default=64)
    p.add_argument("--chunks", type=int, default=8)
    return p


def parse(p):
    """Parses the arguments; `options` are those after --."""
    own, options = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, options = own[:at], own[at + 1 :]
    args = p.parse_args(own)
    args.options = options
    args.work.mkdir(parents=True, exist_ok=True)
    return args


def run(args, command, kept=None):
    """Returns the JSON that a command prints. Takes it from the file `kept` where that exists, else runs the command and keeps it there."""
    if kept is not None and kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    command = list(map(str, [args.program, *command, "--json", "--quiet"]))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}")
    if kept is not None and not kept.exists():
        kept.write_bytes(done.stdout)
    return json.loads(done.stdout)


def quantize(args, options):
    """Returns the report of a run of `quantize`, with its folder under "folder". Later options replace earlier ones."""
    common = [
        "--format",
        "native",
        "--calibration",
        args.calibration,
        "--evaluate",
        args.evaluate,
        "--chunks",
        args.chunks,
        "--samples",
        args.samples,
    ]
    given = [*args.options, *options]
    if "--calibration" in given:  # that of a run replaces, several of a run add up
        common = [*common[:2], *common[4:]]
    words = last_of_each([*common, *given])
    out = args.work / name_of(words)
    return run(args, ["quantize", args.model, "-o", out, *words], out / "report.json") | {"folder": out}


def name_of(words):
    """Makes the name of a run's folder from its options, so that equal runs of several tables are made once."""
    short = "_".join(
        Path(str(w)).stem if "/" in str(w) else str(w).removeprefix("--")
        for w in words
        if w not in ("--format", "native")
    )
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()[:8]
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in short)[:100] + "_" + digest


def last_of_each(options):
    """Options, ordered by name, without those that a later one of the same name replaces; --calibration, --skip and --linear-bits add up."""
    pairs = []
    for word in options:
        if str(word).startswith("--"):
            pairs.append([word])
        else:
            pairs[-1].append(word)
    adding = ("--calibration", "--skip", "--linear-bits")
    last = {pair[0]: pair for pair in pairs}
    kept = [pair for pair in pairs if pair[0] in adding or last[pair[0]] is pair]
    return [word for pair in sorted(kept, key=lambda pair: pair[0]) for word in pair]


def figures(report):
    """KL divergence with its standard error, and perplexity, as cells of a table."""
    kl = report["model"]["kl_divergence"]
    perplexity = report["model"]["perplexity"]["quantized"]
    return f"{kl['mean']:.4f} +- {kl['standard_error']:.4f} | {perplexity:.2f}"


def work_seconds(report):
    """CPU seconds of a run without those that only the evaluation took."""
    stages = report["run"]["stages"]
    return report["run"]["cpu_seconds"] - sum(stages[s]["cpu_seconds"] for s in ("evaluate", "score") if s in stages)
