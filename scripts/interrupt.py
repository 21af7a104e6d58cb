"""interrupt.py BINARY MODEL TEXT [TIMES [COMMAND...]]: how long Ctrl-C takes to end a command, at random moments of its run.

Each of quantize, calibrate, convert, evaluate, compare, sensitivity, bench and generate, and a text that is tokenized (tokenize), runs
TIMES (10) times and gets SIGINT at a random moment of its first MOST seconds (30). MODEL may be `large`: a model of 1 billion weights,
all zero, in a sparse file. Prints, for each command, median and maximum of the seconds until it is
gone, and of the seconds of the processor that it takes until then, divided by its threads: on a busy machine the latter count.
Exit code 1 where a command takes more than a second of them, or ends with another exit code than 130 or 0 (or by the signal, before any work).
"""

import json
import math
import os
import pathlib
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

TINY = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "models" / "llama"
MOST = float(os.environ.get("MOST", 30))
TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid):
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    except (OSError, IndexError):
        return None


def interrupted(command, delay):
    """(exit code, seconds, seconds of the processor) from the signal to the end; None where it ended before."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + delay
        while time.monotonic() < end and child.poll() is None:
            time.sleep(0.005)
        if child.poll() is not None:
            return None
        before = processor_seconds(child.pid)
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        used = usage.ru_utime + usage.ru_stime
        return child.returncode, seconds, max(0.0, used - (used if before is None else before))


def large_model(folder):
    """A Llama of 16 blocks; its tokenizer is that of the tests' models."""
    shutil.copytree(TINY, folder)
    path = pathlib.Path(folder)
    config = json.loads((path / "config.json").read_text())
    hidden, ffn, vocabulary = 2048, 8192, config["vocab_size"]
    config |= {
        "hidden_size": hidden,
        "num_hidden_layers": 16,
        "intermediate_size": ffn,
        "max_position_embeddings": 4096,
    }
    config |= {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "torch_dtype": "bfloat16"}
    (path / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": [vocabulary, hidden], "model.norm": [hidden], "lm_head": [vocabulary, hidden]}
    if config.get("tie_word_embeddings"):
        del shapes["lm_head"]
    block = {"self_attn.q_proj": [hidden, hidden], "self_attn.k_proj": [512, hidden], "self_attn.v_proj": [512, hidden]}
    block |= {"self_attn.o_proj": [hidden, hidden], "mlp.gate_proj": [ffn, hidden], "mlp.up_proj": [ffn, hidden]}
    block |= {"mlp.down_proj": [hidden, ffn], "input_layernorm": [hidden], "post_attention_layernorm": [hidden]}
    for layer in range(16):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    # A shell starts what runs in the background with the signal ignored, and what it starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    binary, model, text = sys.argv[1:4]
    times = int(sys.argv[4]) if len(sys.argv) > 4 else 10
    threads = os.cpu_count()
    with tempfile.TemporaryDirectory(prefix="metal-marlin-interrupt-") as work:
        model = large_model(f"{work}/large") if model == "large" else model
        out = f"{work}/out"
        quantized = f"{work}/q"
        long_text = f"{work}/long.txt"
        words = pathlib.Path(text).read_bytes()
        pathlib.Path(long_text).write_bytes(words * (200_000_000 // len(words) + 1))
        commands = {
            "quantize": ["quantize", model, "-o", out, "--calibration", text, "--samples", "16", "--overwrite"],
            "calibrate": ["calibrate", model, "-o", f"{work}/s.npz", "--calibration", text, "--samples", "16"],
            "convert": ["convert", quantized, "-o", out, "--to", "gptq_v2", "--overwrite"],
            "evaluate": ["evaluate", model, "--text", text, "--chunks", "64"],
            "compare": ["compare", quantized, model],
            "sensitivity": ["inspect", model, "--sensitivity", "--calibration", text],
            "bench": ["bench", model],
            "generate": ["generate", model, "-p", words[:12000].decode(errors="ignore"), "-n", "200"],
            "tokenize": ["quantize", model, "-o", out, "--calibration", long_text, "--overwrite"],
        }
        wanted = sys.argv[5:] or list(commands)
        if "convert" in wanted or "compare" in wanted:
            make = [
                "quantize",
                model,
                "-o",
                quantized,
                "--method",
                "rtn",
                "--evaluate",
                "none",
                "--calibration",
                "builtin",
                "-q",
            ]
            subprocess.run([binary, *make], check=True)
        failed = False
        print(f"{'command':10} {'signals':>8} {'median s':>9} {'most s':>7} {'median CPU s':>13} {'most CPU s':>11}")
        for name in wanted:
            waits, used, span = [], [], MOST
            tries = 0
            while len(waits) < times and tries < 3 * times:
                tries += 1
                got = interrupted([binary, *commands[name], "--threads", str(threads)], random.uniform(0.02, span))
                if got is None:
                    span = max(0.1, 0.7 * span)
                    continue
                code, seconds, processor = got
                waits.append(seconds)
                used.append(processor / threads)
                if code not in (0, 130, -signal.SIGINT):  # by the signal itself where no work has begun yet
                    failed = True
                    print(f"{name}: exit code {code}")
            if not waits:
                print(f"{name}: always done before the signal")
                continue
            failed |= max(used) > 1
            print(
                f"{name:10} {len(waits):8} {statistics.median(waits):9.2f} {max(waits):7.2f} "
                f"{statistics.median(used):13.2f} {max(used):11.2f}",
                flush=True,
            )
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
