"""Runs this program and its peers in turn and prints ratios; scripts/bench_peers.sh calls it."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Not measured here: its authors' figures, beside ours for orientation.
IK = (
    "ik_llama.cpp, as published (pull request 533 of its repository, June 2025; LLaMA 3.1 8B, Ryzen 7950X): prompt of 512\n"
    "tokens 362 tokens/s in IQ4_KS where llama.cpp has 170 in Q4_0, ratio 2.1"
)


def run(command, **more):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def processor():
    name = platform.processor()
    try:
        for line in open("/proc/cpuinfo", encoding="utf-8"):
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} processors"


class Ours:
    def __init__(self, name, program, model, isa=None):
        self.name, self.program, self.model = name, program, model
        self.environment = dict(os.environ, **({"METAL_MARLIN_ISA": isa} if isa else {}))

    def measure(self, threads, depth):
        text = run(
            [self.program, "bench", self.model, "--prompt", 512, "--generate", 128, "--repeat", 1, "--threads", threads]
            + ["--depth", depth, "--json", "--quiet"],
            env=self.environment,
        )
        result = json.loads(text)
        self.isa = result["isa"]
        generate = result["generate"]
        generate = generate[0] if isinstance(generate, list) else generate
        return {
            "prompt": result["prompt"]["tokens_per_second"]["median"],
            "generate": generate["tokens_per_second"]["median"],
        }

    def first_token(self, threads):
        return [
            self.program,
            "generate",
            self.model,
            "--prompt",
            "The sea is",
            "--max-tokens",
            "1",
            "--threads",
            threads,
            "--quiet",
        ]


class Llama:
    def __init__(self, bin_folder, model):
        self.name, self.bin, self.model, self.isa = "llama.cpp", bin_folder, model, ""

    def measure(self, threads, depth):
        rows = json.loads(
            run(
                [self.bin / "llama-bench", "-m", self.model, "-p", 512, "-n", 128, "-t", threads, "-r", 1]
                + ["-d", depth, "-o", "json"]
            )
        )
        return {"prompt" if r["n_prompt"] else "generate": r["avg_ts"] for r in rows}

    def first_token(self, threads):
        return [
            self.bin / "llama-completion",
            "-m",
            self.model,
            "-p",
            "The sea is",
            "-n",
            "1",
            "-t",
            threads,
            "-no-cnv",
        ]


class Busy:
    """A process that keeps one processor busy while the object lives."""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def speeds(title, parties, threads, rounds, depth=0):
    """parties[0] is the peer; every round all take turns, in alternating order."""
    print(
        f"\n## {title}\n\n| | threads | prompt, tokens/s | ratio | generation, tokens/s | ratio |\n|---|---|---|---|---|---|"
    )
    for t in threads:
        found = {p.name: [] for p in parties}
        for i in range(rounds):
            for p in parties if i % 2 == 0 else reversed(parties):
                found[p.name].append(p.measure(t, depth))
        median = {n: {k: statistics.median(m[k] for m in ms) for k in ms[0]} for n, ms in found.items()}
        spread = {n: {k: (min(m[k] for m in ms), max(m[k] for m in ms)) for k in ms[0]} for n, ms in found.items()}
        base = median[parties[0].name]
        for p in parties:
            cells = []
            for k in ("prompt", "generate"):
                low, high = spread[p.name][k]
                cells.append(f"{median[p.name][k]:.1f} [{low:.1f}-{high:.1f}] | {median[p.name][k] / base[k]:.2f}")
            print(f"| {p.name} {p.isa} | {t} | {' | '.join(cells)} |", flush=True)


def starts(parties, threads, rounds):
    print(
        "\n## From process start to the end of one token\n\n| | threads | seconds | ratio | CPU seconds | largest resident MB |\n"
        "|---|---|---|---|---|---|"
    )
    for t in threads:
        found = {p.name: [] for p in parties}
        for i in range(rounds + 1):
            for p in parties if i % 2 == 0 else reversed(parties):
                begin = time.perf_counter()
                with open(os.devnull, "r+b") as null:
                    child = subprocess.Popen([str(c) for c in p.first_token(t)], stdin=null, stdout=null, stderr=null)
                    _, status, usage = os.wait4(child.pid, 0)
                    child.returncode = os.waitstatus_to_exitcode(status)
                if status:
                    sys.exit(f"{p.name}: exit code {child.returncode}")
                if i:  # the first fills the page cache
                    found[p.name].append(
                        (time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
                    )
        base = statistics.median(s for s, _, _ in found[parties[0].name])
        for p in parties:
            wall, cpu, memory = (statistics.median(column) for column in zip(*found[p.name]))
            print(f"| {p.name} | {t} | {wall:.3f} | {wall / base:.2f} | {cpu:.3f} | {memory:.0f} |", flush=True)


def products(a, threads, rounds):
    def peer(command):
        return {int(r): (float(gb), float(gf)) for r, gb, gf in (line.split() for line in run(command).splitlines())}

    def ours(pattern, isa):
        environment = dict(os.environ, **({"METAL_MARLIN_ISA": isa} if isa else {}))
        text = run(
            [a.bench, f"--benchmark_filter={pattern}", "--benchmark_format=json", "--benchmark_min_time=0.5"],
            env=environment,
        )
        out = {}
        for b in json.loads(text)["benchmarks"]:
            parts = b["name"].split("/")
            rows = int(parts[2]) if parts[0] == "library" else 0  # of reading, the way that reads the most
            out[rows] = max(out.get(rows, (0.0,)), (b["GB/s"], b.get("GFLOP/s", 0.0)))
        return out

    openvino = [a.peers / "venv-openvino/bin/python", ROOT / "scripts/peers/openvino_product.py"]
    for isa, folder in ((None, "bin"), ("avx2", "bin-avx2")):
        print(
            f"\n## Products, K = N = 4096{', without what is newer than AVX2' if isa else ''}\n\n"
            "| | threads | 1 row, GB/s | 8 rows, GFLOP/s | 512 rows, GFLOP/s |\n|---|---|---|---|---|"
        )
        for t in threads:
            parties = {
                "plain reading": lambda t=t: ours(f"read/.*/{t}/", isa),
                "ours, groups of 128": lambda t=t: ours(f"library/128/.*/{t}/", isa),
                "ours, groups of 32": lambda t=t: ours(f"library/32/.*/{t}/", isa),
                "ggml Q4_0": lambda t=t: peer([a.peers / folder / "ggml_product", t, 0.5]),
            }
            if not isa:
                parties["OpenVINO, groups of 128"] = lambda t=t: peer([*openvino, t, 0.5])
            found = {n: [] for n in parties}
            for i in range(rounds):
                for n in parties if i % 2 == 0 else reversed(parties):
                    found[n].append(parties[n]())
            for n, all_runs in found.items():

                def m(rows, which):
                    values = [r[rows][which] for r in all_runs if rows in r]
                    return f"{statistics.median(values):.1f}" if values else ""

                print(f"| {n} | {t} | {m(1, 0) or m(0, 0)} | {m(8, 1)} | {m(512, 1)} |", flush=True)


def main():
    p = argparse.ArgumentParser()
    for name in ("--program", "--model", "--peers", "--work"):
        p.add_argument(name, type=pathlib.Path, required=True)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", default="1,2")
    p.add_argument("--bench", type=pathlib.Path)
    p.add_argument("parts", nargs="+")
    a = p.parse_args()
    threads = [int(t) for t in a.threads.split(",")]
    a.work.mkdir(parents=True, exist_ok=True)
    print(
        f"{processor()}; {run([a.program, '--version']).strip()}; llama.cpp of {os.path.realpath(a.peers / 'llama.cpp').split('/')[-3]}; "
        f"medians of {a.rounds} alternating runs\n{IK}"
    )

    def quantized(group):
        out = a.work / f"{a.model.stem}-sym-{group}"
        if not (out / "config.json").exists():  # the speed does not depend on how well it is quantized
            run(
                [
                    a.program,
                    "quantize",
                    a.model,
                    "-o",
                    out,
                    "--method",
                    "rtn",
                    "--format",
                    "native",
                    "--scheme",
                    "sym",
                    "--group-size",
                    group,
                ]
                + ["--calibration", "builtin", "--evaluate", "none", "--quiet"]
            )
        return out

    def q4_0():
        out = a.work / f"{a.model.stem}-Q4_0.gguf"
        if not out.exists():
            run(
                [
                    a.peers / "bin/llama-quantize",
                    "--allow-requantize",
                    "--token-embedding-type",
                    "q8_0",
                    "--output-tensor-type",
                    "q8_0",
                ]
                + [a.model, out, "Q4_0"]
            )
        return out

    def parties(bin_folder="bin", isa=None):
        return [
            Llama(a.peers / bin_folder, q4_0()),
            Ours("ours, groups of 64", a.program, quantized(64), isa),
            Ours("ours, groups of 32", a.program, quantized(32), isa),
        ]

    def shape():
        folder, gguf = a.work / "random-1.5b", a.work / "random-1.5b-Q4_0.gguf"
        python = a.peers / "venv-gguf/bin/python"
        if not (folder / "model.safetensors").exists():
            run(
                [python, ROOT / "scripts/make_random_model.py", folder, "--tokenizer", quantized(64), "--shape", "1.5b"]
                + ["--quantized", "--group-size", 64]
            )
        if not gguf.exists():
            run([python, ROOT / "scripts/peers/random_gguf.py", folder / "config.json", gguf])
        return [Llama(a.peers / "bin", gguf), Ours("ours, groups of 64", a.program, folder)]

    for part in a.parts:
        if part == "model":
            speeds(a.model.stem, parties(), threads, a.rounds)
        elif part == "busy":
            with Busy():
                speeds(f"{a.model.stem} beside a busy process", parties(), threads, a.rounds)
        elif part == "depth":
            speeds(f"{a.model.stem} with 3,840 tokens in the cache", parties(), threads, a.rounds, 3840)
        elif part == "avx2":
            speeds(f"{a.model.stem} without what is newer than AVX2", parties("bin-avx2", "avx2"), threads, a.rounds)
        elif part == "shape":
            speeds("Random weights, 1.5 G", shape(), threads, a.rounds)
        elif part == "start":
            starts(parties(), threads, a.rounds)
        elif part == "products":
            products(a, threads, a.rounds)


if __name__ == "__main__":
    main()
