#!/usr/bin/env python3
"""Writes a Llama with random weights of a given shape, to measure memory and time at sizes for which no weights are at hand.

  make_random_model.py OUT --tokenizer FOLDER [--shape 1.5b|7b] [--layers N] [--quantized [--group-size N]]

FOLDER lends tokenizer.json (and tokenizer_config.json); the vocabulary is that of the shape, at least the tokenizer's.
Weights are N(0, 1/sqrt(in_features)) in f16, so that activations neither vanish nor explode. With --quantized the linears
are random 4-bit codes with one scale, of that standard deviation, in GPTQ's layout (symmetric, groups of --group-size);
embedding and head stay f16. Needs numpy. One tensor in memory.
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


def stored(name, shape, group):
    """The arrays that stand for a weight [out, in]: (name, dtype of safetensors, shape)."""
    if not group or "proj" not in name:
        return [(name, "F16", shape)]
    out, k = shape
    base = name.removesuffix("weight")
    return [
        (base + "qweight", "I32", (k // 8, out)),
        (base + "qzeros", "I32", (k // group, out // 8)),
        (base + "scales", "F16", (k // group, out)),
    ]


def values(name, shape, rng, in_features):
    if name.endswith("qweight"):
        return rng.integers(-(2**31), 2**31, shape, np.int32)
    if name.endswith("qzeros"):
        return np.full(shape, 0x77777777, np.int32)  # GPTQ stores a zero less one: 8
    if name.endswith("scales"):  # codes of 0 .. 15 have the standard deviation 4.61
        return np.full(shape, 1 / (4.61 * np.sqrt(in_features)), np.float16)
    if len(shape) == 1:
        return np.ones(shape, np.float16)
    return (rng.standard_normal(shape, np.float32) / np.sqrt(shape[1])).astype(np.float16)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out", type=pathlib.Path)
    a.add_argument("--tokenizer", type=pathlib.Path, required=True)
    a.add_argument("--shape", choices=sorted(SHAPES), default="1.5b")
    a.add_argument("--layers", type=int)
    a.add_argument("--quantized", action="store_true")
    a.add_argument("--group-size", type=int, default=128)
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
    group = a.group_size if a.quantized else 0
    if group and any(k % group for k in (c["hidden_size"], c["intermediate_size"])):
        raise SystemExit(f"--group-size {group} does not divide {c['hidden_size']} and {c['intermediate_size']}")
    if group:
        c["quantization_config"] = dict(
            quant_method="gptq", checkpoint_format="gptq", bits=4, group_size=group, sym=True, desc_act=False
        )
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "config.json").write_text(json.dumps(c, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (a.tokenizer / name).exists():
            shutil.copy(a.tokenizer / name, a.out / name)
    arrays = [(array, shape) for name, shape in tensors(c) for array in stored(name, shape, group)]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for (name, dtype, shape), _ in arrays:
        size = (4 if dtype == "I32" else 2) * int(np.prod(shape))
        header[name] = dict(dtype=dtype, shape=list(shape), data_offsets=[at, at + size])
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with open(a.out / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for (name, _, shape), of in arrays:
            f.write(values(name, shape, rng, of[-1]).tobytes())
    weights = sum(int(np.prod(shape)) for _, shape in tensors(c))
    print(f"{a.out}: {weights / 1e9:.2f} G weights, {at / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
