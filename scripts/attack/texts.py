"""Long texts."""

import json

from harness import QUANTIZE, case


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
