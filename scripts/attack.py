"""The cases of attack.sh: each makes its input in a new folder, runs the command on it, and checks what came of it."""

import json
import os
import pathlib
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("METAL_MARLIN", ROOT / "build" / "release" / "bin" / "metal-marlin"))
MODELS = ROOT / "tests" / "data" / "models"
SECONDS = 10  # of the processor, since the machine may be busy; alone every case takes less than 5 seconds
WALL = 6 * SECONDS
MEMORY = 512 << 20  # beyond the size of the input
QUANTIZE = (
    "--method rtn --format native --group-size 8 -q --evaluate none --calibration builtin --samples 4 "
    "--sequence-length 32"
).split()

CASES = []


def case(function):
    CASES.append(function)
    return function


class Outcome:
    def __init__(self, code, out, err, seconds, peak):
        self.code, self.out, self.err, self.seconds, self.peak = code, out, err, seconds, peak


class Folder:
    """A new folder to work in; `bytes` is the size of what the case has put there."""

    def __init__(self, path):
        self.path = path

    def __truediv__(self, name):
        return self.path / name

    def model(self, name="llama"):
        shutil.copytree(MODELS / name, self / "m")
        return self / "m"

    def edit(self, name, change):
        path = self / "m" / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    def template(self, text):
        self.model()
        self.edit("tokenizer_config.json", lambda c: c.update(chat_template=text))

    def quantized(self, name="q"):
        self.model()
        done = self.run("quantize", "m", "-o", name, *QUANTIZE)
        assert done.code == 0, done.err
        return self / name

    def size(self):
        return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file() and not p.is_symlink())

    def run(self, *arguments, stdin="", limit=None, beside=None):
        """`beside`: called in a thread of its own with the number of the process."""
        limit = MEMORY + self.size() if limit is None else limit
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            start = time.monotonic()
            child = subprocess.Popen(
                [str(PROGRAM), *map(str, arguments)], cwd=self.path, stdin=subprocess.PIPE, stdout=out, stderr=err
            )
            if beside is not None:
                watcher = threading.Thread(target=beside, args=(child.pid,))
                watcher.start()
            try:
                child.stdin.write(stdin.encode())
                child.stdin.close()
            except BrokenPipeError:
                pass
            peak = 0
            while True:
                done, status, usage = os.wait4(child.pid, os.WNOHANG)
                if done:
                    peak = max(peak, usage.ru_maxrss << 10)
                    break
                late = time.monotonic() - start > WALL or self.processor_seconds(child.pid) > SECONDS
                if late or self.resident(child.pid) > 2 * limit + (1 << 30):
                    child.kill()
                time.sleep(0.01)
            child.returncode = os.waitstatus_to_exitcode(status)
            if beside is not None:
                watcher.join()
            out.seek(0)
            err.seek(0)
            return Outcome(
                child.returncode,
                out.read().decode(errors="replace"),
                err.read().decode(errors="replace"),
                usage.ru_utime + usage.ru_stime if time.monotonic() - start < WALL else WALL,
                peak,
            )

    @staticmethod
    def processor_seconds(pid):
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError, ValueError):
            return 0

    @staticmethod
    def resident(pid):
        try:
            return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except (OSError, IndexError, ValueError):
            return 0

    def refused(self, names, *arguments, **options):
        """Exit code 1, a message that names each of `names`, within the limits."""
        outcome = self.run(*arguments, **options)
        assert outcome.code == 1, f"exit code {outcome.code}: {outcome.err[-300:]}"
        for name in [names] if isinstance(names, str) else names:
            assert name in outcome.err, f"the message does not name {name}: {outcome.err[-300:]}"
        self.within(outcome, **options)
        return outcome

    def within(self, outcome, limit=None, **_):
        limit = MEMORY + self.size() if limit is None else limit
        assert outcome.peak <= limit, f"peak memory {outcome.peak >> 20} MiB, limit {limit >> 20}"
        assert outcome.seconds <= SECONDS, f"{outcome.seconds:.1f} s"


# Other people's folders and files


