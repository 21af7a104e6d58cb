"""Runs this program and the peers in turn, evaluates every result with evalkl.py, and prints the table.

scripts/compare_peers.sh calls it."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from plot import plot  # noqa: E402


# For the peers: threads of OpenMP that wait would spin, and count as CPU seconds. Our own program has a thread pool that
# sleeps, and runs without the variable.
PEER_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", **os.environ}
OWN_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}


def measured(command, log, environment):
    """CPU seconds (of the command and all that it started), wall seconds and peak MB; the output goes to `log`."""
    start = time.time()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(
            f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}; the end of its log:\n{log.read_text(errors='replace')[-2000:]}"
        )
    return {"cpu": usage.ru_utime + usage.ru_stime, "wall": time.time() - start, "mb": usage.ru_maxrss * 1024 / 1e6}


def ours(a):
    def row(name, label, count, options):
        command = [a.program, "quantize", a.model, "-o", a.work / name, "--format", "gptq_v2", "--group-size", 64, "--calibration", a.calibration,
                   "--evaluate", "none", "--quiet", "--overwrite", "--samples", count, *options]  # fmt: skip
        return {
            "name": name,
            "tool": "metal-marlin",
            "label": label,
            "sequences": count,
            "steps": [command],
            "curve": "awq" if name.startswith("ours-awq-sym") else "",
        }

    few = min(16, a.samples)
    rows = [
        row(f"ours-awq-sym-{n}", "`awq`, sym", n, ["--scheme", "sym"]) for n in (8, 16, 32, 64, 128) if n < a.samples
    ]
    return [*rows,
            row(f"ours-awq-sym-{a.samples}", "`awq`, sym", a.samples, ["--scheme", "sym"]),
            row(f"ours-awq-asym-{a.samples}", "`awq`, asym", a.samples, ["--scheme", "asym"]),
            row(f"ours-fast-sym-{few}", "`awq --effort fast`, sym", few, ["--scheme", "sym", "--effort", "fast"]),
            row(f"ours-gptq-sym-{a.samples}", "`gptq`, sym", a.samples, ["--scheme", "sym", "--method", "gptq"]),
            row(f"ours-awq-paper-sym-{a.samples}", "`awq-paper`, sym", a.samples, ["--scheme", "sym", "--method", "awq-paper"])]  # fmt: skip


def python_peer(a, peer, tool, label, count, last):
    name = f"{peer}-{last}-{count}"
    command = [
        a.peers / f"venv-{peer}" / "bin" / "python",
        HERE / f"run_{peer}.py",
        a.model,
        a.calibration,
        a.work / name,
        count,
        last,
    ]
    return {"name": name, "tool": tool, "label": label, "sequences": count, "steps": [command], "curve": ""}


def gptqmodel(a):
    return [python_peer(a, "gptqmodel", "GPTQModel", "GPTQ, sym", a.samples, "sym")]


def llmcompressor(a):
    return [python_peer(a, "llmcompressor", "llm-compressor", "GPTQ, sym", a.samples, "gptq"),
            python_peer(a, "llmcompressor", "llm-compressor", "AWQ, sym", min(4, a.samples), "awq")]  # fmt: skip


def autoround(a):
    return [python_peer(a, "autoround", "AutoRound", "20 iterations, sym", min(32, a.samples), 20)]


def llama(a):
    tools, converter = a.peers / "bin", a.peers / "llama.cpp" / "convert_hf_to_gguf.py"
    f16, imatrix = a.work / "f16.gguf", a.work / "imatrix.gguf"
    convert = [a.peers / "venv-eval" / "bin" / "python", converter, a.model, "--outtype", "f16", "--outfile", f16]
    matrix = [
        tools / "llama-imatrix",
        "-m",
        f16,
        "-f",
        a.calibration,
        "-o",
        imatrix,
        "-c",
        512,
        "--chunks",
        a.samples,
        "-t",
        1,
        "--no-ppl",
    ]
    rows = []
    for kind in ("Q4_0", "IQ4_XS"):
        name = f"llama-{kind}-{a.samples}"
        # one type for all linears, the embedding as it is: only the linears are compared
        quantize = [
            tools / "llama-quantize",
            "--pure",
            "--token-embedding-type",
            "f16",
            "--imatrix",
            imatrix,
            f16,
            a.work / f"{name}.gguf",
            kind,
            1,
        ]
        rows.append({"name": name, "tool": "llama.cpp", "label": f"{kind}, imatrix", "sequences": a.samples, "steps": [convert, matrix, quantize],
                     "result": a.work / f"{name}.gguf", "curve": ""})  # fmt: skip
    return rows


def make(a, row, known):
    """Runs the steps of a row unless its figures are kept. `known` has the costs of steps that earlier rows ran."""
    kept = a.work / f"{row['name']}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    result = row.get("result", a.work / row["name"])
    if result.is_dir():
        shutil.rmtree(result)
    print(f"{row['tool']}: {row['label']}, {row['sequences']} sequences", file=sys.stderr, flush=True)
    costs = []
    for i, step in enumerate(row["steps"]):
        words = tuple(map(str, step))
        if words not in known:
            environment = OWN_ENVIRONMENT if step[0] == a.program else PEER_ENVIRONMENT
            known[words] = measured(words, a.work / f"{row['name']}.{i}.log", environment)
        costs.append(known[words])
    figures = {key: row[key] for key in ("name", "tool", "label", "sequences", "curve")}
    figures |= {
        "cpu": sum(c["cpu"] for c in costs),
        "wall": sum(c["wall"] for c in costs),
        "mb": max(c["mb"] for c in costs),
        "result": str(result),
    }
    kept.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def evaluate(a, rows):
    """evalkl.py's figures of every row that has none yet."""
    reference = a.work / f"reference-{a.chunks}.npy"
    command = [
        a.peers / "venv-eval" / "bin" / "python",
        a.tools / "evalkl.py",
        a.model,
        a.text,
        "--ref-cache",
        reference,
        "--chunks",
        a.chunks,
    ]
    if not reference.exists():
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, env=PEER_ENVIRONMENT)
    for row in rows:
        kept = a.work / f"{row['name']}.kl-{a.chunks}.json"
        if not kept.exists():
            done = subprocess.run(
                list(map(str, [*command, "--model", row["result"]])),
                check=True,
                stdout=subprocess.PIPE,
                env=PEER_ENVIRONMENT,
            )
            kept.write_bytes(done.stdout.splitlines()[-1])
        row |= json.loads(kept.read_text(encoding="utf-8"))


