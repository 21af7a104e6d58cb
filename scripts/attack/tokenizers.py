"""The files of a tokenizer."""

import json
import shutil
import struct

from harness import case


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


@case
def deep_tokenizer_config(f):
    f.model("mistral")
    (f / "m" / "tokenizer_config.json").write_text('{"a":' + "[" * 300000 + "]" * 300000 + "}")
    f.refused("tokenizer_config.json", "generate", "m", "-p", "hi", "-n", "2", "-q")


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


# A token and a merge cost the tokenizer's library some twenty times their bytes.
@case
def large_vocabularies(f):
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + c + d for a in letters for b in letters for c in letters for d in letters]  # 456,976
    shapes = {
        "tokens": (words + [w + "0" for w in words] + [w + "1" for w in words], 0),
        "merges": (words + list(letters), 10**7),
    }
    for tokens, most in shapes.values():
        f.model(replace=True)

        def change(t, tokens=tokens, most=most):
            vocabulary = {token: i for i, token in enumerate(tokens)}
            merges = [[w[:-1], w[-1]] for w in tokens if len(w) > 1][:most] * (6 if most else 1)
            for left, _ in merges:
                vocabulary.setdefault(left, len(vocabulary))
            t["model"] |= {"vocab": vocabulary, "merges": merges or [["a", "b"]]}

        f.edit("tokenizer.json", change)
        f.refused("tokenizer.json", *"generate m -p a -n 1 -q".split())


# The library cuts the prefix off as so many bytes, and joins tokens in a buffer as long as the longest one.
@case
def merges_that_do_not_fit(f):
    for prefix, tokens, merges in (
        ("a", ["é", "a", "aé", "éa", "éé", "b"], [["a", "é"], ["é", "é"], ["b", "é"]]),
        ("##", ["a", "b", "ab"], [["a", "b"]]),
        (None, ["a", "b", "abab"], [["abab", "abab"]]),
        (None, ["a", "b"], [["a", "zzzz"]]),
    ):
        f.model(replace=True)
        model = {"vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges, "continuing_subword_prefix": prefix}
        f.edit("tokenizer.json", lambda t: t["model"].update(model))  # noqa: B023
        f.refused("tokenizer.json", *"generate m -p a -n 1 -q".split())


# Values at which the library panics: told as our error, not in its own words.
@case
def values_at_which_the_library_panics(f):
    for change in (
        {"decoder": {"type": "Strip", "content": "a", "start": 1, "stop": 1}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8AAAA="}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
    ):
        f.model(replace=True)
        f.edit("tokenizer.json", lambda t: t.update(change))  # noqa: B023
        outcome = f.run(*"generate m -p banana -n 2 -q --ignore-eos".split())
        f.within(outcome)
        assert outcome.code in (0, 1), outcome.err
        assert outcome.code == 0 or "tokenizer.json" in outcome.err, outcome.err
        for word in ("panic", "unwrap", "internal error", "index out of", "slice index", "called `"):
            assert word not in outcome.err, outcome.err


# Memory that ends while memory that has ended is told.
@case
def many_deep_parts(f):
    f.model()
    part = {"type": "Lowercase"}
    for _ in range(40):
        part = {"type": "Sequence", "normalizers": [part]}
    f.edit("tokenizer.json", lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [part] * 20000}))
    f.refused("tokenizer.json", *"generate m -p a -n 1 -q".split())
