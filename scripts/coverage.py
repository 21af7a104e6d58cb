#!/usr/bin/env python3
"""coverage.py ROOT BUILD yes|no: line coverage of ROOT/src from the .gcda files of BUILD, by gcov's JSON.

A line counts once, however many objects and template instances hold it, and is covered when any of them ran it.
With "yes" the exit code is 1 below LIMIT.
"""

import collections
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

LIMIT = 93.0


def main():
    root, build, check = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3] == "yes"
    source = root / "src"
    lines = collections.defaultdict(dict)  # file -> line -> ran
    notes = sorted(build.rglob("*.gcno"))  # also of objects that no test ran
    if not notes:
        sys.exit(f"{build}: no .gcno files; build the preset 'coverage'")
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(notes), 16):
            subprocess.run(
                ["gcov", "--json-format", "--hash-filenames", *map(str, notes[start : start + 16])],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            for path in pathlib.Path(folder).glob("*.gcov.json.gz"):
                data = json.loads(gzip.decompress(path.read_bytes()))
                for item in data["files"]:
                    name = (pathlib.Path(data["current_working_directory"]) / item["file"]).resolve()
                    if source not in name.parents:
                        continue
                    for line in item["lines"]:
                        number = line["line_number"]
                        lines[name][number] = lines[name].get(number, False) or line["count"] > 0
                path.unlink()
    folders = collections.defaultdict(lambda: [0, 0])
    for name, ran in lines.items():
        counts = folders[name.relative_to(source).parts[0]]
        counts[0] += sum(ran.values())
        counts[1] += len(ran)
    covered = sum(c for c, _ in folders.values())
    total = sum(t for _, t in folders.values())
    if not total:
        sys.exit("no lines of src/ were found")
    for name, (c, t) in sorted(folders.items()):
        print(f"{name:<12} {c:6d} of {t:6d}  {100 * c / t:5.1f} %")
    share = 100 * covered / total
    print(f"{'src':<12} {covered:6d} of {total:6d}  {share:5.1f} %")
    for name, ran in sorted(lines.items(), key=lambda item: sum(item[1].values()) - len(item[1]))[:10]:
        print(f"  {len(ran) - sum(ran.values()):5d} lines not run in {name.relative_to(root)}")
    return 1 if check and share < LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
