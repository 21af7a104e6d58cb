"""Folders that others can write into."""

import json
import os
import pathlib
import shutil

from harness import QUANTIZE, case


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


# A real folder of the same user takes the place of the journal, or of the result in it.
@case
def folder_in_place_of_the_journal(f):
    f.quantized()
    journal = f / "out" / ".metal-marlin"
    for command in ("convert q -o out --to gptq_v2 -q".split(), ["quantize", "m", "-o", "out", *QUANTIZE]):
        for seen in (journal, journal / "result"):
            (f / "other").mkdir()
            for name in ("run.json", "block-00000.json", "config.json"):
                (f / "other" / name).write_text("precious")
            swapped = []

            def watch(pid, seen=seen, swapped=swapped):
                while not swapped and pathlib.Path(f"/proc/{pid}").exists():
                    if seen.is_dir():
                        try:
                            os.rename(seen, f / "away")
                            os.rename(f / "other", seen)
                        except OSError:
                            return  # the command was faster
                        swapped.append(True)

            outcome = f.run(*command, beside=watch)
            assert outcome.code in (0, 1), f"{outcome.code}: {outcome.err}"
            if swapped:
                # Nothing of it is lost, whether it stands where it was put or went along with a folder around it.
                places = {p.parent for p in (f / ".").rglob("block-00000.json") if p.read_text() == "precious"}
                assert len(places) == 1, f"{places}"
                place = places.pop()
                found = sorted(p.name for p in place.iterdir())
                # Only a run that had its result in place already may have noticed nothing.
                if outcome.code == 0:
                    assert (f / "out" / "config.json").is_file(), "no result, and no error"
                else:
                    assert "replaced" in outcome.err, outcome.err
                assert found == ["block-00000.json", "config.json", "run.json"], f"{found}"
                assert all((place / name).read_text() == "precious" for name in found)
            for name in ("out", "away", "other"):
                shutil.rmtree(f / name, ignore_errors=True)
