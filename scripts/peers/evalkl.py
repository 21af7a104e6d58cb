#!/usr/bin/env python3
"""KL divergence, perplexity and top-token agreement of quantized weights against a reference model.

  evalkl.py REF_DIR TEXT --ref-cache F              compute the reference log-probabilities once, store them in F
  evalkl.py REF_DIR TEXT --ref-cache F --model D    score D against them; prints one JSON line

D is a Hugging Face directory with float weights, or with 4-bit weights in GPTQ, AWQ (GEMM), compressed-tensors
(pack-quantized) or MLX layout, or a GGUF file of a Llama-like model (needs the package gguf). It is dequantized to
float32 and put into the reference model, so only the error of the weights is measured, never that of a kernel.

As a module: Eval(ref_dir, text, cache, chunks, ctx).score(model, limit=None) -> dict; load_weights(path) -> dict.
Protocol: no BOS is added; chunks of `ctx` tokens from the start of the text; all positions of a chunk but the first
are scored. The cache is float16, chunks*(ctx-1)*vocabulary*2 bytes (3.2 GB for 32x1024 and 49152 tokens).
Numbers are comparable only with equal TEXT, --chunks, --ctx and --limit.
"""

import argparse
import glob
import json
import math
import os
import re
import time
import numpy as np
import torch


class Eval:
    def __init__(self, ref_dir, text, cache, chunks=32, ctx=1024):
        from transformers import AutoTokenizer

        tok = AutoTokenizer.from_pretrained(ref_dir)
        with open(text, encoding="utf-8") as f:
            ids = tok(f.read(), add_special_tokens=False, verbose=False)["input_ids"]
        n = min(chunks, len(ids) // ctx)
        if n == 0:
            raise SystemExit(f"{text}: only {len(ids)} tokens, fewer than one chunk of {ctx}")
        self.ids = torch.tensor(ids[: n * ctx]).view(n, ctx)
        self.cache = cache

    @torch.no_grad()
    def _logprobs(self, model, i):
        return torch.log_softmax(model(self.ids[i : i + 1], use_cache=False).logits[0, :-1].float(), -1)

    @torch.no_grad()
    def make_ref(self, model):
        n, c = self.ids.shape
        m = np.lib.format.open_memmap(
            self.cache, mode="w+", dtype=np.float16, shape=(n, c - 1, model.config.vocab_size)
        )
        nll = []
        for i in range(n):
            lp = self._logprobs(model, i)
            m[i] = lp.half().numpy()
            nll.append(-lp.gather(1, self.ids[i, 1:, None])[:, 0])
        m.flush()
        nll = torch.cat(nll)
        return dict(ppl=math.exp(nll.mean()), tokens=nll.numel())

    @torch.no_grad()
    def score(self, model, limit=None):
        m = np.load(self.cache, mmap_mode="r")
        n = min(limit or len(self.ids), len(self.ids))
        if m.shape[0] < n or m.shape[1] != self.ids.shape[1] - 1:
            raise SystemExit(f"{self.cache}: made with other --chunks or --ctx")
        kl, nll, rnll, same = [], [], [], []
        for i in range(n):
            lq = self._logprobs(model, i)
            lp = torch.from_numpy(np.array(m[i])).float()
            kl.append((lp.exp() * (lp - lq)).sum(-1))
            same.append((lp.argmax(-1) == lq.argmax(-1)).float())
            t = self.ids[i, 1:, None]
            nll.append(-lq.gather(1, t)[:, 0])
            rnll.append(-lp.gather(1, t)[:, 0])
        kl, nll, rnll, same = map(torch.cat, (kl, nll, rnll, same))
        return dict(
            kl=float(kl.mean()),
            kl_se=float(kl.std() / math.sqrt(len(kl))),
            kl_p99=float(kl.kthvalue(max(1, int(0.99 * len(kl)))).values),
            ppl=math.exp(nll.mean()),
            ref_ppl=math.exp(rnll.mean()),
            same_top=float(same.mean()),
            tokens=len(kl),
        )


# ---- reading quantized weights -------------------------------------------------------------------------------------
def _unpack(x, dim, bits=4):
    """int32 words to their fields, lowest bits first, along dim (0 or 1)."""
    x = x.to(torch.int64) & 0xFFFFFFFF
    u = (x.unsqueeze(-1) >> torch.arange(0, 32, bits)) & (2**bits - 1)
    return u.flatten(1) if dim == 1 else u.permute(0, 2, 1).reshape(-1, x.shape[1])


_AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]


def _unpack_awq(x):
    w = _unpack(x, 1)
    return w.reshape(w.shape[0], -1, 8)[..., _AWQ_ORDER].flatten(1)


