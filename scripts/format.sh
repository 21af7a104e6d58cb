#!/usr/bin/env bash
# Checks that the sources are formatted: C++ by .clang-format, Python by pyproject.toml. With --fix it formats them.
# The formatters have pinned versions, because other versions format differently. They are installed into build/tools.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
cd "$ROOT"
case "${1:-}" in
  -h | --help) echo "Usage: scripts/format.sh [--fix]"; exit 0 ;;
  --fix) cpp=(-i) py=() ;;
  '') cpp=(--dry-run --Werror) py=(--check) ;;
  *) echo "Usage: scripts/format.sh [--fix]" >&2; exit 2 ;;
esac
install_format_tools
status=0
# Every folder and suffix, but for what a build makes (build*) and hidden folders.
sources() {
  find . \( -name '.?*' -o -path './build*' -o -name node_modules \) -prune -o -type f "$@" -print0
}
sources \( -name '*.h' -o -name '*.hh' -o -name '*.hpp' -o -name '*.inl' -o -name '*.c' -o -name '*.cc' -o -name '*.cpp' \
  -o -name '*.cxx' \) | xargs -0 build/tools/bin/clang-format "${cpp[@]}" || status=1
sources -name '*.py' | xargs -0 build/tools/bin/ruff format --quiet ${py[@]+"${py[@]}"} || status=1
[ "$status" -eq 0 ] || fail "Not formatted: the files above. scripts/format.sh --fix formats them."
echo "formatted"
