#!/usr/bin/env python3
"""Writes NOTICE: what is linked into the library, the command and the Python module, with licences and copyright lines,
and the texts of the licences of all that becomes part of a binary.

  make_notice.py [--check]

Crates come from `cargo metadata` of src/tokenizer/tokenizer_c (its Cargo.lock fixes the versions), their copyright lines and
texts from the licence files of their sources. Other libraries stand in the tables below. --check fails where NOTICE does
not name exactly the crates of Cargo.lock and the libraries of the tables, or names one without its text; it needs no
network.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATE = ROOT / "src" / "tokenizer" / "tokenizer_c"

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
        "xxHash",
        "header",
        "BSD-2-Clause",
        "Copyright (C) 2012-2020 Yann Collet",
        "github.com/Cyan4973/xxHash",
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
        "data: regular expressions of pre-tokenizers by name, in src/tokenizer/vocabulary/gguf_pre_tokenizers.cc",
        "MIT",
        "Copyright (c) 2023-2024 The ggml authors",
        "github.com/ggml-org/llama.cpp",
    ),
]

# What these libraries load in turn on Debian 12, as ldd lists it. Other systems build them otherwise.
AT_RUN_TIME = [
    ("zlib (libz)", "Zlib", "by libzip", "zlib.net"),
    ("bzip2 (libbz2)", "bzip2-1.0.6", "by libzip", "sourceware.org/bzip2"),
    ("OpenSSL (libcrypto)", "Apache-2.0", "by libzip", "openssl.org"),
    ("ocl-icd (libOpenCL)", "BSD-2-Clause", "by oneDNN", "github.com/OCL-dev/ocl-icd"),
    ("libgfortran", "GPL-3.0 with the GCC Runtime Library Exception", "by OpenBLAS", "gcc.gnu.org"),
    ("libquadmath", "LGPL-2.1-or-later", "by libgfortran", "gcc.gnu.org"),
    ("libgcc_s", "GPL-3.0 with the GCC Runtime Library Exception", "by libstdc++", "gcc.gnu.org"),
    ("GNU C Library (libc, libm)", "LGPL-2.1-or-later", "by all", "gnu.org/software/libc"),
]

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""

BSD_3 = """\
Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions and the following
   disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
   disclaimer in the documentation and/or other materials provided with the distribution.

