"""Weights, configs, statistics: sizes, numbers and nesting that a file states."""

import json
import os
import shutil
import struct
import subprocess
import time
import zipfile

from harness import MEMORY, PROGRAM, QUANTIZE, case


# Sparse files: zeros cost the file's maker nothing.
@case
def sparse_gguf(f):
    def text(s):
        return struct.pack("<Q", len(s)) + s

    strings = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 25)
    numbers = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 10, 1 << 28)
    tensors = b"GGUF" + struct.pack("<IQQ", 3, 1 << 30, 0)
    pairs = b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 30)
    for head, size in ((strings, (1 << 28) + 4096), (numbers, (1 << 31) + 4096), (tensors, 1 << 35), (pairs, 1 << 35)):
        (f / "m.gguf").write_bytes(head)
        os.truncate(f / "m.gguf", size)
        f.refused("m.gguf", "inspect", "m.gguf", limit=MEMORY + min(size, 1 << 28))


@case
def safetensors_of_many_entries(f):
    entry = '"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    headers = {
        "tensors": "{" + ",".join(entry % i for i in range(1_600_000)) + "}",
        "fewer": "{" + ",".join(entry % i for i in range(400_000)) + "}",
        "most": "{" + ",".join(entry % i for i in range(200_000)) + "}",
        "shape": '{"t":{"dtype":"F32","shape":[' + "1," * 14_000_000 + '1],"data_offsets":[0,0]}}',
    }
    for text in headers.values():
        f.model()
        (f / "m" / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text.encode())
        f.refused("model.safetensors" if len(text) > 12_000_000 else "m", "inspect", "m")
        shutil.rmtree(f / "m")
    f.model()
    (f / "m" / "model.safetensors").rename(f / "m" / "a.safetensors")
    index = {"weight_map": {f"t{i}": "a.safetensors" for i in range(1_000_000)}}
    (f / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    f.refused("model.safetensors.index.json", "inspect", "m")


@case
def deep_metadata(f):
    f.model()
    f.edit(
        "config.json",
        lambda c: c.update(quantization_config={"quant_method": "metal_marlin", "bits": 4, "group_size": 32}),
    )
    n = "model.layers.0.mlp.up_proj.weight"
    header = {
        "__metadata__": {
            "metal_marlin.version": "2",
            "metal_marlin.bits": "[" * 80000 + "]" * 80000,
            "metal_marlin.tensors": "{}",
        },
        n: {"dtype": "U32", "shape": [1, 1], "data_offsets": [0, 4]},
        n + ".scales": {"dtype": "F16", "shape": [1, 1], "data_offsets": [4, 6]},
        n + ".zeros": {"dtype": "U8", "shape": [1, 1], "data_offsets": [6, 7]},
    }
    text = json.dumps(header).encode()
    (f / "m" / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(7))
    f.refused("model.safetensors", "inspect", "m")


@case
def many_end_tokens(f):
    f.model()
    (f / "m" / "generation_config.json").write_text('{"eos_token_id":[' + ",".join(map(str, range(400000))) + "]}")
    f.within(f.run("inspect", "m", "-q"))


# Time that grows with the square of the number of values or keys.
@case
def many_small_values(f):
    many = {"objects": "[" + "{}," * 1000000 + "0]", "keys": json.dumps({f"k{i}": 0 for i in range(300000)})}
    tokenizer = "generate m -p the -n 2 --ignore-eos -q".split()
    for kind, text in many.items():
        for name, command in {
            "config.json": "inspect m -q".split(),
            "generation_config.json": tokenizer,
            "special_tokens_map.json": tokenizer,
            "tokenizer_config.json": tokenizer,
            "tokenizer.json": tokenizer,
        }.items():
            f.model()
            path = f / "m" / name
            kept = path.read_text().strip() if path.exists() else "{}"
            path.write_text(kept[:-1] + (", " if kept != "{}" else "") + f'"x": {text}}}')
            f.within(f.run(*command))
            shutil.rmtree(f / "m")
        f.model()
        (f / "t.jsonl").write_text(f'{{"text": "a", "x": {text}}}\n')
        f.within(f.run(*"evaluate m --text t.jsonl --chunks 1 --context 64 -q".split()))
        shutil.rmtree(f / "m")


@case
def column_major_zeros_in_npz(f):
    f.model()
    widths = dict(q_proj=32, k_proj=32, v_proj=32, o_proj=32, gate_proj=32, up_proj=32, down_proj=40)
    with zipfile.ZipFile(f / "raw.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for layer in range(2):
            for name, columns in widths.items():
                rows = 20_000_000 if (layer, name) == (0, "q_proj") else 64
                part = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
                text = "{'descr': '<f4', 'fortran_order': True, 'shape': (%d, %d), }" % (rows, columns)
                text = text.ljust(117) + "\n"
                member = f"model.layers.{layer}.{part}.{name}.weight.npy"
                with archive.open(member, "w", force_zip64=True) as file:
                    file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode())
                    left, zeros = rows * columns * 4, bytes(1 << 22)
                    while left:
                        left -= file.write(zeros[: min(left, len(zeros))])
    outcome = f.run(
        *"quantize m -o q --calibration raw.npz --method rtn --format native --group-size 8".split(),
        *"--evaluate none --memory 300MB -q".split(),
    )
    assert outcome.code in (0, 1), outcome.err
    f.within(outcome)


# Sparse files take no room where they come from, and all of it where they are written.
@case
def many_companions(f):
    f.model()
    for i in range(60):
        with open(f / "m" / f"notes{i}.md", "w") as file:
            file.truncate(16 << 20)
    for command in (["quantize", "m", "-o", "q", *QUANTIZE], ["convert", "m", "-o", "q", "--to", "f16"]):
        outcome = f.refused(["m: 60 files of 960 MiB"], *command)
        assert outcome.peak < MEMORY, outcome.peak
        assert not (f / "q").exists()
    for i in range(12, 60):
        (f / "m" / f"notes{i}.md").unlink()
    outcome = f.run("quantize", "m", "-o", "q", *QUANTIZE)
    assert outcome.code == 0, outcome.err
    assert outcome.peak < MEMORY, outcome.peak  # of the script that starts it, too


@case
def names_of_companions(f):
    f.model()
    for name in ("-rf", "a\nb.md", "\x1b]0;x\x07.md", "\u202egnp.md"):
        (f / "m" / name).write_text("x")
    (f / "m" / "notes.md").write_text("x")
    outcome = f.run("quantize", "m", "-o", "q", *QUANTIZE)
    assert outcome.code == 0, outcome.err
    names = {path.name for path in (f / "q").iterdir()}
    assert "notes.md" in names and not any(name.isprintable() is False or name.startswith("-") for name in names), names


@case
def file_that_shrinks(f):
    f.model()
    (f / "t.txt").write_text("hello world. " * 9000)
    command = [str(PROGRAM), *"evaluate m --text t.txt --chunks 200 --context 64 -q".split()]
    weights = f / "m" / "model.safetensors"
    whole = weights.read_bytes()
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        weights.write_bytes(whole)
        child = subprocess.Popen(command, cwd=f.path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(delay)
        os.truncate(weights, 4096)
        err = child.communicate()[1].decode(errors="replace")
        assert child.returncode in (0, 1), f"exit code {child.returncode}: {err}"
        assert child.returncode == 0 or "model.safetensors" in err, err


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_of(tensors, keys=()):
    """The header and the size of the data: of (name, shape, type, elements and bytes of a block)."""
    base = {"embedding_length": 2, "feed_forward_length": 2, "attention.head_count": 1, "context_length": 64}
    pairs = [gguf_text("general.architecture") + struct.pack("<I", 8) + gguf_text("llama")]
    pairs += [gguf_text(f"llama.{k}") + struct.pack("<II", 4, v) for k, v in (base | dict(keys)).items()]
    pairs.append(gguf_text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5))
    listed, at = [], 0
    for name, shape, kind, elements, size in tensors:
        bytes_of = size
        for i, n in enumerate(shape):
            bytes_of *= n // elements if i == 0 else n
        listed.append(
            gguf_text(name)
            + struct.pack("<I", len(shape))
            + b"".join(struct.pack("<Q", n) for n in shape)
            + struct.pack("<IQ", kind, at)
        )
        at += (bytes_of + 31) // 32 * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(pairs)) + b"".join(pairs) + b"".join(listed)
    return head + bytes(-len(head) % 32), at


def tensors_of(layers):
    out = [("token_embd.weight", (2, 8)), ("output_norm.weight", (2,))]
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            out.append((f"blk.{layer}.{name}.weight", (2, 2)))
        out += [(f"blk.{layer}.{name}.weight", (2,)) for name in ("attn_norm", "ffn_norm")]
    return [(name, shape, 0, 1, 4) for name, shape in out]


# Time that grows with the square of the number of tensors.
@case
def gguf_of_many_tensors(f):
    head, size = gguf_of(tensors_of(10000), {"block_count": 10000})
    (f / "m.gguf").write_bytes(head + bytes(size))
    f.within(f.run("inspect", "m.gguf", "-q"))


# Codes of two bits stand for floats of 32.
@case
def gguf_of_a_long_bias(f):
    for name in ("blk.0.attn_q.bias", "output.bias"):
        head, size = gguf_of([*tensors_of(1), (name, (1 << 29,), 10, 256, 84)], {"block_count": 1})
        (f / "m.gguf").write_bytes(head)
        os.truncate(f / "m.gguf", len(head) + size)
        f.refused(["m.gguf", name], "inspect", "m.gguf", "-q", limit=MEMORY)


@case
def many_shards(f):
    f.model()
    (f / "m" / "model.safetensors").unlink()
    for i in range(1, 40001):
        (f / "m" / f"model-{i:05}-of-40000.safetensors").touch()
    f.refused("model-00001-of-40000.safetensors", "inspect", "m", "-q")


@case
def quantization_config_of_many_keys(f):
    f.quantized()
    many = {f"k{i}": 0 for i in range(300000)}
    path = f / "q" / "config.json"
    whole = json.loads(path.read_text())
    for change in (many, {"x": many}):
        path.write_text(json.dumps(whole | {"quantization_config": whole["quantization_config"] | change}))
        f.within(f.run("inspect", "q", "-q"))
        f.within(f.run("inspect", "q", "--json"))


# A parser may take a NUL byte for the end of a text.
@case
def nul_byte_in_json(f):
    f.quantized()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        f.model(replace=True)
        path = f / "m" / name
        text = path.read_text() if path.exists() else "{}"
        path.write_text(text + "\0 and more")
        f.refused(name, *"generate m -p the -n 1 -q".split())
    report = f / "q" / "report.json"
    report.write_text(report.read_text() + "\0 and more")
    f.refused("report.json", "report", "q")
    f.model(replace=True)
    (f / "t.jsonl").write_text('{"text": "the"}\0, and more\n')
    f.refused("t.jsonl", *"evaluate m --text t.jsonl --chunks 1 --context 64 -q".split())
