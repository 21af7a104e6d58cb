#!/usr/bin/env python3
"""Checks the form of src/:

- each folder includes only folders that it is linked with in CMakeLists.txt (so: never a higher one);
- no two files include each other, directly or through others (a header and its source count as one), nor do files of the
  Rust crate use each other;
- no folder holds more than 24 sources and headers;
- json.hpp is included only where text is read or written (JSON_ALLOWED);
- its parser is called only in src/formats/json/, which refuses what the parser would ignore (a NUL byte and all behind it);
- in src/ and cli/ only src/platform/ includes headers of the operating system.

Exit 0 and one line when all holds; exit 1 and the offending lines otherwise.
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
USE = re.compile(r"\bcrate::(\{[^;]*?\}|\w+)")
LARGEST_FOLDER = 24
# Files on disk, what a model says of itself, and records are JSON; what stages hand to each other is not.
JSON_ALLOWED = re.compile(
    r"(formats|records|tokenizer|families|layouts|checkpoint|check|write|statistics|run)/"
    r"|core/border\.cc|text/(jsonl_text|texts)\.cc|infer/batch_file\.cc"
    r"|report/|commands/"
)
JSON_PARSER = re.compile(r"\b(?:json|Json|ordered_json)::(?:parse|sax_parse|accept)\b|>>\s*json")
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


def cycles(graph):
    """The sets of more than one name that reach each other (Tarjan)."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(sorted(graph[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            name, rest = work[-1]
            below = next(rest, None)
            if below is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == index[name]:
                    group = []
                    while not group or group[-1] != name:
                        group.append(stack.pop())
                        on_stack.discard(group[-1])
                    if len(group) > 1:
                        found.append(sorted(group))
            elif below not in index:
                index[below] = low[below] = len(index)
                stack.append(below)
                on_stack.add(below)
                work.append((below, iter(sorted(graph.get(below, ())))))
            elif below in on_stack:
                low[name] = min(low[name], index[below])
    return found


def rust_modules():
    """file of the crate -> files whose names it uses."""
    graph = {}
    for path in sorted((ROOT / "src" / "tokenizer" / "tokenizer_c" / "src").glob("*.rs")):
        names = [re.sub(r"::\{[^{}]*\}", "", use).strip("{}") for use in USE.findall(path.read_text())]
        graph[path.name] = {f"{part.strip().split('::')[0]}.rs" for name in names for part in name.split(",")}
    return {name: used & graph.keys() for name, used in graph.items()}


def main():
    edges = allowed_edges()
    bad = []
    count = 0
    graph = {}
    folders = {}
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix not in (".h", ".cc"):
            continue
        folder = path.relative_to(ROOT / "src").parts[0]
        text = path.read_text()
        folders.setdefault(path.parent, []).append(path.name)
        file = path.relative_to(ROOT / "src").with_suffix("").as_posix()
        graph.setdefault(file, set())
        if "#include <nlohmann/json.hpp>" in text and not JSON_ALLOWED.match(path.relative_to(ROOT / "src").as_posix()):
            bad.append(f"src/{path.relative_to(ROOT / 'src')}: includes <nlohmann/json.hpp>; hand over structs instead")
        if path.parent != ROOT / "src" / "formats" / "json" and (call := JSON_PARSER.search(text)):
            bad.append(
                f"{path.relative_to(ROOT)}: calls {call.group(0)}; call a function of formats/json/bounded_json.h"
            )
        for name in INCLUDE.findall(text):
            count += 1
            if (other := name.rsplit(".", 1)[0]) != file:
                graph[file].add(other)
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
    bad += [f"src/: {', '.join(group)} include each other" for group in cycles(graph)]
    bad += [f"src/tokenizer/tokenizer_c/: {', '.join(group)} use each other" for group in cycles(rust_modules())]
    bad += [
        f"{path.relative_to(ROOT)}/: {len(names)} sources; at most {LARGEST_FOLDER}, so that one finds the file to change"
        for path, names in sorted(folders.items())
        if len(names) > LARGEST_FOLDER
    ]
    for path in sorted((ROOT / "cli").glob("*")):
        if path.suffix in (".h", ".cc"):
            bad += [
                f"cli/{path.name}: includes <{name}>; only src/platform/ may"
                for name in SYSTEM.findall(path.read_text())
            ]
    for path in sorted((ROOT / "include").rglob("*.h")):
        bad += [f'{path.relative_to(ROOT)}: a public header includes "{n}"' for n in INCLUDE.findall(path.read_text())]
    print("\n".join(bad) if bad else f"{count} includes between {len(edges)} folders: all edges allowed, no cycles")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
