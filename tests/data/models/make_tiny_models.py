#!/usr/bin/env python3
"""Makes the tiny random models of this folder, what transformers computes with them, and their GGUF twins.

  make_tiny_models.py [--converter DIR] [--only NAME ...]

DIR is the folder of llama.cpp's convert_hf_to_gguf.py; without it the GGUF files are left as they are. README.md says
what each folder holds. Needs torch, transformers 5, safetensors, tokenizers, sentencepiece, gguf.

Every stored trait is checked to matter: the entries of `must_matter` change config.json so that one trait is gone, and
the logits must then differ, or the script stops. So a reader that ignores the trait cannot pass by luck.
"""

import argparse
import io
import json
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
VOCABULARY = 96
TOKENS = 24  # longer than every sliding window and than the original context of the dynamic and long RoPE models
BATCH = 2

CORPUS = """The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs!
In 1987, 24 of the 36 rivers were measured: their depth was 0.5 to 12.4 metres (see table 6).
Numbers, weights and scales are stored in groups; the largest weight of the group sets the scale.
She said "there is more in the other one" and then left, didn't she? Yes: they're there - we'll see.
the the the and and of of to in in is that it was for on are as with his they at be this have from or one had by
""".strip().split("\n")
TOKENIZER_CASES = [
    "The quick brown fox",
    " the  weights and\nthe scales",
    "didn't she? They're 1987!",
    "x",
    "",
    "the the the",
]

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
BASE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=None,
)
SPM_LLAMA = dict(bos_token_id=1, eos_token_id=2)  # ids of the SentencePiece model "llama"; Gemma's differ
SPM_GEMMA = dict(bos_token_id=2, eos_token_id=1, pad_token_id=0)


def new_style(model_type, **options):
    """A configuration as transformers 5 writes it (rope_parameters, dtype)."""
    return dict(style="new", config=dict(BASE, model_type=model_type, **options))


def old_style(architecture, model_type, dtype, **options):
    """A configuration as transformers 4 wrote it (rope_theta and rope_scaling at the top, torch_dtype); stored as it is."""
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "torch_dtype": dtype,
        "transformers_version": "4.44.2",
        "use_cache": True,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    config.update(BASE)
    config.update(options)
    return dict(style="old", config={k: v for k, v in config.items() if k != "pad_token_id" or v is not None})


def model(
    name,
    configuration,
    dtype="float32",
    tokenizer="bpe",
    must_matter=(),
    taps=False,
    shard=None,
    short=None,
    gguf=None,
    gguf_config=None,
    offset_norm=False,
):
    """short: length of a second, shorter input. gguf: outtype of the twin. gguf_config: what GGUF cannot hold of the
    configuration, as the change that makes config.json equal to what a reader can recover (the twin then has its own golden)."""
    return dict(
        configuration,
        name=name,
        dtype=dtype,
        tokenizer=tokenizer,
        must_matter=must_matter,
        taps=taps,
        shard=shard,
        short=short,
        gguf=gguf,
        gguf_config=gguf_config,
        offset_norm=offset_norm,
    )


