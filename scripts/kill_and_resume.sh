#!/usr/bin/env bash
# kill_and_resume.sh BINARY MODEL TEXT [KILLS] [quantize options]
# Quantizes MODEL once without and once with KILLS (10) kill -9 at random moments, each followed by the same command,
# and compares the bytes of all files but the reports. Exit 0: equal.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
binary=$1 model=$2 text=$3 kills=${4:-10}
shift $(($# < 4 ? $# : 4))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive
run() { "$binary" quantize "$model" -o "$1" --calibration "$text" --quiet "${@:2}" >"$work/log" 2>&1; }

start=$(date +%s%N)
run "$work/whole" "$@"
whole=$((($(date +%s%N) - start) / 1000000))
echo "uninterrupted: $whole ms"
for i in $(seq "$kills"); do
  run "$work/cut" "$@" &
  pid=$!
  # Kill on average after 0.75 / KILLS of an uninterrupted run, and at most after a third of it, so that work is left
  # for the next kill.
  sleep "$(awk -v r="$RANDOM" -v w="$whole" -v k="$kills" 'BEGIN{f = 1.5 / k; if (f > 1 / 3) f = 1 / 3; printf "%.3f", r / 32768 * f * w / 1000}')"
  pkill -9 -P "$pid" 2>/dev/null || true
  kill -9 "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  echo "kill $i: $(ls "$work/cut/.metal-marlin" 2>/dev/null | grep -c 'block-.*json$' || true) blocks finished"
done
run "$work/cut" "$@"
cd "$work/whole"
find . -type f ! -name 'report.*' | sort | xargs sha256sum > "$work/sums"
(cd "$work/cut" && sha256sum --quiet -c "$work/sums" && [ "$(find . -type f ! -name 'report.*' | wc -l)" = "$(wc -l < "$work/sums")" ])
echo "equal: $(wc -l < "$work/sums") files"
