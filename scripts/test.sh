#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

usage() {
  cat << 'END'
Usage: scripts/test.sh [PRESET] [ctest options]

Installs what is missing (apt or Homebrew, as root or with sudo), builds and runs every test.
PRESET is release (default), asan (address and undefined-behaviour sanitizers), debug or dev.
The last line is 'N passed, N failed'; the exit code is 0 only when none failed.
About 10 minutes on 2 cores the first time, compilation included; asan takes longer.

Examples:
  scripts/test.sh
  scripts/test.sh asan
  scripts/test.sh release -R formats
END
}

preset=release
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  release | asan | debug | dev) preset="$1"; shift ;;
  '' | -*) ;;
  *) usage >&2; exit 2 ;;
esac
[ "$preset" = dev ] && more=libbenchmark-dev || more=""

say "Installing what is missing (up to a minute)"
# shellcheck disable=SC2086
install_missing $more

if [ $# -eq 0 ]; then
  say "Checking the format of the sources, the includes between folders, and NOTICE"
  "$ROOT/scripts/format.sh"
  python3 "$ROOT/scripts/check_includes.py"
  python3 "$ROOT/scripts/make_notice.py" --check
fi

say "Building the preset $preset with its tests (5 to 10 minutes the first time; log: build/logs/build-$preset.log)"
build "$preset" -DMETAL_MARLIN_BUILD_TESTS=ON

say "Running the tests (some minutes)"
log="$ROOT/build/logs/ctest-$preset.log"
status=0
ctest --test-dir "$ROOT/build/$preset" -j "$(processors)" --output-on-failure "$@" 2>&1 | tee "$log" || status=$?

# "97% tests passed, 3 tests failed out of 100"
summary="$(sed -n 's/.* tests passed, \([0-9]*\) tests failed out of \([0-9]*\).*/\1 \2/p' "$log" | tail -n 1)"
[ -n "$summary" ] || fail "ctest ended without a summary (status $status); see $log"
failed="${summary% *}"
total="${summary#* }"

# The Python package, with the release build alone and when no option picks out some tests.
if [ "$preset" = release ] && [ $# -eq 0 ]; then
  say "Installing the Python package into build/python-venv and running its tests (a minute; log: build/logs/python.log)"
  install_python "$preset"
  python_status=0
  (cd "$ROOT" && build/python-venv/bin/python -m pytest -q -p no:cacheprovider tests/test_awq.py tests/test_generate.py tests/test_gptq.py tests/test_mr_gptq.py tests/test_matrix.py tests/test_types.py --doctest-glob='*.md' docs/awq.md) 2>&1 |
    tee "$ROOT/build/logs/pytest.log" || python_status=$?
  # "2 failed, 57 passed, 1 skipped in 12.34s"
  python_passed="$(sed -n -E 's/.*\b([0-9]+) passed.* in .*/\1/p' "$ROOT/build/logs/pytest.log" | tail -n 1)"
  python_failed="$(sed -n -E 's/.*\b([0-9]+) (failed|errors?).* in .*/\1/p' "$ROOT/build/logs/pytest.log" | tail -n 1)"
  [ "$python_status" -eq 0 ] || status="$python_status"
  failed="$((failed + ${python_failed:-0}))"
  total="$((total + ${python_passed:-0} + ${python_failed:-0}))"
fi

# Hostile inputs, each under limits of time and memory.
if [ "$preset" = release ] && [ $# -eq 0 ]; then
  say "Attacking the release build (seconds)"
  attack_status=0
  "$ROOT/scripts/attack.sh" 2>&1 | tee "$ROOT/build/logs/attack.log" || attack_status=$?
  attack_passed="$(sed -n 's/^\([0-9]*\) passed, [0-9]* failed$/\1/p' "$ROOT/build/logs/attack.log" | tail -n 1)"
  attack_failed="$(sed -n 's/^[0-9]* passed, \([0-9]*\) failed$/\1/p' "$ROOT/build/logs/attack.log" | tail -n 1)"
  [ "$attack_status" -eq 0 ] || status="$attack_status"
  failed="$((failed + ${attack_failed:-0}))"
  total="$((total + ${attack_passed:-0} + ${attack_failed:-0}))"
fi

echo "$((total - failed)) passed, $failed failed"
[ "$total" -gt 0 ] || fail "No test was run."
[ "$failed" -eq 0 ] && [ "$status" -eq 0 ]
