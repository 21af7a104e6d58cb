"""AutoRound: run_autoround.py MODEL TEXT OUT SEQUENCES ITERATIONS"""

import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from sequences import sequences
from transformers import AutoModelForCausalLM, AutoTokenizer

path, text, out, count, iterations = sys.argv[1:]
ids = sequences(path, text, int(count))
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
quantizer = AutoRound(model, AutoTokenizer.from_pretrained(path), bits=4, group_size=64, sym=True, iters=int(iterations), nsamples=len(ids),
                      seqlen=len(ids[0]), batch_size=8, dataset=[torch.tensor([i]) for i in ids], device_map="cpu")  # fmt: skip
quantizer.quantize_and_save(out, format="auto_gptq")
if not (Path(out) / "config.json").exists():  # it writes into a folder of its own within
    (inner,) = Path(out).iterdir()
    for file in inner.iterdir():
        file.rename(Path(out) / file.name)
    inner.rmdir()
