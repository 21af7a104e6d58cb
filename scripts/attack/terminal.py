"""Files that are none, and what reaches the terminal."""

import json
import os
import struct

from harness import case


@case
def pipe_as_config(f):
    f.model()
    (f / "m" / "config.json").unlink()
    os.mkfifo(f / "m" / "config.json")
    f.refused("config.json", "inspect", "m")


@case
def pipe_as_prompt(f):
    f.model()
    os.mkfifo(f / "p")
    f.refused("p: ", *"generate m -f p -n 1".split())
    f.refused("p: ", *"generate m -p a --json-schema-file p -n 1".split())
    assert f.run(*"generate m -f /dev/stdin -n 1 --ignore-eos".split(), stdin="the").code == 0


@case
def escape_sequences(f):
    f.model()
    f.edit("config.json", lambda c: c.update(model_type="\x1b]0;PWNED\x07\x1b[31m\u202ex\u009b"))
    outcome = f.run("inspect", "m")
    assert outcome.code == 1
    for c in "\x1b\x07\u202e\u009b":
        assert c not in outcome.out + outcome.err, "a control character reached the terminal"


@case
def json_on_the_terminal(f):
    f.model()
    path = f / "m" / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    name = "x\x7f\u009b\u202e\u2066\U000e0001"
    end = max(e["data_offsets"][1] for k, e in header.items() if k != "__metadata__")
    header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}
    text = json.dumps(header, ensure_ascii=False).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :] + bytes(4))
    outcome = f.run("inspect", "m", "--json", "--tensors")
    assert outcome.code == 0, outcome.err
    assert name in json.dumps(json.loads(outcome.out), ensure_ascii=False), "the name is another one"
    for c in name[1:]:
        assert c not in outcome.out + outcome.err, "a control character reached the terminal"
