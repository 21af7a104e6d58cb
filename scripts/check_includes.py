#!/usr/bin/env python3
"""Checks that each folder of src/ includes only folders it is linked with in CMakeLists.txt (so: never a higher one),
and that in src/ and cli/ only src/platform/ includes headers of the operating system.

Exit 0 and one line when all edges are allowed; exit 1 and the offending lines otherwise.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
SYSTEM = re.compile(
    r"^\s*#\s*include\s+<((?:unistd|fcntl|dirent|signal|termios|poll|pthread|sched|dlfcn|pwd)\.h|(?:sys|mach|linux)/[^>]+)>",
    re.M,
)
# The thread pool waits by calls of the system.
SYSTEM_ALLOWED = re.compile(r"platform/|core/thread[^/]*$")


def allowed_edges():
    """folder -> folders it may include, from the mm_folder() lines of CMakeLists.txt."""
    edges = {}
    for call in re.findall(r"mm_folder\(([^)]*)\)", (ROOT / "CMakeLists.txt").read_text()):
        words = call.split("LIBRARIES")[0].split()
        for lower in words[1:]:
            if lower not in edges:
                sys.exit(f"CMakeLists.txt: mm_folder({words[0]}) links {lower}, which is not declared before it")
        edges[words[0]] = set(words)
    return edges


def main():
    edges = allowed_edges()
    bad = []
    count = 0
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix not in (".h", ".cc"):
            continue
        folder = path.relative_to(ROOT / "src").parts[0]
        for name in INCLUDE.findall(path.read_text()):
            count += 1
            target = name.split("/")[0]
            if target not in edges.get(folder, set()):
                bad.append(
                    f'{path.relative_to(ROOT)}: includes "{name}"; {folder}/ may include {sorted(edges.get(folder, []))}'
                )
        relative = path.relative_to(ROOT / "src").as_posix()
        if not SYSTEM_ALLOWED.match(relative):
            bad += [
                f"src/{relative}: includes <{name}>; only src/platform/ may"
                for name in SYSTEM.findall(path.read_text())
            ]
    for path in sorted((ROOT / "cli").glob("*")):
        if path.suffix in (".h", ".cc"):
            bad += [
                f"cli/{path.name}: includes <{name}>; only src/platform/ may"
                for name in SYSTEM.findall(path.read_text())
            ]
    for path in sorted((ROOT / "include").rglob("*.h")):
        bad += [f'{path.relative_to(ROOT)}: a public header includes "{n}"' for n in INCLUDE.findall(path.read_text())]
    print("\n".join(bad) if bad else f"{count} includes between {len(edges)} folders: all edges allowed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
