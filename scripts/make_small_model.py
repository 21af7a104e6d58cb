#!/usr/bin/env python3
"""Writes a small Llama with random F16 weights from a fixed seed, whose shapes every layout can hold (Marlin included).

  make_small_model.py OUT [--layers N] [--tokenizer FOLDER]

FOLDER (tests/data/models/llama) lends the tokenizer and the vocabulary. Needs nothing but Python itself. For sizes at which
memory and time matter there is make_random_model.py. Weights are uniform with the variance 1 / in_features.
"""

import argparse
import json
import pathlib
import random
import shutil
import struct

HIDDEN, INNER, HEADS = 256, 512, 4


def shapes(layers, vocabulary):
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    for i in range(layers):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"model.layers.{i}.self_attn.{name}.weight", (HIDDEN, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            yield f"model.layers.{i}.mlp.{name}.weight", (INNER, HIDDEN)
        yield f"model.layers.{i}.mlp.down_proj.weight", (HIDDEN, INNER)
        yield f"model.layers.{i}.input_layernorm.weight", (HIDDEN,)
        yield f"model.layers.{i}.post_attention_layernorm.weight", (HIDDEN,)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument(
        "--tokenizer",
        type=pathlib.Path,
        default=pathlib.Path(__file__).resolve().parent.parent / "tests/data/models/llama",
    )
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (a.tokenizer / name).exists():
            shutil.copy(a.tokenizer / name, a.out / name)
    vocabulary = json.loads((a.tokenizer / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    config = dict(
        model_type="llama",
        architectures=["LlamaForCausalLM"],
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=a.layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        vocab_size=vocabulary,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        hidden_act="silu",
        torch_dtype="float16",
    )
    (a.out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    tensors = list(shapes(a.layers, vocabulary))
    header, at = {}, 0
    for name, shape in tensors:
        size = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = dict(dtype="F16", shape=list(shape), data_offsets=[at, at + size])
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    draw = random.Random(0)
    with open(a.out / "model.part", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors:
            if len(shape) == 1:
                values = [1.0] * shape[0]
            else:
                values = [draw.uniform(-1, 1) * (3 / shape[1]) ** 0.5 for _ in range(shape[0] * shape[1])]
            f.write(struct.pack(f"<{len(values)}e", *values))
    (a.out / "model.part").rename(a.out / "model.safetensors")


if __name__ == "__main__":
    main()
