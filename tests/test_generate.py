"""Tests of running a model from Python: generation, tokens, logits, threads and interrupts."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import metal_marlin

MODEL = Path(__file__).parent / "data" / "models" / "llama"


def test_generation():
    model = metal_marlin.load(MODEL)
    options = {"predict": 12, "temp": 0.0, "ignore_eos": True}
    prompts = ["the cat", "the dog ran", "a", "the mat"]
    alone = [model.generate(prompt, **options) for prompt in prompts]
    assert model.generate(prompts, batch=2, **options) == alone
    assert model.generate(tuple(prompts[:1]), **options) == alone[:1]
    assert model.stats["generated_tokens"] == 12 and model.generate([], **options) == []
    # Pieces, and answers as they end.
    pieces = list(model.generate(prompts[0], stream=True, **options))
    assert "".join(pieces) == alone[0] and len(pieces) > 1
    assert sorted(model.generate(prompts, stream=True, **options)) == list(enumerate(alone))
    # A stream that is closed stops the work, and the model is free again.
    stream = model.generate("the cat", stream=True, predict=-1, context=10**6, temp=0.0, ignore_eos=True,
                            on_warning=lambda _: None)  # fmt: skip
    assert isinstance(next(stream), str)
    stream.close()
    assert model.generate(prompts[0], **options) == alone[0]
    # What cannot be answered is named, and the others are there.
    got = []
    with pytest.raises(metal_marlin.ArgumentError, match="^prompt 1: .*the context"):
        for number, answer in model.generate(
            ["the cat", "the " * 5000, "a"], stream=True, on_warning=lambda _: None, **options
        ):
            got.append((number, answer))
    assert sorted(got) == [(0, alone[0]), (2, alone[2])]
    for wrong in (lambda: model.generate(1), lambda: model.generate(["a", 1]), lambda: model.tokenize(b"a"),
                  lambda: model.generate("a", stream=True, on_text=print), lambda: model.generate(["a"], on_text=print)):  # fmt: skip
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ZeroDivisionError):
        model.generate(prompts, on_warning=lambda _: 1 / 0, top_k=3, **options)


def test_tokens_and_logits():
    model = metal_marlin.load(MODEL)
    tokens = model.tokenize("the cat sat on the mat")
    assert model.detokenize(tokens).endswith("the cat sat on the mat")
    bare = model.tokenize("the cat sat on the mat", special=False)
    assert tokens[-len(bare) :] == bare
    logits = model.logits(tokens)
    assert logits.dtype == np.float32 and logits.shape == (len(tokens), 96) and np.isfinite(logits).all()
    # The likeliest token is the one that generate() takes.
    grown = [*tokens, int(logits[-1].argmax())]
    text = model.generate("the cat sat on the mat", predict=1, temp=0.0, ignore_eos=True)
    assert model.detokenize(grown) == model.detokenize(tokens) + text
    np.testing.assert_allclose(model.logits(np.array(grown))[:-1], logits, rtol=1e-4, atol=1e-5)
    for wrong in ([], [10**6], [-1], [1] * 10**6):
        with pytest.raises(metal_marlin.ArgumentError):
            model.logits(wrong)


def test_the_interpreter_is_free_while_a_model_works():
    model = metal_marlin.load(MODEL)
    work = threading.Thread(
        target=lambda: model.generate(["the cat"], predict=2000, context=3000, ignore_eos=True, on_warning=lambda _: 0)
    )
    counted = 0
    work.start()
    while work.is_alive():
        counted += 1
        time.sleep(0.0001)
    assert counted > 20


def test_odd_texts_and_tokens_are_named():
    model = metal_marlin.load(MODEL)
    for work in (
        lambda: model.generate("a\ud800"),
        lambda: model.tokenize("a\ud800"),
        lambda: model.generate(["\ud800"]),
    ):
        with pytest.raises(ValueError, match="half a surrogate pair"):
            work()
    for tokens in ([1.5], [True], ["a"]):
        with pytest.raises(TypeError, match="^tokens: expected an integer"):
            model.logits(tokens)
        with pytest.raises(TypeError, match="^tokens: expected an integer"):
            model.detokenize(tokens)
    with pytest.raises(ValueError, match="^tokens: "):
        model.logits([2**40])


def test_logits_beyond_the_positions_of_a_model_whose_rope_grows():
    model = metal_marlin.load(MODEL.parent / "llama-dynamic")
    tokens = np.arange(24) % 90 + 3
    assert model.logits(tokens).shape == (24, 96)


def test_a_callback_cannot_call_its_own_model():
    model = metal_marlin.load(MODEL)
    for inner in (
        lambda: model.generate("a b", predict=1),
        lambda: model.logits([3, 4]),
        lambda: model.generate(["a"]),
    ):
        with pytest.raises(metal_marlin.ArgumentError, match="callback of this model"):
            model.generate("a b", predict=2, ignore_eos=True, on_text=lambda _: inner() and False)  # noqa: B023
    assert isinstance(model.generate("a b", predict=2), str)


# Ctrl-C within a block of a model that is large for this machine, and while another thread has the model. In a process
# of its own, which a failure would leave hanging.
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("work", ["evaluate", "logits", "wait"])
def test_interrupts(tmp_path, work):
    script = """
        import os, signal, sys, threading, time
        import numpy as np
        import metal_marlin
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
        model, text, work = sys.argv[1:4]
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            if work == "evaluate":
                metal_marlin.evaluate(model, text, chunks=4096, context=256, on_progress=False)
            elif work == "logits":
                m = metal_marlin.load(model)
                for _ in range(100000):
                    m.logits([5] * 60)
            else:
                m = metal_marlin.load(model)
                busy = lambda: m.generate("a", predict=-1, context=10**7, ignore_eos=True, on_warning=lambda _: None)
                threading.Thread(target=busy, daemon=True).start()
                time.sleep(0.2)
                m.generate("a", predict=1)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            os._exit(0)
    """
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and looked at the rain.\n" * 40000)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(MODEL), str(text), work],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "interrupted\n", done.stderr
