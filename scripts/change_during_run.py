#!/usr/bin/env python3
"""change_during_run.py BINARY MODEL TEXT [TIMES]

Runs quantize, evaluate and convert on copies of MODEL (a folder or a .gguf file) and, at TIMES (20) random moments of
each, truncates, rewrites, renames or replaces a file of the model. Every run must end with exit code 0 and the right
result, or with exit code 1 and a message that names a file; never by a signal. After each broken quantize the file is
put back and the same command must end with the bytes of an uninterrupted run.

Exit code 0 and one line per command when all of that holds.
"""

import collections
import hashlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

FEW = ["--quiet", "--calibration", None, "--samples", "16", "--sequence-length", "64", "--group-size", "8"]


def sums(folder):
    """SHA-256 of every file but the reports and the card, which name times and paths."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("report.") and path.name != "README.md":
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def files_of(model):
    return [p for p in ([model] if model.is_file() else model.iterdir()) if p.is_file()]


def change(model, rng):
    """One change to a random file; returns what was done. Weights are the likeliest victim."""
    files = files_of(model)
    weights = [p for p in files if p.suffix in (".safetensors", ".gguf")]
    path = rng.choice(weights if weights and rng.random() < 0.7 else files)
    size = path.stat().st_size
    kind = rng.choice(["truncate", "empty", "rewrite", "rename", "replace", "folder"])
    if kind == "truncate":
        os.truncate(path, rng.randrange(size))
    elif kind == "empty":
        os.truncate(path, 0)
    elif kind == "rewrite":
        with open(path, "r+b") as file:
            file.seek(rng.randrange(size))
            file.write(bytes(rng.randrange(256) for _ in range(64)))
            file.truncate(size)
    elif kind == "rename":
        path.rename(path.with_name(path.name + ".away"))
    elif kind == "replace":
        other = path.with_name(path.name + ".other")
        other.write_bytes(bytes(rng.randrange(256) for _ in range(min(size, 4096))))
        other.rename(path)
    else:
        model.rename(model.with_name(model.name + ".away"))
    return f"{kind} {path.name}"


def fresh(model, place):
    """A copy of the model at `place`, with the times of the original."""
    for old in (place, place.with_name(place.name + ".away")):
        if old.is_dir():
            shutil.rmtree(old)
        elif old.exists():
            old.unlink()
    if model.is_dir():
        shutil.copytree(model, place)
        for path in place.rglob("*"):
            path.chmod(0o644)
    else:
        shutil.copy2(model, place)
        place.chmod(0o644)


def run(command, model=None, delay=0.0, rng=None):
    """(exit code, result, message, what was changed). What is told of progress depends on time, and is no result."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    what = ""
    if rng is not None:
        time.sleep(delay)
        what = change(model, rng)
    output, message = process.communicate(timeout=600)
    return process.returncode, output, message, what


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    binary, model, text = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    times = int(sys.argv[4]) if len(sys.argv) > 4 else 20
    rng = random.Random(int(os.environ.get("SEED", "1")))
    work = pathlib.Path(tempfile.mkdtemp(prefix="change-during-run-"))
    bad = []
    try:
        copy = work / ("model" + ("" if model.is_dir() else model.suffix))
        few = [text if word is None else word for word in FEW]
        fresh(model, copy)
        source = work / "source"
        made = [binary, "quantize", str(model), "-o", str(source), "--method", "rtn", "--format", "native", *few]
        code, _, message, _ = run(made)
        if code != 0:
            sys.exit(f"cannot make a source for convert: {message}")
        commands = {
            "quantize": (model, lambda out: ["quantize", str(copy), "-o", out, "--method", "gptq", *few]),
            "evaluate": (
                model,
                lambda out: ["evaluate", str(copy), "--text", text, "--chunks", "16", "--context", "64", "--json"],
            ),
            "convert": (source, lambda out: ["convert", str(copy), "-o", out, "--to", "gptq_v2", "--quiet"]),
        }
        for name, (origin, command) in commands.items():
            copy = work / ("model" + ("" if origin.is_dir() else origin.suffix))
            out = work / "out"

            def start():
                shutil.rmtree(out, ignore_errors=True)
                fresh(origin, copy)

            start()
            begin = time.monotonic()
            code, want, message, _ = run([binary, *command(str(out))])
            whole = time.monotonic() - begin
            if code != 0:
                sys.exit(f"{name}: the undisturbed run ends with {code}: {message}")
            right = sums(out) if out.exists() else want
            ends = collections.Counter()
            for _ in range(times):
                start()
                code, output, message, what = run([binary, *command(str(out))], copy, rng.random() * whole, rng)
                ends[code] += 1
                if code == 0:
                    found = sums(out) if out.exists() else output
                    if found != right:
                        # The change came before the model was opened: then it is the result of the changed model.
                        shutil.rmtree(out, ignore_errors=True)
                        code, again, _, _ = run([binary, *command(str(out))])
                        if code != 0 or found != (sums(out) if out.exists() else again):
                            bad.append(f"{name}, {what}: another result without a message")
                elif code != 1 or not message.strip():
                    bad.append(f"{name}, {what}: exit code {code}: {message.strip()}")
                if name == "quantize" and code != 0:
                    fresh(origin, copy)
                    code, _, message, _ = run([binary, *command(str(out))])
                    if code != 0 or sums(out) != right:
                        bad.append(f"{name} again after {what}: exit code {code}: {message.strip()}")
            print(f"{name}: {times} changes, exit codes {dict(ends)}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
