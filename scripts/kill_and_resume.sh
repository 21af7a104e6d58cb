#!/usr/bin/env bash
# kill_and_resume.sh BINARY MODEL TEXT [KILLS] [quantize options]
# Quantizes MODEL once without and once with KILLS (10) kill -9 at random moments, each followed by the same command,
# and compares the bytes of all files but the reports. Exit 0: equal, and nothing left beside.
# With OLD="quantize options" in the environment, a result of these options stands in the folder first and is replaced
# with --overwrite. Then after each kill the folder must hold the old result or the new one, whole.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
binary=$1 model=$2 text=$3 kills=${4:-10}
shift $(($# < 4 ? $# : 4))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run() { "$binary" quantize "$model" -o "$1" --calibration "$text" --quiet "${@:2}" >"$work/log" 2>&1; }
sums() { (cd "$1" && find . -type f ! -name 'report.*' ! -path './.metal-marlin/*' | sort | xargs -r sha256sum); }

mkdir "$work/results"
start=$(date +%s%N)
run "$work/whole" "$@" || { cat "$work/log" >&2; exit 1; }
whole=$((($(date +%s%N) - start) / 1000000))
echo "uninterrupted: $whole ms"
sums "$work/whole" > "$work/sums"
cut=$work/results/cut
if [ -n "${OLD:-}" ]; then
  # shellcheck disable=SC2086
  run "$cut" $OLD
  sums "$cut" > "$work/old-sums"
  set -- "$@" --overwrite
fi
for i in $(seq "$kills"); do
  run "$cut" "$@" &
  pid=$!
  # Kill on average after 0.75 / KILLS of an uninterrupted run, and at most after a third of it, so that work is left
  # for the next kill. With an old result any moment of the run, to its end.
  sleep "$(awk -v r="$RANDOM" -v w="$whole" -v k="$kills" -v o="${OLD:+1}" \
    'BEGIN{f = 1.5 / k; if (f > 1 / 3) f = 1 / 3; if (o) f = 1.1; printf "%.3f", r / 32768 * f * w / 1000}')"
  pkill -9 -P "$pid" 2>/dev/null || true
  kill -9 "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  echo "kill $i: $(ls "$cut/.metal-marlin" 2>/dev/null | grep -c 'block-.*json$' || true) blocks finished"
  if [ -n "${OLD:-}" ]; then
    sums "$cut" > "$work/now"
    cmp -s "$work/now" "$work/old-sums" || cmp -s "$work/now" "$work/sums" \
      || { echo "kill $i: neither the old result nor the new one is whole" >&2; exit 1; }
  fi
done
run "$cut" "$@"
sums "$cut" | cmp - "$work/sums"
[ "$(find "$work/results" -mindepth 1 -maxdepth 1 | wc -l)" = 1 ] || { ls -A "$work/results" >&2; exit 1; }
[ ! -e "$cut/.metal-marlin" ]
echo "equal: $(wc -l < "$work/sums") files"
