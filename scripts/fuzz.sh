#!/usr/bin/env bash
# Builds the fuzzers and runs each on seeds made by a script. What they assert: fuzz/README.md.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

TARGETS="json safetensors gguf npz unpack layouts instruction_sets config gguf_model sentencepiece tokenizer chat_template jsonl statistics journal report"

usage() {
  cat << END
Usage: scripts/fuzz.sh [--seconds N] [--quick] [TARGET...]

Installs clang 16 where it is missing, builds the preset fuzz, makes seeds, and runs each target for N seconds (default 5), as
many at once as there are processors. Prints executions, executions per second and edges of each, and 'N passed, N failed'. Exit code 1
where one finds something; its input is kept in build/fuzz/findings. Inputs that reach new code are kept in build/fuzz/corpus for the next run.
--quick compiles without optimization: half the time to build, a fraction of the executions.

Targets: $TARGETS
END
}

seconds=5
options=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --seconds) seconds="${2:-}"; shift 2 || { usage >&2; exit 2; } ;;
    --quick) options+=(-DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-g1 -DMETAL_MARLIN_PRECOMPILED_HEADERS=ON); shift ;;
    -*) usage >&2; exit 2 ;;
    *) break ;;
  esac
done
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || { usage >&2; exit 2; }
[ $# -gt 0 ] || set -- $TARGETS
for target in "$@"; do
  case " $TARGETS " in *" $target "*) ;; *) usage >&2; exit 2 ;; esac
done

say "Installing what is missing (up to a minute)"
install_missing clang-16 libclang-rt-16-dev

# The Rust library is the same as in the release build; it is not instrumented.
[ -d "$ROOT/build/release/tokenizer_c" ] && options+=("-DMM_TOKENIZER_TARGET=$ROOT/build/release/tokenizer_c")
say "Building the fuzzers (some minutes the first time; log: build/logs/build-fuzz.log)"
build fuzz ${options[@]+"${options[@]}"} -- "${@/%/_fuzz}"

work="$ROOT/build/fuzz"
python3 "$ROOT/scripts/make_fuzz_seeds.py" "$work/seeds" "$@"
mkdir -p "$work/findings" "$work/logs"
scratch="$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" metal-marlin-fuzz.XXXXXX)"
trap 'rm -rf "$scratch"' EXIT

# fuzz TARGET: the exit code of the fuzzer goes to logs/TARGET.status.
fuzz() {
  local target="$1" words=()
  mkdir -p "$work/corpus/$target"
  [ -s "$work/seeds/$target.dict" ] && words=("-dict=$work/seeds/$target.dict")
  local status=0
  TMPDIR="$scratch" OMP_NUM_THREADS=1 ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_stack_use_after_return=0" \
    "$work/bin/${target}_fuzz" "$work/corpus/$target" "$work/seeds/$target" ${words[@]+"${words[@]}"} \
    -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$work/findings/$target-" > "$work/logs/$target.log" 2>&1 || status=$?
  echo "$status" > "$work/logs/$target.status"
}

say "Fuzzing $# targets, $seconds s each"
running=0
for target in "$@"; do
  if [ "$running" -ge "$(processors)" ]; then
    wait -n
    running=$((running - 1))
  fi
  fuzz "$target" &
  running=$((running + 1))
done
wait

passed=0
failed=0
printf '%-18s %12s %10s %8s\n' target executions 'per s' edges
for target in "$@"; do
  log="$work/logs/$target.log"
  executions="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
  rate="$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")"
  edges="$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)"
  printf '%-18s %12s %10s %8s\n' "$target" "${executions:-none}" "${rate:-}" "${edges:-}"
  if [ "$(cat "$work/logs/$target.status")" != 0 ] || [ -z "$executions" ]; then
    failed=$((failed + 1))
    echo "  a finding; from ${log#"$ROOT/"}:"
    grep -E 'broken promise|ERROR:|runtime error|SUMMARY|Test unit written' "$log" | head -n 8 | sed 's/^/  /' || tail -n 3 "$log"
  else
    passed=$((passed + 1))
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
