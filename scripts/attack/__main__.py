"""The cases of attack.sh: each makes its input in a new folder, runs the command on it, and checks what came of it."""

import pathlib
import sys
import tempfile
import time

import links  # noqa: F401 - each module adds its cases
import model_files  # noqa: F401
import shared_folders  # noqa: F401
import templates  # noqa: F401
import terminal  # noqa: F401
import texts  # noqa: F401
import tokenizers  # noqa: F401
from harness import CASES, Folder


def main():
    wanted = sys.argv[1:]
    unknown = set(wanted) - {c.__name__ for c in CASES}
    if unknown:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(c.__name__ for c in CASES)}")
    passed = failed = 0
    for run in CASES:
        if wanted and run.__name__ not in wanted:
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="metal-marlin-attack-") as path:
            try:
                run(Folder(pathlib.Path(path)))
                passed += 1
                print(f"passed  {run.__name__} ({time.monotonic() - start:.1f} s)")
            except Exception as e:  # noqa: BLE001 - whatever it is, the case failed
                failed += 1
                print(f"FAILED  {run.__name__}: {type(e).__name__}: {e}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