def table(rows):
    print(
        "| tool | setting | sequences | KL divergence | perplexity | same top token | CPU s | wall s | peak MB |\n|---|---|---|---|---|---|---|---|---|"
    )
    for r in sorted(rows, key=lambda r: r["kl"]):
        print(f"| {r['tool']} | {r['label']} | {r['sequences']} | {r['kl']:.4f} +- {r['kl_se']:.4f} | {r['ppl']:.2f} | {100 * r['same_top']:.1f} % "
              f"| {r['cpu']:.0f} | {r['wall']:.0f} | {r['mb']:.0f} |")  # fmt: skip


def curve(rows, path):
    """KL divergence against CPU seconds: our recipe with more and more sequences, all others as points."""
    line = [(r["cpu"], r["kl"]) for r in rows if r["curve"]]
    points = []
    for r in rows:
        own = r["tool"] == "metal-marlin"
        label = str(r["sequences"]) if r["curve"] else f"{'' if own else r['tool'] + ' '}{r['label'].replace('`', '')}"
        points.append((r["cpu"], r["kl"], label, "#06c" if own else "#c40"))
    plot(
        path,
        "CPU seconds",
        [("awq, sym, by sequences", line)] if line else [],
        points,
        (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000),
    )


def require_own_results(a):
    """Checks that the kept results belong to this model and these texts."""
    inputs = json.dumps({"model": str(a.model), "calibration": digest(a.calibration), "text": digest(a.text)})
    kept = a.work / "inputs.json"
    if not kept.exists():
        kept.write_text(inputs, encoding="utf-8")
    if kept.read_text(encoding="utf-8") != inputs:
        sys.exit(f"{a.work}: has results of another model or other texts; name another folder by WORK")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "calibration", "text", "tools", "peers", "work", "program"):
        p.add_argument(f"--{name}", type=lambda v: Path(v).resolve(), required=True)
    p.add_argument("--samples", type=int, required=True)
    p.add_argument("--chunks", type=int, required=True)
    p.add_argument("peer", nargs="+")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    require_own_results(a)
    known = {}
    kinds = {
        "ours": ours,
        "gptqmodel": gptqmodel,
        "llmcompressor": llmcompressor,
        "autoround": autoround,
        "llama": llama,
    }
    rows = [make(a, row, known) for peer in a.peer for row in kinds[peer](a)]
    evaluate(a, rows)
    table(rows)
    curve(rows, a.work / "kl_against_cpu.svg")


main()
