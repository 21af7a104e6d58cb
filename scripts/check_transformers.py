#!/usr/bin/env python3
"""Checks that other programs compute the same from a 4-bit checkpoint: check_transformers.py TEXT FOLDER...

For each FOLDER (an AWQ or GPTQ checkpoint, by this project or by GPTQModel): perplexity of the first 8 chunks of 1024
tokens of TEXT by `metal-marlin evaluate` and by transformers with gptqmodel, which must agree within 0.5 %. Not part of
the tests that always run: it needs an environment of its own,

    python3 -m venv VENV && VENV/bin/pip install torch transformers accelerate optimum gptqmodel
    VENV/bin/python scripts/check_transformers.py TEXT FOLDER... --command build/release/bin/metal-marlin

A position is scored when it is not the first of its chunk; chunks are cut from the tokens of the whole text without
special tokens, as `metal-marlin evaluate` does. Exit code 1: some figures differ.
"""

import argparse
import json
import math
import os
import subprocess
import sys

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with fewer, loading fails on machines of two cores


def by_us(command, folder, text, chunks, context):
    arguments = [
        command,
        "evaluate",
        folder,
        "--text",
        text,
        "--chunks",
        str(chunks),
        "--context",
        str(context),
        "--json",
    ]
    out = subprocess.run(arguments, check=True, stdout=subprocess.PIPE)
    return json.loads(out.stdout)["model"]["perplexity"]["quantized"]


def by_transformers(folder, text, chunks, context):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with open(text, encoding="utf-8") as file:
        ids = tokenizer(file.read(), add_special_tokens=False, verbose=False)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()
    packed = [name for name, module in model.named_modules() if hasattr(module, "qweight")]
    if not packed:
        sys.exit(f"{folder}: transformers found no 4-bit linear in it")
    loss = 0.0
    count = 0
    for i in range(min(chunks, len(ids) // context)):
        chunk = torch.tensor([ids[i * context : (i + 1) * context]])
        with torch.no_grad():
            logits = model(chunk).logits[0].float()
        loss += torch.nn.functional.cross_entropy(logits[:-1], chunk[0, 1:], reduction="sum").item()
        count += context - 1
    return math.exp(loss / count), len(packed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--command", default="metal-marlin")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tolerance", type=float, default=0.005, help="of the ratio of the two perplexities")
    arguments = parser.parse_args()
    failed = False
    for folder in arguments.folders:
        ours = by_us(arguments.command, folder, arguments.text, arguments.chunks, arguments.context)
        theirs, linears = by_transformers(folder, arguments.text, arguments.chunks, arguments.context)
        difference = abs(ours / theirs - 1)
        good = difference <= arguments.tolerance
        failed = failed or not good
        print(
            f"{'ok  ' if good else 'FAIL'} {folder}: metal-marlin {ours:.4f}, transformers {theirs:.4f} "
            f"({linears} packed linears), difference {100 * difference:.3f} %",
            flush=True,
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