# Nothing is refused here: a file of somebody else under a name that this program does not use is no business of its own.
# (Refusing would let anybody stop a run by putting a link there.) The result is right, and the link stays as it is.
@case
def link_in_place_of_the_temporary_folder(f):
    f.quantized()
    (f / "victim").mkdir()
    (f / "victim" / "thesis").write_text("precious")
    (f / ".out.incomplete").symlink_to(f / "victim")
    outcome = f.run("convert", "q", "-o", "out", "--to", "gptq_v2", "-q")
    assert outcome.code == 0, outcome.err
    assert (f / "victim" / "thesis").read_text() == "precious"
    assert sorted(p.name for p in (f / "victim").iterdir()) == ["thesis"]
    assert (f / ".out.incomplete").is_symlink()
    assert not (f / "out").is_symlink()
    assert f.run("convert", "q", "-o", "again", "--to", "gptq_v2", "-q").code == 0
    weights = sorted(p.name for p in (f / "again").glob("*.safetensors"))
    assert weights and all((f / "out" / n).read_bytes() == (f / "again" / n).read_bytes() for n in weights)


# The journal's name can be known before, so a link in its place is refused.
@case
def link_in_place_of_the_journal(f):
    f.model()
    (f / "victim").mkdir()
    (f / "victim" / "thesis").write_text("precious")
    (f / "out").mkdir()
    (f / "out" / ".metal-marlin").symlink_to(f / "victim")
    f.refused(".metal-marlin", "quantize", "m", "-o", "out", *QUANTIZE)
    f.refused(".metal-marlin", "quantize", "m", "-o", "out", *QUANTIZE, "--overwrite")
    assert sorted(p.name for p in (f / "victim").iterdir()) == ["thesis"]
    assert [p.name for p in (f / "out").iterdir()] == [".metal-marlin"]


@case
def overwrite_of_files_of_others(f):
    f.quantized()
    (f / "out").mkdir()
    (f / "out" / "secrets.json").write_text("{}")
    f.refused("secrets.json", "convert", "q", "-o", "out", "--to", "gptq_v2", "--overwrite", "-q")
    f.refused("secrets.json", "convert", "q", "-o", "out", "--to", "gptq_v2", "-q")
    f.refused("secrets.json", "quantize", "m", "-o", "out", *QUANTIZE, "--overwrite")
    f.refused("secrets.json", "quantize", "m", "-o", "out", *QUANTIZE)
    assert (f / "out" / "secrets.json").exists()


@case
def report_that_lists_files_outside(f):
    f.quantized("out")
    (f / "thesis").write_text("precious")
    path = f / "out" / "report.json"
    report = json.loads(path.read_text())
    report["options"]["formats"] = ["a", "b"]
    report["files"] = [{"bytes": 1, "format": "..", "name": "thesis"}]
    path.write_text(json.dumps(report))
    f.refused("out: holds", "quantize", "m", "-o", "out", *QUANTIZE, "--overwrite")  # its own files are not listed now
    assert (f / "thesis").read_text() == "precious"


LEFTOVER = ".out.metal-marlin.0123456789abcdef"


# Nothing in it can be ours, so it is as if it were not there.
@case
def journal_that_lists_files_outside(f):
    f.quantized()
    (f / "thesis").write_text("precious")
    names = ["../thesis", "..", "./thesis", "awq/../../thesis", str(f / "thesis")]
    for command in (
        "convert q -o out --to gptq_v2 -q".split(),
        ["quantize", "m", "-o", "out", *QUANTIZE, "--overwrite"],
    ):
        for key in ("old", "new"):
            for place in ("out", LEFTOVER):
                shutil.rmtree(f / "out", ignore_errors=True)
                (f / place / ".metal-marlin").mkdir(parents=True)
                content = {key: names} if place == "out" else {key: names, "folder": LEFTOVER}
                (f / place / ".metal-marlin" / "place.json").write_text(json.dumps(content))
                outcome = f.run(*command)
                assert outcome.code == 0, outcome.err
                assert (f / "thesis").read_text() == "precious", f"{command} {key} {place}"
                assert not (f / LEFTOVER).exists()


@case
def journal_with_deep_json(f):
    f.quantized()
    deep = "[" * 200000 + "]" * 200000
    for text in (deep, '{"old":[],"x":' + deep + "}", '{"new":' + deep + "}"):
        for name in ("place.json", "run.json"):
            for command in ("convert", "quantize"):
                shutil.rmtree(f / "out", ignore_errors=True)
                (f / "out" / ".metal-marlin").mkdir(parents=True)
                (f / "out" / ".metal-marlin" / name).write_text(text)
                if command == "convert":
                    outcome = f.run("convert", "q", "-o", "out", "--to", "gptq_v2", "-q")
                else:
                    outcome = f.run("quantize", "m", "-o", "out", *QUANTIZE)
                assert outcome.code == (0 if name == "place.json" else 1), f"{name}: {outcome.code} {outcome.err}"
                f.within(outcome)


