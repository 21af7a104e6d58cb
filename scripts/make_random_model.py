#!/usr/bin/env python3
"""Writes a Llama with random f16 weights of a given shape, to measure memory and time at sizes for which no weights are at hand.

  make_random_model.py OUT --tokenizer FOLDER [--shape 1.5b|7b] [--layers N]

FOLDER lends tokenizer.json (and tokenizer_config.json); the vocabulary is that of the shape, at least the tokenizer's.
Weights are N(0, 1/sqrt(in_features)), so that activations neither vanish nor explode. Needs numpy. One tensor in memory.
"""

import argparse
import json
import pathlib
import shutil
import struct

import numpy as np

SHAPES = {
    "1.5b": dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=8
    ),
    "7b": dict(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32
    ),
}


def tensors(c):
    h, f = c["hidden_size"], c["intermediate_size"]
    kv = c["num_key_value_heads"] * h // c["num_attention_heads"]
    yield "model.embed_tokens.weight", (c["vocab_size"], h)
    yield "model.norm.weight", (h,)
    yield "lm_head.weight", (c["vocab_size"], h)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for name, shape in [
            ("self_attn.q_proj", (h, h)),
            ("self_attn.k_proj", (kv, h)),
            ("self_attn.v_proj", (kv, h)),
            ("self_attn.o_proj", (h, h)),
            ("mlp.gate_proj", (f, h)),
            ("mlp.up_proj", (f, h)),
            ("mlp.down_proj", (h, f)),
            ("input_layernorm", (h,)),
            ("post_attention_layernorm", (h,)),
        ]:
            yield p + name + ".weight", shape


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out", type=pathlib.Path)
    a.add_argument("--tokenizer", type=pathlib.Path, required=True)
    a.add_argument("--shape", choices=sorted(SHAPES), default="1.5b")
    a.add_argument("--layers", type=int)
    a = a.parse_args()
    vocabulary = len(json.loads((a.tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    c = dict(
        SHAPES[a.shape],
        model_type="llama",
        architectures=["LlamaForCausalLM"],
        vocab_size=max(32000, vocabulary),
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        hidden_act="silu",
        torch_dtype="float16",
    )
    if a.layers:
        c["num_hidden_layers"] = a.layers
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "config.json").write_text(json.dumps(c, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (a.tokenizer / name).exists():
            shutil.copy(a.tokenizer / name, a.out / name)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors(c):
        size = 2 * int(np.prod(shape))
        header[name] = dict(dtype="F16", shape=list(shape), data_offsets=[at, at + size])
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with open(a.out / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors(c):
            if len(shape) == 1:
                w = np.ones(shape, np.float16)
            else:
                w = (rng.standard_normal(shape, np.float32) / np.sqrt(shape[1])).astype(np.float16)
            f.write(w.tobytes())
    print(f"{a.out}: {at / 2e9:.2f} G weights, {at / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