PLAIN = {"rope_parameters": ROPE}
UNSCALED = {"rope_scaling": None}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 32}
MODELS = [
    model("llama", new_style("llama", rope_parameters=ROPE, tie_word_embeddings=False), taps=True, gguf="f32"),
    model(
        "llama-bias",
        old_style(
            "LlamaForCausalLM",
            "llama",
            "float32",
            hidden_size=36,
            intermediate_size=28,
            num_attention_heads=6,
            num_key_value_heads=2,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            rope_scaling=None,
            pretraining_tp=1,
            rope_theta=500.0,
        ),
        must_matter=[{"attention_bias": False}, {"mlp_bias": False}, {"rope_theta": 10000.0}],
        gguf="f32",
    ),
    model(
        "llama-linear",
        old_style("LlamaForCausalLM", "llama", "float16", rope_scaling={"type": "linear", "factor": 4.0}),
        dtype="float16",
        shard="24KB",
        must_matter=[UNSCALED],
        gguf="f16",
    ),
    model(
        "llama-dynamic",
        old_style(
            "LlamaForCausalLM",
            "llama",
            "bfloat16",
            tie_word_embeddings=True,
            max_position_embeddings=16,
            rope_scaling={"type": "dynamic", "factor": 2.0},
        ),
        dtype="bfloat16",
        short=14,
        must_matter=[UNSCALED],
    ),
    model(
        "llama-llama3",
        new_style(
            "llama",
            tie_word_embeddings=True,
            max_position_embeddings=512,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        dtype="float16",
        must_matter=[PLAIN],
        gguf="f16",
    ),
    model(
        "llama-yarn-mscale",
        old_style(
            "LlamaForCausalLM",
            "llama",
            "float16",
            hidden_size=48,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=16,
            rope_theta=100.0,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            rope_scaling=dict(
                type="yarn",
                factor=4.0,
                original_max_position_embeddings=32,
                mscale=3.0,
                mscale_all_dim=0.5,
                beta_fast=4.0,
                beta_slow=0.5,
            ),
        ),
        dtype="float16",
        must_matter=[
            UNSCALED,
            {
                "rope_scaling": dict(
                    type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=0.5
                )
            },
        ],
    ),
    model(
        "llama-yarn-attention-factor",
        new_style(
            "llama",
            hidden_size=48,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=16,
            tie_word_embeddings=True,
            max_position_embeddings=128,
            rope_parameters=dict(YARN, attention_factor=1.4, truncate=False),
        ),
        dtype="float16",
        must_matter=[
            {"rope_parameters": dict(YARN, truncate=False)},
            {"rope_parameters": dict(YARN, attention_factor=1.4)},
        ],
    ),
    model(
        "mistral",
        old_style(
            "MistralForCausalLM",
            "mistral",
            "float32",
            head_dim=12,
            sliding_window=9,
            intermediate_size=28,
            rope_theta=1000.0,
            **SPM_LLAMA,
        ),
        tokenizer="llama",
        must_matter=[{"sliding_window": None}, {"sliding_window": 10}],
        gguf="f32",
        gguf_config={"sliding_window": None},
    ),
    model(
        "qwen2",
        old_style(
            "Qwen2ForCausalLM",
            "qwen2",
            "float32",
            tie_word_embeddings=True,
            use_sliding_window=False,
            sliding_window=7,
            max_window_layers=0,
            rope_theta=1000000.0,
            rms_norm_eps=1e-6,
        ),
        must_matter=[{"use_sliding_window": True}],
        gguf="f32",
    ),
    model(
        "qwen2-yarn",
        new_style(
            "qwen2",
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            max_position_embeddings=128,
            rope_parameters=YARN,
        ),
        dtype="float16",
        must_matter=[{"rope_parameters": dict(ROPE, rope_theta=100.0)}],
        gguf="f16",
    ),
    model(
        "qwen2-window",
        new_style(
            "qwen2",
            tie_word_embeddings=True,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
            rope_parameters=ROPE,
        ),
        dtype="float16",
        must_matter=[{"layer_types": ["full_attention"] * 2}, {"layer_types": ["sliding_attention"] * 2}],
    ),
    model(
        "qwen3",
        new_style(
            "qwen3",
            head_dim=12,
            intermediate_size=28,
            tie_word_embeddings=False,
            attention_bias=False,
            rope_parameters=dict(ROPE, rope_theta=1000000.0),
        ),
        gguf="f32",
    ),
    model(
        "gemma2",
        new_style(
            "gemma2",
            head_dim=12,
            intermediate_size=28,
            query_pre_attn_scalar=24,
            sliding_window=7,
            attn_logit_softcapping=4.0,
            final_logit_softcapping=3.0,
            rope_parameters=ROPE,
        )
        | dict(special=SPM_GEMMA),
        tokenizer="gemma",
        offset_norm=True,
        gguf="f32",
        gguf_config={"query_pre_attn_scalar": 12},
        must_matter=[
            {"query_pre_attn_scalar": 12},
            {"sliding_window": 8},
            {"attn_logit_softcapping": None},
            {"final_logit_softcapping": None},
            {"layer_types": ["sliding_attention"] * 2},
        ],
    ),
    model(
        "gemma3",
        new_style(
            "gemma3_text",
            head_dim=12,
            intermediate_size=20,
            num_hidden_layers=6,
            query_pre_attn_scalar=12,
            sliding_window=6,
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0},
            },
        )
        | dict(special=SPM_GEMMA),
        dtype="bfloat16",
        tokenizer="gemma",
        offset_norm=True,
        gguf="bf16",
        must_matter=[
            {"sliding_window": 7},
            {"layer_types": ["sliding_attention"] * 6},
            {
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                    "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
                }
            },
        ],
    ),
    model(
        "gemma3-pattern",
        old_style(
            "Gemma3ForCausalLM",
            "gemma3_text",
            "float32",
            head_dim=8,
            intermediate_size=20,
            num_hidden_layers=3,
            query_pre_attn_scalar=20,
            sliding_window=7,
            sliding_window_pattern=2,
            rope_theta=400.0,
            rope_local_base_freq=100.0,
            rope_scaling=None,
            hidden_activation="gelu_pytorch_tanh",
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            **SPM_GEMMA,
        ),
        tokenizer="gemma",
        offset_norm=True,
        must_matter=[
            {"query_pre_attn_scalar": 8},
            {"sliding_window_pattern": 3},
            {"rope_theta": 10000.0},
            {"rope_local_base_freq": 10000.0},
        ],
    ),
    model(
        "phi3",
        new_style(
            "phi3",
            tie_word_embeddings=False,
            sliding_window=10,
            original_max_position_embeddings=64,
            rope_parameters=dict(ROPE, partial_rotary_factor=0.75),
        )
        | dict(special=SPM_LLAMA),
        tokenizer="llama",
        gguf="f32",
        must_matter=[{"sliding_window": None}, {"rope_parameters": dict(ROPE, partial_rotary_factor=1.0)}],
    ),
    model(
        "phi3-longrope",
        old_style(
            "Phi3ForCausalLM",
            "phi3",
            "float16",
            original_max_position_embeddings=16,
            partial_rotary_factor=0.75,
            sliding_window=None,
            rope_scaling={"type": "longrope", "short_factor": [1.0, 1.1, 1.5], "long_factor": [1.2, 2.5, 4.0]},
            pad_token_id=0,
            **SPM_LLAMA,
        ),
        dtype="float16",
        tokenizer="llama",
        short=12,
        gguf="f16",
        must_matter=[UNSCALED],
    ),
]


