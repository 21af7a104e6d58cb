"""llm-compressor: run_llmcompressor.py MODEL TEXT OUT SEQUENCES gptq|awq"""

import sys

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.awq import AWQModifier
from llmcompressor.modifiers.quantization import GPTQModifier
from sequences import sequences
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.Tensor.pin_memory = lambda self, *_, **__: self  # its AWQ search asks for it without a GPU and fails
path, text, out, count, method = sys.argv[1:]
weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64}
groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
modifier = {"gptq": GPTQModifier, "awq": AWQModifier}[method](ignore=["lm_head"], config_groups=groups)
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
ids = sequences(path, text, int(count))
data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(i) for i in ids]})
oneshot(
    model=model,
    tokenizer=AutoTokenizer.from_pretrained(path),
    dataset=data,
    recipe=[modifier],
    max_seq_length=len(ids[0]),
    num_calibration_samples=len(ids),
)
model.save_pretrained(out, save_compressed=True)
