"""make_fuzz_seeds.py FOLDER [TARGET...]: small valid inputs for the fuzzers, as FOLDER/TARGET/seed-N, and the words that a
fuzzer may put in as FOLDER/TARGET.dict. Same files every time; no packages needed."""

import json
import pathlib
import random
import struct
import sys
import zipfile
import io

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
LARGEST = 1 << 15  # of a file that is taken as it is: smaller inputs run more often


def files(folder, ending):
    paths = sorted((DATA / folder).glob(ending))
    return [p.read_bytes() for p in paths if p.stat().st_size <= LARGEST]


def safetensors(tensors, metadata=None):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def npy(descr, shape, content, fortran=False):
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {tuple(shape)!r}, }}"
    text += " " * (-(11 + len(text)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + content


def npz(arrays, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(name + ".npy"), array, method)
    return out.getvalue()


def floats(count, seed=0):
    rng = random.Random(seed)
    return struct.pack(f"<{count}f", *(rng.uniform(-1, 1) for _ in range(count)))


# Containers


def make_safetensors():
    tensors = {"a": ("F32", [2, 3], floats(6)), "b": ("F16", [4], bytes(8)), "c": ("I64", [], bytes(8))}
    index = {
        "metadata": {"total_size": 46},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "x.safetensors"},
    }
    return [
        safetensors(tensors, {"format": "pt"}),
        safetensors({"e": ("F32", [0, 7], b"")}),
        safetensors({"w": ("BF16", [2, 2], bytes(8)), "x": ("U8", [1], b"x"), "y": ("F8_E4M3", [2], b"ab")}),
        json.dumps(index).encode(),
        *files("formats", "*.safetensors"),
    ]


GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_TEXT, GGUF_LIST = 4, 5, 6, 7, 8, 9


def gguf_text(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(kind, value):
    if kind == GGUF_TEXT:
        return gguf_text(value)
    if isinstance(kind, tuple):
        return struct.pack("<IQ", kind[1], len(value)) + b"".join(gguf_value(kind[1], v) for v in value)
    return struct.pack({GGUF_U32: "<I", GGUF_I32: "<i", GGUF_F32: "<f", GGUF_BOOL: "<?"}[kind], value)


def gguf(metadata, tensors):
    """metadata: key -> (kind, value); tensors: name -> (type, shape with the fastest first, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, (kind, value) in metadata.items():
        out += (
            gguf_text(key) + struct.pack("<I", GGUF_LIST if isinstance(kind, tuple) else kind) + gguf_value(kind, value)
        )
    data = b""
    for name, (kind, shape, content) in tensors.items():
        out += gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += content + bytes(-len(content) % 32)
    return out + bytes(-len(out) % 32) + data


def make_gguf():
    tensors = {
        "f32": (0, [4, 2], floats(8)),
        "f16": (1, [8], bytes(16)),
        "q4_0": (2, [32, 2], bytes(36)),
        "q4_1": (3, [32], bytes(20)),
        "q8_0": (8, [32], bytes(34)),
        "q4_k": (12, [256], bytes(144)),
        "q6_k": (14, [256], bytes(210)),
        "bf16": (30, [2], bytes(4)),
    }
    metadata = {
        "general.architecture": (GGUF_TEXT, "llama"),
        "general.alignment": (GGUF_U32, 32),
        "a": ((GGUF_LIST, GGUF_F32), [1.0, 2.0]),
        "b": ((GGUF_LIST, GGUF_TEXT), ["x", ""]),
        "c": (GGUF_BOOL, True),
    }
    return [gguf(metadata, tensors), gguf({}, {}), *files("formats", "*.gguf")]


def gguf_model(architecture="llama", kind=0, tokenizer="llama", extra=None):
    hidden, inner, head, vocabulary = 32, 32, 8, 300
    key = architecture + "."
    metadata = {
        "general.architecture": (GGUF_TEXT, architecture),
        key + "context_length": (GGUF_U32, 64),
        key + "embedding_length": (GGUF_U32, hidden),
        key + "block_count": (GGUF_U32, 1),
        key + "feed_forward_length": (GGUF_U32, inner),
        key + "attention.head_count": (GGUF_U32, 4),
        key + "attention.head_count_kv": (GGUF_U32, 2),
        key + "attention.key_length": (GGUF_U32, head),
        key + "attention.value_length": (GGUF_U32, head),
        key + "rope.dimension_count": (GGUF_U32, head),
        key + "rope.freq_base": (GGUF_F32, 10000.0),
        key + "attention.layer_norm_rms_epsilon": (GGUF_F32, 1e-5),
        "tokenizer.ggml.model": (GGUF_TEXT, tokenizer),
        "tokenizer.ggml.bos_token_id": (GGUF_U32, 1),
        "tokenizer.ggml.eos_token_id": (GGUF_U32, 2),
    }
    if tokenizer == "llama":
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
        tokens += ["\u2581", "H", "e", "l", "o", "ll", "\u2581H"]
        types = [2, 3, 3] + [6] * 256 + [1] * 7
        metadata["tokenizer.ggml.scores"] = ((GGUF_LIST, GGUF_F32), [-float(i) for i in range(vocabulary)])
        tokens += [f"u{i}" for i in range(vocabulary - len(tokens))]
        types += [1] * (vocabulary - len(types))
    else:
        visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
        letters = [chr(c) for c in visible] + [chr(256 + i) for i in range(256 - len(visible))]
        tokens = ["<|a|>", "<|b|>", "<|c|>", *letters, "ll", "He"]
        types = [3, 3, 3] + [1] * 258
        tokens += [f"<|u{i}|>" for i in range(vocabulary - len(tokens))]
        types += [4] * (vocabulary - len(types))
        metadata["tokenizer.ggml.pre"] = (GGUF_TEXT, "llama-bpe")
        metadata["tokenizer.ggml.merges"] = ((GGUF_LIST, GGUF_TEXT), ["l l", "H e"])
    metadata["tokenizer.ggml.tokens"] = ((GGUF_LIST, GGUF_TEXT), tokens)
    metadata["tokenizer.ggml.token_type"] = ((GGUF_LIST, GGUF_I32), types)
    metadata.update(extra or {})
    size = {0: 4, 1: 2, 2: 18 / 32, 3: 20 / 32, 8: 34 / 32}[kind]

    def matrix(columns, rows):
        return (kind, [columns, rows], bytes(int(columns * rows * size)))

    tensors = {"token_embd.weight": matrix(hidden, vocabulary), "output_norm.weight": (0, [hidden], floats(hidden))}
    for name, columns, rows in (
        ("attn_q", hidden, 32), ("attn_k", hidden, 16), ("attn_v", hidden, 16), ("attn_output", 32, hidden),
        ("ffn_gate", hidden, inner), ("ffn_up", hidden, inner), ("ffn_down", inner, hidden),
    ):  # fmt: skip
        tensors[f"blk.0.{name}.weight"] = matrix(columns, rows)
    for name in ("attn_norm", "ffn_norm"):
        tensors[f"blk.0.{name}.weight"] = (0, [hidden], floats(hidden))
    return gguf(metadata, tensors)


def make_gguf_model():
    template = {"tokenizer.chat_template": (GGUF_TEXT, "{% for m in messages %}{{ m.content }}{% endfor %}")}
    return [gguf_model(kind=2), gguf_model(kind=8, tokenizer="gpt2", extra=template), gguf_model(kind=3)]


def make_npz():
    a = npy("<f4", [2, 3], floats(6))
    b = npy(">i2", [4], bytes(8))
    c = npy("<f2", [3, 2], bytes(12), True)
    return [a, b, c, npz({"a": a, "b": b}), npz({"c": c}, zipfile.ZIP_DEFLATED), *files("formats", "*.np[yz]")]


# Configurations and tokenizers

QUANTIZATION = [
    {"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm", "zero_point": True},
    {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False, "sym": True, "checkpoint_format": "gptq_v2",
     "dynamic": {"-:x": {}, "+:y": {"bits": 8}}},
    {"quant_method": "gptq", "bits": 4, "group_size": -1, "is_marlin_format": True},
    {"quant_method": "metal_marlin", "bits": 4, "group_size": 8},
]  # fmt: skip


def configs():
    return [json.loads(p.read_text()) for p in sorted((DATA / "models").glob("*/config.json"))]


def make_config():
    every = configs()
    quantized = [every[i % len(every)] | {"quantization_config": q} for i, q in enumerate(QUANTIZATION)]
    return [json.dumps(c).encode() for c in every + quantized]


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def piece(text, score, kind=1):
    return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))


def make_sentencepiece():
    special = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3)
    letters = b"".join(piece(t, -i) for i, t in enumerate(["\u2581", "H", "e", "l", "o", "ll", "\u2581He", "a", "aa"]))
    small = b"".join(piece(f"<0x{i:02X}>", 0, 6) for i in range(256))
    trainers = [b"\x18\x02\xc0\x02\x01", b"\x18\x01", b"\x18\x02"]  # BPE with bytes, Unigram, BPE
    rules = [
        field(1, b"identity") + b"\x18\x01",
        b"\x18\x00\x20\x00",
        field(1, b"nmt_nfkc") + field(2, b"\x04\0\0\0\0\0\0\0"),
    ]
    return [
        special + (small if i == 0 else b"") + letters + field(2, trainer) + field(3, rule)
        for i, (trainer, rule) in enumerate(zip(trainers, rules))
    ] + files("models/mistral", "tokenizer.model")


def tokenizers():
    words = {w: i for i, w in enumerate(["<unk>", "<s>", "Hello", ",", "w", "o", "r", "l", "d", "ll", "##o"])}
    added = [{"id": 1, "content": "<s>", "single_word": False, "lstrip": True, "rstrip": False, "normalized": False,
              "special": True}]  # fmt: skip
    split = {
        "type": "Split",
        "pattern": {"Regex": r"\p{N}{1,3}|\s+(?!\S)|\w+"},
        "behavior": "Isolated",
        "invert": False,
    }
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
               {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}  # fmt: skip
    ends = {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}  # fmt: skip
    models = [
        {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
        {"type": "BPE", "vocab": words, "merges": [["l", "l"]], "unk_token": "<unk>", "fuse_unk": True,
         "byte_fallback": False},
        {"type": "Unigram", "vocab": [[w, -float(i)] for w, i in words.items()], "unk_id": 0, "byte_fallback": False},
        {"type": "WordPiece", "vocab": words, "unk_token": "<unk>", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 100},
    ]  # fmt: skip
    shapes = [
        (None, {"type": "WhitespaceSplit"}, None, None),
        (prepend, split, ends, {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}),
        ({"type": "NFC"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}, ends,
         {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}),
        ({"type": "Lowercase"}, {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "use_regex": False,
          "add_prefix_space": False, "trim_offsets": True}]}, None, {"type": "WordPiece", "prefix": "##", "cleanup": True}),
    ]  # fmt: skip
    for model, (normalizer, cut, ends_, decoder) in zip(models, shapes):
        yield {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
               "pre_tokenizer": cut, "post_processor": ends_, "decoder": decoder, "model": model}  # fmt: skip


def make_tokenizer():
    texts = [json.dumps(t).encode() for t in tokenizers()] + files("models/llama", "tokenizer.json")
    return texts + [t + b"\0Hello, w\xc3\xb6rld  <s> 12345\n\n" for t in texts]


TEMPLATES = [
    "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}\n{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}",
    "{{ bos_token }}{% set ns = namespace(found=false, a=[]) %}{%- for m in messages[1:] -%}{% set ns.a = ns.a + [m] %}"
    "{%- if loop.last and not ns.found %}{{ m.content.split('x')[-1].upper() }}{%- endif %}{%- endfor -%}{{ ns.a | length }}",
    "{% macro f(x, y=2) %}{{ x ~ y }}{% endmacro %}{{ f(1) }}{{ tools | tojson(indent=2) }}{{ strftime_now('%d %b %Y') }}",
    "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% else %}{% generation %}{{ -7 // 2 }}{{ 5 % -3 }}"
    "{% endgeneration %}{% endif %}{{ messages | map(attribute='role') | join(',') }}{{ 'a%sb' | replace('a', 'c') }}",
    "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ loop.index0 }}{% endfor %}{{ {'a': [1, none]}.items() }}"
    "{{ 'x' if tools is defined else 'y' }}{{ messages | selectattr('role', 'equalto', 'user') | list | first }}",
]


def make_chat_template():
    messages = json.dumps(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "x y", "tool_calls": [{"a": 1.5}]}]
    )
    return [t.encode() for t in TEMPLATES] + [t.encode() + b"\0" + messages.encode() for t in TEMPLATES]


def make_jsonl():
    lines = [
        {
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
            ]
        },
        {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "yes"}]},
        {"text": "plain \u00e9\n", "other": [1, {"a": None}]},
    ]
    one = [json.dumps(line).encode() for line in lines]
    return [*one, b"\n".join([one[2], b"", one[2] + b"\n"]), b"\xef\xbb\xbf" + one[2] + b"\r\n" + one[2]]


# Of a run


def make_statistics():
    widths = {"qkv": 32, "o": 32, "gate_up": 32, "down": 40}
    arrays, raw = {}, {}
    for layer in range(2):
        for name, width in widths.items():
            prefix = f"layers.{layer}.{name}."
            for part in ("mean", "max", "rms"):
                arrays[prefix + part] = npy("<f4", [width], struct.pack("<f", 1.0) * width)
            arrays[prefix + "tokens"] = npy("<u8", [1], struct.pack("<Q", 8))
        linears = {"self_attn.q_proj": 32, "self_attn.o_proj": 32, "mlp.gate_proj": 32, "mlp.down_proj": 40}
        for name, width in linears.items():
            raw[f"model.layers.{layer}.{name}.weight"] = npy("<f2", [1, 3, width], bytes(6 * width))
    grams = arrays | {
        f"layers.{layer}.{name}.gram": npy("<f4", [width, width], struct.pack("<f", 0.25) * (width * width))
        for layer in range(2)
        for name, width in widths.items()
    }
    text = json.dumps({"sources": [{"source": "a.txt", "kind": "text", "tokens": 8}]}).encode()
    arrays["metal_marlin.calibration"] = npy("|u1", [len(text)], text)
    # The number of bytes says whether Gram matrices are asked for: give each file with both.
    return [s + bytes(i) for s in (npz(arrays), npz(raw), npz(grams, zipfile.ZIP_DEFLATED)) for i in (0, 1)]


def make_journal():
    name = "model.layers.0.self_attn.q_proj.weight"
    block = {
        name: ("U32", [1, 8], bytes(32)),
        name + ".scales": ("F16", [1, 8], b"\0\x3c" * 8),
        name + ".zeros": ("F16", [1, 8], bytes(16)),
        "model.layers.0.input_layernorm.weight": ("F16", [8], bytes(16)),
    }
    groups = json.dumps({name: {"bits": 4, "group_size": 8, "symmetric": True}})
    tokens = {"calibration": ("I32", [1, 4], bytes(16)), "held_back": ("I32", [1, 4], bytes(16))}
    run = {"fingerprint": "0123456789abcdef" * 2, "identity": {"model": "m", "options": {"samples": 4}, "texts": ["a"]}}
    return [
        b"\0" + safetensors(block, {"quantized": groups}),
        b"\1" + safetensors(tokens),
        b"\2" + safetensors({"states": ("F32", [2, 4], floats(8)), "0": ("F32", [2, 4], floats(8))}),
        b"\3" + json.dumps(run).encode(),
        b"\4" + json.dumps({"linears": [{"name": name, "error": 0.5}], "seconds": 1}).encode(),
    ]


def make_report():
    folder = pathlib.Path(__file__).resolve().parent.parent / "tests/data/report"
    parts = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
    parts = [part for part in parts if "schema" in part]
    run = {"model": "m", "options": {"samples": 4}, "texts": ["a"]}
    blocks = [{"index": 0, "linears": part["linears"][:2], "seconds": 1, "kl_divergence": 0.5} for part in parts]
    records = [(0, part) for part in parts] + [(0, small(part)) for part in parts] + [(1, block) for block in blocks]
    records += [(2, run)] + [(3, part["calibration"]) for part in parts]
    records += [(4, part["mixed"]) for part in parts if part.get("mixed")]
    return [bytes([kind]) + json.dumps(record).encode() for kind, record in records]


def small(value):
    """The same with one entry in each list: what a fuzzer changes then matters more often."""
    if isinstance(value, dict):
        return {key: small(entry) for key, entry in value.items()}
    return [small(entry) for entry in value[:1]] if isinstance(value, list) else value


def noise(count, size):
    return [random.Random(i).randbytes(size) for i in range(count)]


def make_json():
    texts = [
        '{"a": [1, -2, 3.5e-7, true, null, "x\\u00e9\\n"], "b": {"c": {}}}',
        "[[[[[[[[]]]]]]]]",
        '{"a": 1, "a": [[2]]}',
        '"\\ud834\\udd1e \\" \\/"',
        "[18446744073709551615, -9223372036854775808, 1e308, 0.1]",
        "\ufeff{}",
        " [ ] \n",
        "[1,]",
        '{"a" 1}',
    ]
    deep = ["[" * 64 + "]" * 64, "[" * 65 + "]" * 65, '{"k":' * 40 + "0" + "}" * 40]
    return [t.encode() for t in texts + deep] + [json.dumps(small(c)).encode() for c in configs()[:3]]


MAKERS = {
    "json": make_json,
    "safetensors": make_safetensors,
    "gguf": make_gguf,
    "npz": make_npz,
    "unpack": lambda: noise(40, 200),
    "layouts": lambda: noise(60, 300),
    "instruction_sets": lambda: noise(40, 40),
    "config": make_config,
    "gguf_model": make_gguf_model,
    "sentencepiece": make_sentencepiece,
    "tokenizer": make_tokenizer,
    "chat_template": make_chat_template,
    "jsonl": make_jsonl,
    "statistics": make_statistics,
    "journal": make_journal,
    "report": make_report,
}


def words_of(value):
    """Keys and texts of JSON, as they are written there."""
    if isinstance(value, dict):
        return {json.dumps(k) for k in value}.union(*map(words_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(words_of, value))
    return {json.dumps(value)}


def dictionary(target):
    if target == "config":
        words = (
            words_of(configs()) | words_of(QUANTIZATION) | {"1e400", "-1", "18446744073709551615", "null", "[]", "{}"}
        )
    elif target == "tokenizer":
        words = words_of(list(tokenizers())) | {
            '"Precompiled"',
            '"Strip"',
            '"BertNormalizer"',
            '"Digits"',
            '"Punctuation"',
        }
    elif target == "chat_template":
        words = set("{% %} {{ }} {%- -%} for in endfor if elif else endif set endset macro endmacro loop.index namespace( "
                    "raise_exception( strftime_now( |tojson |trim |length |join( |replace( |selectattr( |map( |list |sort "
                    ".split( .strip( .items() [::-1] is~defined is~none not and or ~ // ** range( .format( .append(".split())  # fmt: skip
    elif target == "jsonl":
        words = {
            '"messages"',
            '"conversations"',
            '"text"',
            '"role"',
            '"content"',
            '"from"',
            '"value"',
            '"tools"',
            '"type"',
        }
    else:
        return ""
    escaped = (w.replace("~", " ").replace("\\", "\\\\").replace('"', '\\"') for w in sorted(words) if w.isascii())
    return "".join(f'"{w}"\n' for w in escaped if len(w) < 60)


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-") or set(sys.argv[2:]) - set(MAKERS):
        sys.exit(f"usage: make_fuzz_seeds.py FOLDER [TARGET...]; targets: {' '.join(MAKERS)}")
    folder = pathlib.Path(sys.argv[1])
    for target in sys.argv[2:] or MAKERS:
        (folder / target).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(MAKERS[target]()):
            (folder / target / f"seed-{number:02}").write_bytes(seed)
        (folder / f"{target}.dict").write_text(dictionary(target))


if __name__ == "__main__":
    main()
