#!/usr/bin/env bash
# attack.sh [CASE...]: hostile models, folders and links against the release build, each under limits of time and memory.
# Prints a line per case and 'N passed, N failed'. What is promised: docs/security.md. Under two minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x build/release/bin/metal-marlin ] || { echo "build first: cmake --preset release && cmake --build --preset release" >&2; exit 1; }
exec python3 scripts/attack "$@"
