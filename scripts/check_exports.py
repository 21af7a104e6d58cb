#!/usr/bin/env python3
"""Checks what a shared library exports: the names that the public headers mark with METAL_MARLIN_API, and no others.

Usage: check_exports.py LIBRARY INCLUDE_FOLDER
"""

import pathlib
import re
import subprocess
import sys


def exported(library: str) -> list[str]:
    """The demangled symbols that users of the library can link with."""
    lines = subprocess.run(
        ["nm", "-D", "--defined-only", "-C", library], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [line.split(None, 2)[2] for line in lines if len(line.split(None, 2)) == 3]


def marked(include: str) -> tuple[set[str], set[str]]:
    """Names of functions and of classes that carry the mark; of a struct with a marked method, "struct::method"."""
    text = "\n".join(p.read_text() for p in sorted(pathlib.Path(include).rglob("*.h")))
    text = re.sub(r"//[^\n]*", "", text)
    classes = set(re.findall(r"\b(?:class|struct) METAL_MARLIN_API (\w+)", text))
    functions = set(re.findall(r"^METAL_MARLIN_API [^;()]*?\b(\w+)\(", text, re.MULTILINE))
    # The records: structs whose methods alone are compiled.
    for body in re.finditer(r"^struct (\w+)[^;{]*\{(.*?)^\};", text, re.MULTILINE | re.DOTALL):
        methods = re.findall(r"^ +METAL_MARLIN_API [^;()]*?\b(\w+)\(", body.group(2), re.MULTILINE)
        functions |= {f"{body.group(1)}::{method}" for method in methods}
    return functions, classes


def main() -> int:
    """Prints what is wrong; 1 if anything is."""
    library, include = sys.argv[1:]
    functions, classes = marked(include)
    faults = []
    seen = set()
    for symbol in exported(library):
        name = re.sub(r"^(?:typeinfo name for|typeinfo for|vtable for|guard variable for) ", "", symbol)
        match = re.match(r"metal_marlin::(\w+)", name)
        method = re.match(r"metal_marlin::(\w+::\w+)", name)
        if method is not None and method.group(1) in functions:
            seen.add(method.group(1))
        elif match is None or match.group(1) not in functions | classes:
            faults.append(f"{library}: exports {symbol}, which no public header marks with METAL_MARLIN_API")
        else:
            seen.add(match.group(1))
    faults += [
        f"{include}: {name} is marked with METAL_MARLIN_API, but {library} does not export it"
        for name in sorted((functions | classes) - seen)
    ]
    print("\n".join(faults) or f"{len(functions)} functions and {len(classes)} classes are exported, nothing else")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
