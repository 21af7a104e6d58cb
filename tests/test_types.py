#!/usr/bin/env python3
"""The types of the package: a user's checker finds mistakes in calls of the functions, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import metal_marlin
from metal_marlin import _types

pytest.importorskip("mypy")
FILES = Path(__file__).parent / "typing"
ERROR = re.compile(r"^([^:]+):(\d+): error:", re.M)


def mypy(tmp_path: Path, *arguments: str) -> str:
    """What mypy --strict prints."""
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", *arguments],
        capture_output=True, text=True, cwd=tmp_path, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.stdout


def test_each_mistake_is_found_and_no_right_use(tmp_path: Path):
    mistakes, right = FILES / "mistakes.py", FILES / "right.py"
    output = mypy(tmp_path, str(mistakes), str(right))
    found = {(Path(path).name, int(line)) for path, line in ERROR.findall(output)}
    lines = mistakes.read_text().splitlines()
    planted = {(mistakes.name, number) for number, line in enumerate(lines, 1) if line.endswith("# mistake")}
    assert len(planted) > 70
    assert found == planted, output


def test_the_package_itself(tmp_path: Path):
    output = mypy(tmp_path, "-p", "metal_marlin")
    wrong = [line for line in output.splitlines() if ": error:" in line]
    # What the native module takes of the functions on whole models is a dict of options.
    wrong = [line for line in wrong if not re.search(r"\b_core\.pyi:.*Missing type arguments", line)]
    assert wrong == []


def test_hand_written_choices_are_those_of_the_table():
    hints = get_type_hints(metal_marlin.quantize_model)
    assert get_args(_types.Method) == get_args(hints["method"]) and len(get_args(_types.Method)) == 5
    assert get_args(_types.Scheme) == get_args(hints["scheme"])
    assert set(get_args(_types.ActivationMethod)) == {
        n for a in get_args(hints["activation_method"]) for n in get_args(a)
    }


def test_what_the_package_exports_is_there():
    for module in (metal_marlin, metal_marlin.compat):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name), name