def load_safetensors(d):
    from safetensors import safe_open

    t = {}
    for f in sorted(glob.glob(os.path.join(d, "*.safetensors"))):
        with safe_open(f, "pt") as s:
            for k in s.keys():
                t[k] = s.get_tensor(k)
    with open(os.path.join(d, "config.json")) as f:
        cfg = json.load(f)
    q = cfg.get("quantization_config") or cfg.get("quantization") or {}
    out = {}
    for k, v in t.items():
        if k.endswith(".qweight"):  # GPTQ, AWQ: [in, out]
            b = k[:-8]
            s, qz = t[b + ".scales"].float(), t[b + ".qzeros"]
            if q.get("quant_method") == "awq":
                w, z, gi = _unpack_awq(v), _unpack_awq(qz), None
            else:
                if (q.get("checkpoint_format") or q.get("format")) != "gptq_v2":
                    qz = ((qz.to(torch.int64) & 0xFFFFFFFF) + 0x11111111) & 0xFFFFFFFF  # v1 stores zero - 1
                w, z, gi = _unpack(v, 0), _unpack(qz, 1), t.get(b + ".g_idx")
            gi = torch.arange(w.shape[0]) // (w.shape[0] // s.shape[0]) if gi is None else gi.long()
            out[b + ".weight"] = ((w - z[gi]).float() * s[gi]).t().contiguous()
        elif k.endswith(".weight_packed"):  # compressed-tensors: [out, in], offset by 8
            b = k[:-14]
            s = t[b + ".weight_scale"].float()
            n, kk = t[b + ".weight_shape"].tolist()
            z = t.get(b + ".weight_zero_point")
            z = _unpack(z, 0)[:n].float() if z is not None else torch.full_like(s, 8.0)
            g = kk // s.shape[1]
            out[b + ".weight"] = (_unpack(v, 1)[:, :kk].float() - z.repeat_interleave(g, 1)) * s.repeat_interleave(g, 1)
        elif k.endswith(".weight") and k[:-7] + ".scales" in t and k[:-7] + ".biases" in t:  # MLX: [out, in]
            b = k[:-7]
            bits = q[b]["bits"] if isinstance(q.get(b), dict) else q["bits"]
            s, z = t[b + ".scales"].float(), t[b + ".biases"].float()
            w = _unpack(v.view(torch.int32), 1, bits).float()
            g = w.shape[1] // s.shape[1]
            out[k] = w * s.repeat_interleave(g, 1) + z.repeat_interleave(g, 1)
        elif k.rsplit(".", 1)[-1] in ("weight", "bias") and v.is_floating_point():
            out[k] = v.float()
    return out


_GGUF = dict(
    attn_q="self_attn.q_proj",
    attn_k="self_attn.k_proj",
    attn_v="self_attn.v_proj",
    attn_output="self_attn.o_proj",
    ffn_gate="mlp.gate_proj",
    ffn_up="mlp.up_proj",
    ffn_down="mlp.down_proj",
    attn_norm="input_layernorm",
    ffn_norm="post_attention_layernorm",
)


def load_gguf(path):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    r = GGUFReader(path)

    def meta(key):
        f = r.fields[key]
        return int(f.parts[f.data[0]][0])

    heads, kv = meta("llama.attention.head_count"), meta("llama.attention.head_count_kv")
    out = {}
    for t in r.tensors:
        shape = [int(x) for x in t.shape[::-1]]
        w = torch.from_numpy(np.array(dequantize(t.data, t.tensor_type), dtype=np.float32)).reshape(shape)
        m = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", t.name)
        if t.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif t.name == "output_norm.weight":
            name = "model.norm.weight"
        elif t.name == "output.weight":
            name = "lm_head.weight"
        elif m and m[2] in _GGUF:
            if m[2] in ("attn_q", "attn_k"):  # GGUF stores the rotary pairs of each head interleaved
                h = heads if m[2] == "attn_q" else kv
                w = w.reshape(h, shape[0] // h // 2, 2, shape[1]).transpose(1, 2).reshape(shape)
            name = f"model.layers.{m[1]}.{_GGUF[m[2]]}.weight"
        else:
            print("ignored", t.name)
            continue
        out[name] = w.contiguous()
    return out


def load_weights(path):
    return load_gguf(path) if path.endswith(".gguf") else load_safetensors(path)


def put_weights(model, weights):
    """Puts dequantized weights into a model; says which of the model's tensors they lack or it lacks."""
    head, emb = weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight")
    if head is not None and emb is not None and not torch.equal(head, emb):
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(head.clone())
    r = model.load_state_dict(weights, strict=False)
    missing = [k for k in r.missing_keys if k != "lm_head.weight"]
    if missing or r.unexpected_keys:
        raise SystemExit(f"weights do not fit: missing {missing[:5]}, unknown {r.unexpected_keys[:5]}")
    return model


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("ref")
    a.add_argument("text")
    a.add_argument("--ref-cache", required=True)
    a.add_argument("--model", action="append")
    a.add_argument("--chunks", type=int, default=32)
    a.add_argument("--ctx", type=int, default=1024)
    a.add_argument("--limit", type=int, help="score only the first LIMIT chunks")
    a.add_argument("--threads", type=int, default=2)
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    from transformers import AutoModelForCausalLM

    e = Eval(a.ref, a.text, a.ref_cache, a.chunks, a.ctx)
    for d in a.model or [None]:
        t = time.time()
        m = AutoModelForCausalLM.from_pretrained(a.ref, dtype=torch.float32).eval()
        r = e.make_ref(m) if d is None else dict(model=d, **e.score(put_weights(m, load_weights(d)), a.limit))
        r["seconds"] = round(time.time() - t, 1)
        print(json.dumps(r), flush=True)


if __name__ == "__main__":
    main()
