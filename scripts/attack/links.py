"""Links of a model that lead out of its folder."""

import shutil

from harness import QUANTIZE, case


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


# What a model's card and report say goes into the new card: not where they are links to files elsewhere.
@case
def card_outside(f):
    f.quantized()
    (f / "outside").mkdir()
    (f / "q" / "report.json").unlink()
    card = (f / "q" / "README.md").read_text()
    (f / "q" / "README.md").unlink()
    (f / "outside" / "README.md").write_text(card)
    (f / "q" / "README.md").symlink_to(f / "outside" / "README.md")
    outcome = f.run("convert", "q", "-o", "o", "--to", "gptq_v2", "-q")
    assert outcome.code == 0, outcome.err
    assert "calibration" in card and "calibration" not in (f / "o" / "README.md").read_text(), "read through a link"