def random_weights(net, name, offset_norm):
    """Scaled so that attention is far from uniform and every weight matters; all values exact in the stored dtype."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    scaled_embedding = offset_norm  # Gemma multiplies the embedding by sqrt(hidden)
    for key, p in sorted(net.named_parameters()):
        values = torch.randn(p.shape, generator=generator)
        if key.endswith("norm.weight"):
            values = values * 0.25 + (0.0 if offset_norm else 1.0)
        elif key.endswith(".bias"):
            values = values * 0.3
        elif "embed_tokens" in key:
            values = values * (0.2 if scaled_embedding else 0.6)
        else:
            values = values * (1.6 / p.shape[1] ** 0.5)
        p.data.copy_(values)


@torch.no_grad()
def run(folder, ids, config=None, taps=False):
    """What transformers computes from the stored files, in float32, with its plain attention."""
    net = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    out = {}
    hooks = [
        net.model.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: out.update(
                {"hidden.0": (args[0] if args else kwargs["hidden_states"]).clone()}
            ),
            with_kwargs=True,
        )
    ]
    for i, layer in enumerate(net.model.layers):
        hooks.append(
            layer.register_forward_hook(
                lambda module, args, result, i=i: out.update(
                    {f"hidden.{i + 1}": (result[0] if isinstance(result, tuple) else result).clone()}
                )
            )
        )
    if taps:  # q, k and v share one input, gate and up another
        for linear in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            key = "model.layers.0." + linear
            hooks.append(
                net.get_submodule(key).register_forward_pre_hook(
                    lambda module, args, key=key: out.update({"tap." + key: args[0].clone()})
                )
            )
    out["logits"] = net(ids, use_cache=False).logits.float()
    return {k: v.contiguous() for k, v in out.items()}


def changed_config(folder, change):
    raw = json.loads((folder / "config.json").read_text())
    raw.update(change)
    with tempfile.TemporaryDirectory() as d:
        (Path(d) / "config.json").write_text(json.dumps(raw))
        return AutoConfig.from_pretrained(d)


def make_golden(spec, folder):
    generator = torch.Generator().manual_seed(zlib.crc32(spec["name"].encode()) + 1)
    ids = torch.randint(0, VOCABULARY, (BATCH, TOKENS), generator=generator)
    golden = run(folder, ids, taps=spec["taps"])
    scale = golden["logits"].abs().max()
    for change in spec["must_matter"]:
        difference = (run(folder, ids, changed_config(folder, change))["logits"] - golden["logits"]).abs().max() / scale
        print(f"  without {json.dumps(change)[:90]}: {difference:.3f} of the largest logit")
        if not difference > 0.02:
            raise SystemExit(f"{spec['name']}: {change} makes no difference")
    golden["input_ids"] = ids.int()
    if spec["short"]:
        short = ids[:, : spec["short"]].contiguous()
        golden["short.input_ids"], golden["short.logits"] = short.int(), run(folder, short)["logits"]
        if (golden["short.logits"] - golden["logits"][:, : spec["short"]]).abs().max() < 0.02 * scale:
            raise SystemExit(f"{spec['name']}: the length makes no difference")
    save_file(golden, folder / "golden.safetensors")
    return ids


def make_folder(spec):
    folder = HERE / spec["name"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if spec["style"] == "old":
        (folder / "config.json").write_text(json.dumps(spec["config"], indent=2) + "\n")
        config = AutoConfig.from_pretrained(folder)
    else:
        options = dict(spec["config"], **spec.get("special", {}))
        config = AutoConfig.for_model(options.pop("model_type"), **options)
    net = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    random_weights(net, spec["name"], spec["offset_norm"])
    net = net.to(getattr(torch, spec["dtype"]))
    net.save_pretrained(folder, **({"max_shard_size": spec["shard"]} if spec["shard"] else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if spec["style"] == "old":
        (folder / "config.json").write_text(json.dumps(spec["config"], indent=2) + "\n")
    write_tokenizer(spec["tokenizer"], folder)
    return folder


def sentencepiece_model(kind):
    import sentencepiece

    ids = (
        dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
        if kind == "llama"
        else dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3)
    )
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        vocab_size=VOCABULARY,
        model_type="bpe",
        character_coverage=1.0,
        add_dummy_prefix=kind == "llama",
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        minloglevel=2,
        **ids,
    )
    return out.getvalue()


def byte_level_bpe():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["\n".join(CORPUS)],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|begin|>", "<|endoftext|>"],
            initial_alphabet=[],
            show_progress=False,
        ),
    )
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def write_tokenizer(kind, folder):
    if kind == "bpe":
        byte_level_bpe().save(str(folder / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|endoftext|>"}
    else:
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(kind))
        config = {
            "tokenizer_class": "LlamaTokenizer" if kind == "llama" else "GemmaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_tokenizer_cases():
    import sentencepiece

    bpe = byte_level_bpe()
    cases = {"bpe": [{"text": t, "ids": bpe.encode(t).ids} for t in TOKENIZER_CASES]}
    for kind in ("llama", "gemma"):
        spm = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(kind))
        cases[kind] = [{"text": t, "ids": spm.encode(t)} for t in TOKENIZER_CASES]
    lines = [
        f' "{kind}": [\n' + ",\n".join("  " + json.dumps(c) for c in list_) + "\n ]" for kind, list_ in cases.items()
    ]
    (HERE / "tokenizer_cases.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def convert(spec, converter, ids):
    """The real converter, run in this process. Only its table of pre-tokenizers is by-passed: it identifies a tokenizer by
    a hash of published vocabularies, which a freshly made one cannot have."""
    if str(converter) not in sys.path:
        sys.path.insert(0, str(converter))
        sys.path.insert(0, str(converter / "gguf-py"))
    import convert_hf_to_gguf
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    (HERE / "gguf").mkdir(exist_ok=True)
    folder, out = HERE / spec["name"], HERE / "gguf" / (spec["name"] + ".gguf")
    golden = HERE / "gguf" / (spec["name"] + ".golden.safetensors")
    out.unlink(missing_ok=True)
    golden.unlink(missing_ok=True)
    sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outfile", str(out), "--outtype", spec["gguf"]]
    convert_hf_to_gguf.main()
    if spec["gguf_config"]:
        values = run(folder, ids, changed_config(folder, spec["gguf_config"]))
        save_file(dict(values, input_ids=ids.int()), golden)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--converter", type=Path)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write_tokenizer_cases()
    for spec in MODELS:
        if options.only and spec["name"] not in options.only:
            continue
        print(spec["name"], flush=True)
        folder = make_folder(spec)
        ids = make_golden(spec, folder)
        if spec["gguf"] and options.converter:
            convert(spec, options.converter.resolve(), ids)
        values = load_file(folder / "golden.safetensors")["logits"]
        print(f"  logits: deviation {values.std():.2f}, largest {values.abs().max():.2f}")


if __name__ == "__main__":
    main()
