"""Writes a Llama with random weights as a GGUF file for llama.cpp's benchmarks: linears in Q4_0, embedding and head in Q8_0.

  random_gguf.py CONFIG.json OUT.gguf

The shape is that of a config.json in Hugging Face layout (scripts/make_random_model.py writes one). The file has no
vocabulary, only its size: llama-bench needs no more. Needs numpy and gguf.
"""

import json
import sys

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType


def blocks(rng, shape, kind):
    """Random blocks of 32 weights whose standard deviation is 1/sqrt(in_features), as bytes [out, bytes of a row]."""
    out, k = shape
    width, deviation = (16, 4.61) if kind == Q.Q4_0 else (32, 73.9)
    rows = np.empty((out, k // 32, 2 + width), np.uint8)
    rows[:, :, :2] = np.array([1 / (deviation * np.sqrt(k))], np.float16).view(np.uint8)
    rows[:, :, 2:] = rng.integers(0, 256, (out, k // 32, width), np.uint8)
    return rows.reshape(out, -1)


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        c = json.load(f)
    h, f, layers, heads = (
        c[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    )
    kv = c["num_key_value_heads"] * h // heads
    w = gguf.GGUFWriter(sys.argv[2], "llama")
    w.add_block_count(layers)
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(h)
    w.add_feed_forward_length(f)
    w.add_head_count(heads)
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_dimension_count(h // heads)
    w.add_rope_freq_base(c["rope_theta"])
    w.add_vocab_size(c["vocab_size"])
    w.add_tokenizer_model("no_vocab")
    rng = np.random.default_rng(0)

    def add(name, shape, kind=Q.Q4_0):
        w.add_tensor(name, blocks(rng, shape, kind), raw_dtype=kind)

    add("token_embd.weight", (c["vocab_size"], h), Q.Q8_0)
    add("output.weight", (c["vocab_size"], h), Q.Q8_0)
    w.add_tensor("output_norm.weight", np.ones(h, np.float32))
    for i in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{i}.{name}.weight", np.ones(h, np.float32))
        for name, shape in [
            ("attn_q", (h, h)),
            ("attn_k", (kv, h)),
            ("attn_v", (kv, h)),
            ("attn_output", (h, h)),
            ("ffn_gate", (f, h)),
            ("ffn_up", (f, h)),
            ("ffn_down", (h, f)),
        ]:
            add(f"blk.{i}.{name}.weight", shape)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