@case
def lists_of_many_names(f):
    f.quantized()
    names = [f"n{i}" for i in range(1000000)]
    (f / "out").mkdir()
    (f / "out" / "n1").write_text("precious")
    path = f / "out" / ".metal-marlin.json"
    path.write_text(json.dumps({"program": "metal-marlin", "files": names}))
    f.refused("n1", "convert", "q", "-o", "out", "--to", "gptq_v2", "--overwrite", "-q")
    path.unlink()
    report = {"run": {"fingerprint": "0" * 32}, "files": [{"name": n} for n in names]}
    (f / "out" / "report.json").write_text(json.dumps(report))
    f.refused("n1", "quantize", "m", "-o", "out", *QUANTIZE, "--overwrite")
    (f / "out" / "report.json").unlink()
    (f / "out" / ".metal-marlin").mkdir()
    (f / "out" / ".metal-marlin" / "place.json").write_text(json.dumps({"old": names}))
    f.refused("n1", "convert", "q", "-o", "out", "--to", "gptq_v2", "--overwrite", "-q")
    assert (f / "out" / "n1").read_text() == "precious"


# As soon as the result's folder is there, another folder, with a link in the result's place, takes OUT's place; or a link
# takes the place of a folder inside OUT.
@case
def output_swapped_while_it_is_written(f):
    f.quantized()
    (f / "victim").mkdir()
    for name in ("config.json", "README.md", "tokenizer.json", "model.awq.safetensors", "block-00000.json"):
        (f / "victim" / name).write_text("precious")
    (f / "victim" / "result").mkdir()

    def whole(path):
        shutil.move(f / "out", f / "away")
        (f / "evil" / ".metal-marlin").mkdir(parents=True)
        (f / "evil" / ".metal-marlin" / "result").symlink_to(f / "victim")
        os.rename(f / "evil", f / "out")

    def link(path):
        os.rename(path, f / "away")
        path.symlink_to(f / "victim")

    journal = f / "out" / ".metal-marlin"
    for command in ("convert q -o out --to gptq_v2 -q".split(), ["quantize", "m", "-o", "out", *QUANTIZE]):
        for seen, change in ((journal / "result", whole), (journal, link), (journal / "result", link)):
            swapped = []

            def watch(pid, seen=seen, change=change, swapped=swapped):
                while not swapped:
                    if seen.is_dir():
                        try:
                            change(seen)
                        except OSError:
                            return  # the command was faster
                        swapped.append(True)
                    elif not pathlib.Path(f"/proc/{pid}").exists():
                        return

            outcome = f.run(*command, beside=watch)
            assert outcome.code in (0, 1), f"{outcome.code}: {outcome.err}"  # 0 where the command was faster
            for path in (f / "victim").iterdir():
                assert path.name == "result" or path.read_text() == "precious", f"{command[0]}: {path.name} was written"
            assert len(list((f / "victim").iterdir())) == 6 and not list((f / "victim" / "result").iterdir())
            for name in ("out", "away", "evil"):
                shutil.rmtree(f / name, ignore_errors=True)


@case
def link_in_place_of_the_temporary_file(f):
    f.quantized()
    (f / "victim").write_text("secret")
    (f / "r.html.tmp").symlink_to(f / "victim")
    outcome = f.run("report", "q", "--html", "r.html")
    assert outcome.code == 0, outcome.err
    assert (f / "victim").read_text() == "secret"
    assert (f / "r.html.tmp").is_symlink()
    assert not (f / "r.html").is_symlink() and (f / "r.html").read_text().rstrip().endswith("</html>")


@case
def report_over_weights(f):
    f.quantized()
    weights = f / "q" / "model.awq.safetensors"
    before = weights.read_bytes()
    outcome = f.run("report", "q", "--html", "q/model.awq.safetensors")
    assert outcome.code == 2 and "model.awq.safetensors" in outcome.err, outcome.err  # a wrong name on the command line
    assert weights.read_bytes() == before


@case
def companion_outside(f):
    f.model()
    (f / "outside").write_text("root:x:0:0")
    (f / "m" / "vocab.json").symlink_to(f / "outside")
    outcome = f.run("quantize", "m", "-o", "q", *QUANTIZE)
    assert not (f / "q" / "vocab.json").exists(), "a file from outside stands in the result"
    assert outcome.code in (0, 1), outcome.err


