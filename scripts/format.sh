#!/usr/bin/env bash
# Checks that the C++ sources are formatted as .clang-format says; with --fix formats them.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  -h | --help) echo "Usage: scripts/format.sh [--fix]"; exit 0 ;;
  --fix) mode=(-i) ;;
  '') mode=(--dry-run --Werror) ;;
  *) echo "Usage: scripts/format.sh [--fix]" >&2; exit 2 ;;
esac
command -v clang-format > /dev/null || { echo "clang-format is missing: apt-get install clang-format" >&2; exit 1; }
find include src cli tests bench fuzz examples \( -name '*.h' -o -name '*.cc' \) -print0 | xargs -0 clang-format "${mode[@]}"
echo "formatted"
