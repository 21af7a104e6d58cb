#!/usr/bin/env bash
# Line coverage of src/ by all tests.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

usage() {
  cat << 'END'
Usage: scripts/coverage.sh [--check]

Builds with instrumentation, runs every test and prints the line coverage of each folder of src/.
--check: exit 1 when fewer than 93 % of the lines run.
END
}
check=no
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  --check) check=yes ;;
  '') ;;
  *) usage >&2; exit 2 ;;
esac

say "Installing what is missing (up to a minute)"
install_missing
say "Building with instrumentation (about 10 minutes the first time)"
build coverage
say "Running the tests"
find "$ROOT/build/coverage" -name '*.gcda' -delete
ctest --test-dir "$ROOT/build/coverage" -j "$(processors)" --output-on-failure > "$ROOT/build/logs/ctest-coverage.log" 2>&1 ||
  echo "Some tests fail; see build/logs/ctest-coverage.log"
say "Line coverage"
exec python3 "$ROOT/scripts/coverage.py" "$ROOT" "$ROOT/build/coverage" "$check"