# A repository of a hub cache whose parts are links: to its files, to the snapshot, to all snapshots.
@case
def repository_of_links(f):
    f.quantized()
    outside = f / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("root:x:0:0")
    for part in ("blobs", "snapshots/abc", "snapshots"):
        repository = f / "models--x--y"
        snapshot = repository / "snapshots" / "abc"
        snapshot.parent.mkdir(parents=True)
        shutil.copytree(f / "q", snapshot)
        (snapshot / "merges.txt").symlink_to("../../blobs/passwd")
        if part != "blobs":
            (repository / "blobs").mkdir()
            (repository / "blobs" / "passwd").write_text("fine")
            shutil.move(repository / part, f / "moved")
            target = f / "moved"
        else:
            target = outside
        (repository / part).symlink_to(target)
        f.refused("models--x--y", "convert", "models--x--y/snapshots/abc", "-o", "o", "--to", "gptq_v2", "-q")
        assert not (f / "o").exists()
        shutil.rmtree(repository)
        shutil.rmtree(f / "moved", ignore_errors=True)


# Bombs


# A token costs the tokenizer's library some 70 times its bytes.
@case
def long_tokens(f):
    for size in (8_000_000, 60_000):
        tokens = ["a" * size + str(i) for i in range(8_000_000 // size)]
        for name, change in {
            "tokenizer.json": lambda t: t["added_tokens"].extend(
                {
                    "id": 10**6 + i,
                    "content": c,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": False,
                }
                for i, c in enumerate(tokens)
            ),
            "tokenizer_config.json": lambda t: t.update(
                added_tokens_decoder={str(10**6 + i): {"content": c} for i, c in enumerate(tokens)}
            ),
            "special_tokens_map.json": lambda t: t.update(additional_special_tokens=tokens),
            "added_tokens.json": lambda t: t.update({c: 10**6 + i for i, c in enumerate(tokens)}),
        }.items():
            f.model()
            if not (f / "m" / name).exists():
                (f / "m" / name).write_text("{}")
            f.edit(name, change)
            command = ("generate", "m", "-p", "a", "-n", "1", "-q")
            if name == "special_tokens_map.json" and size < 65536:  # texts without an id add nothing
                f.within(f.run(*command))
            else:
                outcome = f.refused(" ", *command)
                assert "m" in outcome.err and len(outcome.err) < 5000, outcome.err[:300]
            shutil.rmtree(f / "m")


@case
def long_strings(f):
    for name, change in {
        "tokenizer.json": lambda t: t.update(version="v" * 5_000_000),
        "config.json": lambda c: c.update(model_type="v" * 5_000_000),
        "tokenizer_config.json": lambda c: c.update(tokenizer_class=["v" * 5_000_000], bos_token=["v" * 5_000_000]),
        "generation_config.json": lambda c: c.update(eos_token_id="v" * 5_000_000),
    }.items():
        f.model()
        if not (f / "m" / name).exists():
            (f / "m" / name).write_text("{}")
        f.edit(name, change)
        outcome = f.refused(name, "generate", "m", "-p", "a", "-n", "1", "-q")
        assert len(outcome.err) < 5000, f"{len(outcome.err)} bytes of message"
        shutil.rmtree(f / "m")


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
def deep_tokenizer_config(f):
    f.model("mistral")
    (f / "m" / "tokenizer_config.json").write_text('{"a":' + "[" * 300000 + "]" * 300000 + "}")
    f.refused("tokenizer_config.json", "generate", "m", "-p", "hi", "-n", "2", "-q")


def template_case(name, text):
    def run(f):
        f.template(text)
        outcome = f.run("chat", "m", "-n", "2", stdin="hi\n")
        assert outcome.code == 1, f"exit code {outcome.code}: {outcome.err[-300:]}"
        assert len(outcome.err) < 5000, f"{len(outcome.err)} bytes of message"
        assert "chat_template" in outcome.err or "tokenizer_config.json" in outcome.err, outcome.err[-300:]
        f.within(outcome)

    run.__name__ = name
    CASES.append(run)


template_case(
    "template_nested_value",
    "{% set n=namespace(a=[]) %}{% for i in range(1000) %}{% for j in range(200) %}{% set n.a=[n.a] %}{% endfor %}"
    "{% endfor %}",
)
template_case("template_unary_operators", "{{ " + "-" * 100000 + "1 }}")
template_case(
    "template_doubled_text",
    '{% set n=namespace(s="aaaaaaaa") %}{% for i in range(40) %}{% set n.s=n.s~n.s %}{% endfor %}',
)
template_case(
    "template_doubled_list",
    "{% set n=namespace(s=[1]) %}{% for i in range(40) %}{% set n.s=n.s+n.s %}{% endfor %}{{ n.s|length }}",
)
template_case("template_of_long_output", "{% for i in range(6) %}{{ 'a '*1000000 }}{% endfor %}")
template_case("template_of_one_long_word", "{% for i in range(4) %}{{ 'a'*1000000 }}{% endfor %}")
template_case("template_long_exception", "{{ raise_exception('x' * 80000) }}")
template_case(
    "template_that_spins",
    '{% set n=namespace(s="a"*1000000) %}{% for a in range(10000) %}{% for b in range(1000) %}'
    '{% set x=n.s|replace("a","b") %}{% endfor %}{% endfor %}',
)


@case
def doubling_normalizer(f):
    f.model()
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    f.edit("tokenizer.json", lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [step] * 40}))
    f.refused("tokenizer.json", "generate", "m", "-p", "banana", "-n", "2")


