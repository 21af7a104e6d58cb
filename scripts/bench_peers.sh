#!/usr/bin/env bash
# bench_peers.sh [--rounds N] [--threads 1,2] [PART...]
# How fast 4-bit models run beside llama.cpp, and 4-bit products beside ggml's and OpenVINO's, on this machine: every figure is
# the median of N rounds (default 5) in which all take turns, and a ratio above 1 means that this program is faster. Parts:
#   model     the default model, our symmetric groups of 64 and 32 against Q4_0 with a head in Q8_0: prompt of 512 tokens, 128 generated
#   busy      the same beside a process that keeps one processor busy
#   depth     the same with 3,840 tokens in the cache
#   avx2      the same, both without what is newer than AVX2
#   shape     a random Llama of 1.5 G weights
#   start     time from process start to the first token, and the largest resident memory
#   products  one matrix of 4096 x 4096, weights from memory: 1, 8 and 512 rows
# Default: all. It is no part of the tests: the peers take 15 minutes to build and 1 GB.
#   PEERS_DIR   where the peers are or will be set up (default: build/peers)
#   WORK        models, kept for the next time        (default: build/bench-peers)
#   PROGRAM     metal-marlin                          (default: build/release/bin/metal-marlin)
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$ROOT/scripts/setup.sh"
export PEERS_DIR="${PEERS_DIR:-$ROOT/build/peers}"
PROGRAM="${PROGRAM:-$ROOT/build/release/bin/metal-marlin}"
WORK="${WORK:-$ROOT/build/bench-peers}"
rounds=5 threads=1,2
while [ $# -gt 0 ]; do
  case "$1" in
    --rounds) rounds="${2:-}"; shift 2 || exit 2 ;;
    --threads) threads="${2:-}"; shift 2 || exit 2 ;;
    -*) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || set -- model busy depth avx2 shape start products
for part in "$@"; do
  case "$part" in
    model | busy | depth | avx2 | shape | start | products) ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
command -v "$PROGRAM" > /dev/null || fail "No program $PROGRAM: build it (scripts/quickstart.sh), or name it by PROGRAM."

peers=(llama)
case " $* " in *" avx2 "*) peers+=(llama-avx2) ;; esac
case " $* " in *" shape "*) peers+=(gguf) ;; esac
case " $* " in *" products "*) peers+=(ggml openvino) ;; esac
bash "$ROOT/scripts/peers/setup_peers.sh" "${peers[@]}" >&2
bench=""
case " $* " in
  *" products "*)
    install_missing libbenchmark-dev
    (cd "$ROOT" && cmake --preset release -B build/bench -DMETAL_MARLIN_BUILD_BENCH=ON -DMETAL_MARLIN_BUILD_TESTS=OFF \
      -DMM_TOKENIZER_TARGET="$ROOT/build/release/tokenizer_c") > "$ROOT/build/logs/configure-bench.log"
    cmake --build "$ROOT/build/bench" --target weight_matrix_bench > "$ROOT/build/logs/build-bench.log"
    bench="$ROOT/build/bench/bin/weight_matrix_bench"
    ;;
esac
exec python3 "$ROOT/scripts/peers/bench.py" --program "$PROGRAM" --model "$(default_model)" --peers "$PEERS_DIR" --work "$WORK" \
  --rounds "$rounds" --threads "$threads" --bench "$bench" "$@"