3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or promote products
   derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE."""

BSD_2 = BSD_3[: BSD_3.index("\n\n3. Neither")] + BSD_3[BSD_3.index("\n\nTHIS SOFTWARE") :]

APACHE = "Apache-2.0: the text is in the file LICENSE beside this one."


def text_of_library(licence):
    """The text under which a library of LIBRARIES is carried; nothing for what is a shared library of its own alone."""
    if licence.startswith("MIT"):
        return MIT
    if "BSD-3-Clause" in licence:
        return BSD_3
    if licence.startswith("BSD-2-Clause"):
        return BSD_2
    return APACHE if licence.startswith("Apache-2.0") else None


def text_key(text):
    """Equal for texts that differ in copyright lines, line breaks and bullets alone."""
    lines = [line.strip().strip("/*# ").strip() for line in text.splitlines()]
    kept = [
        line
        for line in lines
        if line
        and not re.match(
            r"(?i)(copyright\b|\(c\)|all rights reserved|the mit license|"
            r"mit license)",
            line,
        )
    ]
    return re.sub(r"[^a-z0-9]+", " ", " ".join(kept).lower()).strip()


def crate_texts(folder, licence):
    """The texts under which a crate is carried: its own files, where a choice is left the shorter ones, not Apache-2.0."""
    own, apache = [], False
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if not path.is_file() or any(part in ("tests", "benches", "examples", "testdata") for part in inside):
            continue
        if not re.match(r"(?i)(un)?(licen[cs]e|copying)([-_.].*)?$", path.name) or path.suffix in (
            ".rs",
            ".toml",
            ".html",
        ):
            continue
        text = path.read_text(errors="replace")
        if len(text.split()) < 30:
            continue  # names its licence and no more
        if "Apache License" in text and "TERMS AND CONDITIONS" in text:
            apache = True
        else:
            own.append(text.strip("\n"))
    if own:
        return own
    return [MIT] if "MIT" in licence and not apache else [APACHE]


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
    texts = {}  # key of a text: the text and who stands under it

    def add_text(text, name):
        texts.setdefault(text_key(text), (text, []))[1].append(name)

    for name, _, licence, _, _ in LIBRARIES:
        if text := text_of_library(licence):
            add_text(text, name)
    out += ["", "LIBRARIES THAT THESE LOAD at run time; they are no part of any file of this product"]
    out += [f"  {name}: {licence}; {loader}; {source}" for name, licence, loader, source in AT_RUN_TIME]
    out += ["", "RUST CRATES, linked statically (versions of src/tokenizer/tokenizer_c/Cargo.lock)"]
    for key in locked():
        package = packages[key]
        licence = (package["license"] or "see its sources").replace("/", " OR ")
        folder = pathlib.Path(package["manifest_path"]).parent
        out.append(f"  {key[0]} {key[1]}: {licence}; {(package['repository'] or '').removeprefix('https://')}")
        lines = copyright_lines(folder)
        if not lines and package["authors"]:
            lines = ["by " + ", ".join(re.sub(r"\s*<[^>]*>", "", a) for a in package["authors"])]
        out += [f"    {line}" for line in lines]
        for text in crate_texts(folder, licence):
            add_text(text, f"{key[0]} {key[1]}")
    out += [
        "",
        "TEXTS of these licences, each with the works that are carried under it; their copyright lines stand above",
    ]
    for text, names in sorted(texts.values(), key=lambda entry: -len(entry[1])):
        out += ["", "-" * 118]
        out += textwrap.wrap("Of " + ", ".join(names), width=118, break_on_hyphens=False)
        lines = [line.rstrip() for line in text.splitlines()]
        if len(names) > 1:  # the copyright lines of one of them say nothing of the others
            lines = [line for line in lines if not re.match(r"(?i)\s*copyright\s+(\(c\)|©|\d)", line)]
        out += ["", *lines]
    (ROOT / "NOTICE").write_text("\n".join(out) + "\n", encoding="utf-8")
    print(f"NOTICE: {len(LIBRARIES)} libraries, {len(locked())} crates")


def check():
    text = (ROOT / "NOTICE").read_text(encoding="utf-8")
    section, _, texts = text.split("RUST CRATES", 1)[1].partition("\nTEXTS of these licences")
    named = sorted(re.findall(r"^  (\S+) (\d\S*): ", section, re.M))
    faults = [f"{name} {version}: not in NOTICE" for name, version in sorted(set(locked()) - set(named))]
    faults += [
        f"{name} {version}: in NOTICE, but not in Cargo.lock" for name, version in sorted(set(named) - set(locked()))
    ]
    faults += [f"{name}: not in NOTICE" for name, *_ in LIBRARIES + AT_RUN_TIME if f"\n  {name}: " not in text]
    # Each list of names ends with an empty line.
    lists = re.findall(r"^-{118}\nOf (.*?)\n\n", texts, re.M | re.S)
    covered = {name for names in lists for name in re.split(r",\s+", " ".join(names.split()))}
    carried = [f"{name} {version}" for name, version in named]
    carried += [part for name, _, licence, _, _ in LIBRARIES if text_of_library(licence) for part in name.split(", ")]
    faults += [f"{name}: its licence's text is not in NOTICE" for name in carried if name not in covered]
    for fault in faults:
        print(f"{fault}; run scripts/make_notice.py")
    if faults:
        sys.exit(1)
    print(f"NOTICE names all {len(named)} crates and has the texts of their licences")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        check()
    elif not sys.argv[1:]:
        write()
    else:
        sys.exit(__doc__)