def splitting(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def added(content, **attributes):
    token = {"id": 5, "content": content, "special": False, "single_word": False}
    return token | {"lstrip": False, "rstrip": False, "normalized": True} | attributes


# Where loading normalizes the added tokens.
@case
def doubling_normalizer_at_load(f):
    f.model()
    for pattern in ({"String": "a"}, {"Regex": "[a]"}):
        steps = [{"type": "Replace", "pattern": pattern, "content": "aa"}] * 40
        f.edit("tokenizer.json", lambda t: t.update(normalizer={"type": "Sequence", "normalizers": steps}))  # noqa: B023
        f.edit("tokenizer.json", lambda t: t["added_tokens"].append(added("aaaa")))
        outcome = f.run("inspect", "m")  # tells of the rest
        f.within(outcome)
        assert "tokenizer.json" in outcome.out + outcome.err, outcome.err[:300]
        f.refused("tokenizer.json", "generate", "m", "-p", "banana", "-n", "2")


@case
def long_added_token(f):
    f.model()
    token = added("x" * 20000000, id=95, special=True, normalized=False)
    f.edit("tokenizer.json", lambda t: t["added_tokens"].append(token))
    f.refused("tokenizer.json", *"generate m -p a -n 1 -q".split())


@case
def many_patterns(f):
    large = r"[\pL\pN]{100}"
    replacing = {"type": "Replace", "pattern": {"Regex": large}, "content": "a"}
    lists = {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [splitting(large)] * 100},
        "normalizer": {"type": "Sequence", "normalizers": [replacing] * 100},
        "decoder": {"type": "Sequence", "decoders": [replacing] * 100},
    }
    for part, value in lists.items():
        f.model()
        f.edit("tokenizer.json", lambda t: t.update({part: value}))  # noqa: B023
        f.refused(["tokenizer.json", part], *"generate m -p a -n 1 -q".split())
        shutil.rmtree(f / "m")
    f.model()
    small = {"type": "Sequence", "pretokenizers": [splitting(r"[\pL\pN]{%d}" % (20 + i % 100)) for i in range(3000)]}
    words = splitting("|".join(f"a{i}" for i in range(300000)))
    several = splitting("".join(r"(?=[\pL\pN]{100})" for i in range(1500)))
    for value in (small, words, several):
        f.edit("tokenizer.json", lambda t: t.update(pre_tokenizer=value))  # noqa: B023
        f.refused("tokenizer.json", *"generate m -p a -n 1 -q".split())


@case
def values_that_panic(f):
    f.model()
    whole = (f / "m" / "tokenizer.json").read_text()
    for change in (
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "aa"}},
        {"decoder": {"type": "Strip", "content": "a", "start": 10**15, "stop": 10**15}},
        {"model": json.loads(whole)["model"] | {"continuing_subword_prefix": "a" * 1000000}},
    ):
        (f / "m" / "tokenizer.json").write_text(whole)
        f.edit("tokenizer.json", lambda t: t.update(change))  # noqa: B023
        outcome = f.refused("tokenizer.json", *"generate m -p banana -n 2 -q --ignore-eos".split())
        assert "internal error" not in outcome.err, outcome.err


