#!/usr/bin/env python3
"""Writes NOTICE: what is linked into the library, the command and the Python module, with licences and copyright lines.

  make_notice.py [--check]

Crates come from `cargo metadata` of src/source/tokenizer_c (its Cargo.lock fixes the versions), their copyright lines from
the licence files of their sources. Other libraries stand in the table below. --check fails where NOTICE does not name
exactly the crates of Cargo.lock; it needs no network.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATE = ROOT / "src" / "source" / "tokenizer_c"

# name, how it is linked, licence, copyright, source
LIBRARIES = [
    (
        "OpenBLAS",
        "shared",
        "BSD-3-Clause",
        "Copyright (c) 2011-2014, The OpenBLAS Project",
        "github.com/OpenMathLib/OpenBLAS",
    ),
    (
        "oneDNN",
        "shared",
        "Apache-2.0",
        "Copyright 2016-2023 Intel Corporation",
        "github.com/uxlfoundation/oneDNN",
    ),
    (
        "Highway",
        "shared",
        "Apache-2.0 or BSD-3-Clause",
        "Copyright (c) The Highway Project Authors",
        "github.com/google/highway",
    ),
    (
        "libzip",
        "shared",
        "BSD-3-Clause",
        "Copyright (C) 1999-2020 Dieter Baron and Thomas Klausner",
        "libzip.org",
    ),
    (
        "{fmt}",
        "shared",
        "MIT",
        "Copyright (c) 2012 - present, Victor Zverovich and {fmt} contributors",
        "github.com/fmtlib/fmt",
    ),
    (
        "spdlog",
        "shared (command alone)",
        "MIT",
        "Copyright (c) 2016 Gabi Melman",
        "github.com/gabime/spdlog",
    ),
    (
        "nlohmann/json",
        "headers",
        "MIT",
        "Copyright (c) 2013-2022 Niels Lohmann",
        "github.com/nlohmann/json",
    ),
    (
        "CLI11",
        "headers (command alone)",
        "BSD-3-Clause",
        "Copyright (c) 2017-2023 University of Cincinnati",
        "github.com/CLIUtils/CLI11",
    ),
    (
        "nanobind",
        "static (Python module alone)",
        "BSD-3-Clause",
        "Copyright (c) 2022 Wenzel Jakob",
        "github.com/wjakob/nanobind",
    ),
    (
        "robin-map",
        "static (in nanobind)",
        "MIT",
        "Copyright (c) 2017 Thibaut Goetghebuer-Planchon",
        "github.com/Tessil/robin-map",
    ),
    (
        "libgomp, libstdc++",
        "shared",
        "GPL-3.0 with the GCC Runtime Library Exception",
        "Copyright (C) Free Software Foundation, Inc.",
        "gcc.gnu.org",
    ),
    (
        "llama.cpp",
        "data: regular expressions of pre-tokenizers by name, in src/source/gguf_pre_tokenizers.cc",
        "MIT",
        "Copyright (c) 2023-2024 The ggml authors",
        "github.com/ggml-org/llama.cpp",
    ),
]


def locked():
    """(name, version) of every crate of Cargo.lock but our own."""
    text = (CRATE / "Cargo.lock").read_text()
    crates = re.findall(r'\[\[package\]\]\nname = "([^"]+)"\nversion = "([^"]+)"\nsource', text)
    return sorted(crates)


def copyright_lines(folder):
    lines = []
    for path in sorted(folder.iterdir()):
        if not re.match(r"(?i)(licen[cs]e|copying|copyright|notice)", path.name) or not path.is_file():
            continue
        for line in path.read_text(errors="replace").splitlines():
            line = line.strip().strip("/*# ").strip()
            if re.match(r"(?i)copyright\s+(\(c\)|©|\d|[A-Z])", line) and "[yyyy]" not in line and "{yyyy}" not in line:
                if re.match(r"(?i)copyright (owner|holder|notice|license|and related)", line):
                    continue
                if line not in lines:
                    lines.append(line)
    return lines


def write():
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--locked", "--format-version", "1"]
    metadata = json.loads(subprocess.run(command, cwd=CRATE, check=True, capture_output=True, text=True).stdout)
    packages = {(p["name"], p["version"]): p for p in metadata["packages"] if p["source"]}
    out = [
        "Metal Marlin",
        "Copyright the Metal Marlin maintainers. Licensed under the Apache License, Version 2.0 (LICENSE).",
        "",
        "This product is linked with, or carries data of, the works below. scripts/make_notice.py writes this file.",
        "",
        "LIBRARIES",
    ]
    for name, how, licence, owner, source in LIBRARIES:
        out += [f"  {name}: {licence}; {how}; {source}", f"    {owner}"]
    out += ["", "RUST CRATES, linked statically (versions of src/source/tokenizer_c/Cargo.lock)"]
    for key in locked():
        package = packages[key]
        licence = (package["license"] or "see its sources").replace("/", " OR ")
        out.append(f"  {key[0]} {key[1]}: {licence}; {(package['repository'] or '').removeprefix('https://')}")
        lines = copyright_lines(pathlib.Path(package["manifest_path"]).parent)
        if not lines and package["authors"]:
            lines = ["by " + ", ".join(re.sub(r"\s*<[^>]*>", "", a) for a in package["authors"])]
        out += [f"    {line}" for line in lines]
    out += [
        "",
        "The texts of these licences: Apache-2.0 in LICENSE; the others at spdx.org/licenses under the names above.",
        "",
        "MIT, in whose terms most of these works stand:",
        "",
        "  Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated",
        '  documentation files (the "Software"), to deal in the Software without restriction, including without limitation',
        "  the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and",
        "  to permit persons to whom the Software is furnished to do so, subject to the following conditions:",
        "",
        "  The above copyright notice and this permission notice shall be included in all copies or substantial portions",
        "  of the Software.",
        "",
        '  THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO',
        "  THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE",
        "  AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF",
        "  CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER",
        "  DEALINGS IN THE SOFTWARE.",
    ]
    (ROOT / "NOTICE").write_text("\n".join(out) + "\n", encoding="utf-8")
    print(f"NOTICE: {len(LIBRARIES)} libraries, {len(locked())} crates")


def check():
    text = (ROOT / "NOTICE").read_text(encoding="utf-8")
    section = text.split("RUST CRATES", 1)[1]
    named = sorted(re.findall(r"^  (\S+) (\d\S*): ", section, re.M))
    missing, surplus = set(locked()) - set(named), set(named) - set(locked())
    for what, crates in (("not in NOTICE", missing), ("in NOTICE, but not in Cargo.lock", surplus)):
        for name, version in sorted(crates):
            print(f"{name} {version}: {what}; run scripts/make_notice.py")
    if missing or surplus:
        sys.exit(1)
    print(f"NOTICE names all {len(named)} crates")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        check()
    elif not sys.argv[1:]:
        write()
    else:
        sys.exit(__doc__)
