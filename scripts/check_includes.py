#!/usr/bin/env python3
"""Checks the form of src/, cli/ and include/:

- each folder of src/ includes only folders that it is linked with in CMakeLists.txt (so: never a higher one), and is
  linked only with folders, and with nlohmann_json, that it includes;
- no two files include each other, directly or through others (a header and its source count as one), nor do files of the
  Rust crate use each other;
- no folder holds more than 24 sources and headers, that of the public headers no more than 32;
- json.hpp is included, also by way of our own headers, only where text is read or written (JSON_FILES);
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
LARGEST_PUBLIC_FOLDER = 32  # include/metal_marlin/: users name these headers, so that they stay where they are
# Files on disk, what a model says of itself, and records are JSON; what stages hand to each other is not.
JSON_FILES = {
    f"{folder}/{name}"
    for folder, names in {
        # A rule looks at a stranger's config as it is.
        "check": "check.cc check.h compressed_rules.cc engine_layers.cc engine_layers.h facts.cc facts.h files_rules.cc"
        " fused_rules.cc gguf_rules.cc kernel_rules.cc mlx_rules.cc model_rules.cc module_facts.cc parallel_rules.cc rule.h"
        " scheme_rules.cc",
        "checkpoint": "model_source.cc safetensors_source.cc",
        "checkpoint/gguf": "gguf_config.cc gguf_metadata.cc gguf_source.cc",
        "commands": "check_model.cc inspect.cc",
        "core": "border.cc",
        "families": "gemma_gguf.cc phi3.cc registry.cc",
        "families/config": "config_reader.cc config_twins.cc generation_config.cc read_model_config.cc text_model.cc",
        "formats": "foreign_file.cc safetensors_index.cc safetensors_write.cc",
        "formats/json": "bounded_json.cc json_bounds.cc json_events.cc json_events.h json_fault.cc strict_json.cc",
        "infer": "batch_file.cc",
        "layouts": "awq.cc compressed_tensors.cc gptq.cc hqq.cc layout.cc marlin.cc mlx.cc native.cc stored_layout.cc",
        "layouts/config": "labels.cc mlx_config.cc read_config.cc",
        "records": "json_records.cc json_writer.h to_json.cc",
        "report": "card_facts.cc report_check.cc",
        "report/render": "mixed_report.cc printable.cc report_html.cc",
        "run": "prepare_run.cc resume.cc run_identity.cc run_texts.cc",
        "run/journal": "journal.cc journal_tensors.cc",
        "run/output": "placing.cc",
        "statistics": "model_identity.cc stats_file.cc",
        "text": "jsonl_text.cc",
        "tokenizer": "added_tokens.cc chat_template.cc grammar.cc page.cc tokenizer.cc tokenizer_faults.cc"
        " tokenizer_files.cc tokenizer_json.cc",
        "tokenizer/vocabulary": "gguf_tokenizer.cc gguf_vocabulary.cc sentencepiece_model.cc",
        "write": "manifest.cc model_card.cc safetensors_container.cc",
    }.items()
    for name in names.split()
}
JSON_HEADER = "#include <nlohmann/json.hpp>"
JSON_PARSER = re.compile(r"\b(?:json|Json|ordered_json)::(?:parse|sax_parse|accept)\b|>>\s*json")
# The thread pool waits by calls of the system.
SYSTEM_ALLOWED = re.compile(r"platform/|core/thread[^/]*$")


def allowed_edges():
    """folder -> folders it may include, from the mm_folder() lines of CMakeLists.txt; and the folders with JSON."""
    edges = {}
    with_json = set()
    for call in re.findall(r"mm_folder\(([^)]*)\)", (ROOT / "CMakeLists.txt").read_text()):
        words, _, libraries = call.partition("LIBRARIES")
        words = words.split()
        if "nlohmann_json" in libraries:
            with_json.add(words[0])
        for lower in words[1:]:
            if lower not in edges:
                sys.exit(f"CMakeLists.txt: mm_folder({words[0]}) links {lower}, which is not declared before it")
        edges[words[0]] = set(words)
    return edges, with_json


def json_users(texts):
    """The files that get json.hpp, themselves or by way of headers of ours. texts: file -> what it holds."""
    users = {file for file, text in texts.items() if JSON_HEADER in text}
    while more := {
        file
        for file, text in texts.items()
        if file not in users and any(name in users for name in INCLUDE.findall(text))
    }:
        users |= more
    return users


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
    edges, with_json = allowed_edges()
    bad = []
    count = 0
    graph = {}
    folders = {}
    texts = {}
    used = {folder: set() for folder in edges}
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix not in (".h", ".cc"):
            continue
        folder = path.relative_to(ROOT / "src").parts[0]
        text = path.read_text()
        folders.setdefault(path.parent, []).append(path.name)
        file = path.relative_to(ROOT / "src").with_suffix("").as_posix()
        graph.setdefault(file, set())
        texts[path.relative_to(ROOT / "src").as_posix()] = text
        if "nlohmann/json" in text:
            used.setdefault(folder, set()).add("nlohmann_json")
        if path.parent != ROOT / "src" / "formats" / "json" and (call := JSON_PARSER.search(text)):
            bad.append(
                f"{path.relative_to(ROOT)}: calls {call.group(0)}; call a function of formats/json/bounded_json.h"
            )
        for name in INCLUDE.findall(text):
            count += 1
            if (other := name.rsplit(".", 1)[0]) != file:
                graph[file].add(other)
            target = name.split("/")[0]
            used.setdefault(folder, set()).add(target)
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
    users = json_users(texts)
    bad += [
        f"src/{file}: includes <nlohmann/json.hpp>, itself or by way of a header of ours; hand over structs instead"
        for file in sorted(users - JSON_FILES)
    ]
    bad += [
        f"scripts/check_includes.py: {file} is in JSON_FILES and has no JSON" for file in sorted(JSON_FILES - users)
    ]
    for folder, links in edges.items():
        unused = sorted(links - used[folder] - {folder})
        if folder in with_json and "nlohmann_json" not in used[folder]:
            unused.append("nlohmann_json")
        if unused:
            bad.append(f"CMakeLists.txt: mm_folder({folder}) links {', '.join(unused)}, which nothing in it includes")
    bad += [f"src/: {', '.join(group)} include each other" for group in cycles(graph)]
    bad += [f"src/tokenizer/tokenizer_c/: {', '.join(group)} use each other" for group in cycles(rust_modules())]
    for path in sorted((ROOT / "cli").rglob("*")):
        if path.suffix in (".h", ".cc"):
            folders.setdefault(path.parent, []).append(path.name)
            bad += [
                f"{path.relative_to(ROOT)}: includes <{name}>; only src/platform/ may"
                for name in SYSTEM.findall(path.read_text())
            ]
    for path in sorted((ROOT / "include").rglob("*.h")):
        folders.setdefault(path.parent, []).append(path.name)
        bad += [f'{path.relative_to(ROOT)}: a public header includes "{n}"' for n in INCLUDE.findall(path.read_text())]
    for path, names in sorted(folders.items()):
        most = LARGEST_PUBLIC_FOLDER if path.is_relative_to(ROOT / "include") else LARGEST_FOLDER
        if len(names) > most:
            bad.append(
                f"{path.relative_to(ROOT)}/: {len(names)} sources; at most {most}, so that one finds the file to change"
            )
    print("\n".join(bad) if bad else f"{count} includes between {len(edges)} folders: all edges allowed, no cycles")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