@case
def cubic_merges(f):
    f.model("mistral")

    def varint(n):
        out = b""
        while n > 127:
            out += bytes([n & 127 | 128])
            n >>= 7
        return out + bytes([n])

    def piece(s, score, kind=1):
        b = s.encode()
        b = b"\x0a" + varint(len(b)) + b + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind)
        return b"\x0a" + varint(len(b)) + b

    pieces = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3)
    pieces += b"".join(piece("a" * i, -i) for i in range(1, 2201))
    (f / "m" / "tokenizer.model").write_bytes(pieces + b"\x12\x02\x18\x02")
    f.refused("tokenizer.model", "generate", "m", "-p", "hi", "-n", "2", "-q")


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
def look_ahead_pattern(f):
    f.model()
    pattern = {"type": "Split", "pattern": {"Regex": "(?=[^#]*#)a|."}, "behavior": "Isolated", "invert": False}
    f.edit("tokenizer.json", lambda t: t.update(pre_tokenizer=pattern))
    texts = ["a" * 100000, "a" * 1000000, ("a" * 3000 + "\n") * 2000]
    for text in texts:
        (f / "t.txt").write_text(text)
        f.refused("tokenizer.json", "evaluate", "m", "--text", "t.txt", "--chunks", "1", "--context", "64", "-q")
    for slow in (r"(?<=a)(?=[^#]*#)|.", r"(?:(?=[^#]*#)b|a)+?(?=[^#]*#)|."):
        f.edit("tokenizer.json", lambda t: t.update(pre_tokenizer=splitting(slow)))  # noqa: B023
        (f / "t.txt").write_text("a" * 300000)
        f.refused("tokenizer.json", "evaluate", "m", "--text", "t.txt", "--chunks", "1", "--context", "64", "-q")
        f.within(f.run("generate", "m", "-p", "a" * 4000, "-n", "1", "-q"))


@case
def slow_decoder(f):
    f.model()
    steps = [
        {"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 4000},
        {"type": "Fuse"},
        {"type": "Replace", "pattern": {"Regex": "(?=[^#]*#)a|b"}, "content": "a"},
    ]
    f.edit("tokenizer.json", lambda t: t.update(decoder={"type": "Sequence", "decoders": steps}))
    f.within(f.run(*"generate m -p a -n 60 -q --ignore-eos".split()))


@case
def one_long_line(f):
    f.model()
    (f / "t.txt").write_text("a" * 20000000)
    outcome = f.run(
        *"evaluate m --text t.txt --chunks 1 --context 64 --memory 500MB -q".split(), limit=500 * 1000 * 1000
    )
    assert outcome.code == 0, outcome.err
    f.within(outcome, limit=500 * 1000 * 1000)


@case
def large_text(f):
    f.model()
    with open(f / "t.txt", "wb") as file:
        for _ in range(550):
            file.write(b"The river ran past the old mill. " * 31775 + b"\n")
    for options in ("--calibration builtin --evaluate t.txt", "--calibration t.txt --evaluate none"):
        outcome = f.run(
            *f"quantize m -o q --overwrite {options} --context 64 --chunks 4 --sequence-length 64 --memory 500MB".split(),
            *QUANTIZE[:6],
            *"--samples 4 -q".split(),
            limit=500 * 1000 * 1000,
        )
        assert outcome.code == 0, outcome.err
        f.within(outcome, limit=500 * 1000 * 1000)


@case
def one_long_document(f):
    f.model()
    (f / "t.jsonl").write_text(json.dumps({"text": "a" * 30000000}) + "\n")
    command = "quantize m -o q --calibration t.jsonl --sequence-length 64 --memory 500MB".split()
    outcome = f.run(*command, *QUANTIZE[:6], *"--samples 4 --evaluate none -q".split(), limit=500 * 1000 * 1000)
    assert outcome.code == 0, outcome.err
    f.within(outcome, limit=500 * 1000 * 1000)


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


# Files that are none, and terminals


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


def main():
    wanted = sys.argv[1:]
    unknown = set(wanted) - {c.__name__ for c in CASES}
    if unknown:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(c.__name__ for c in CASES)}")
    passed = failed = 0
    for run in CASES:
        if wanted and run.__name__ not in wanted:
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="metal-marlin-attack-") as path:
            try:
                run(Folder(pathlib.Path(path)))
                passed += 1
                print(f"passed  {run.__name__} ({time.monotonic() - start:.1f} s)")
            except Exception as e:  # noqa: BLE001 - whatever it is, the case failed
                failed += 1
                print(f"FAILED  {run.__name__}: {type(e).__name__}: {e}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
