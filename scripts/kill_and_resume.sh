#!/usr/bin/env bash
# Kills quantize with SIGKILL at random moments, starts the same command again, and compares the bytes.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

usage() {
  cat << 'END_OF_USAGE'
Usage: scripts/kill_and_resume.sh [--kills N] [--only PATTERN] [--model MODEL] [--text TEXT] [--program PROGRAM]
                                  [-- QUANTIZE OPTIONS]

Runs each case (a method with its formats) once to its end. Then runs it again and again into one folder, each time ended by
SIGKILL at a random moment, at last to its end, and compares the SHA-256 of every file but the reports. In the cases named
"replace-..." the folder holds a result of other options first, which --overwrite replaces: after every kill the folder must hold
the old result or the new one, whole. Nothing may be left beside the result.

--kills N       the number of kills over all cases (default 100); a case takes them in rounds of at most 8
--only PATTERN  only the cases whose name matches this shell pattern
--model MODEL   default: a random Llama of six blocks, made by scripts/make_small_model.py
--text TEXT     the calibration text (default: builtin)
--program P     another program than build/release/bin/metal-marlin, which is built first
-- OPTIONS      one case with these options of quantize, instead of those of the list

Exit code: 0 when all bytes are equal.
END_OF_USAGE
}
kills=100 only='*' model= text=builtin program=
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --kills) kills="$2"; shift 2 ;;
    --only) only="$2"; shift 2 ;;
    --model) model="$2"; shift 2 ;;
    --text) text="$2"; shift 2 ;;
    --program) program="$2"; shift 2 ;;
    --) break ;;
    *) usage >&2; exit 2 ;;
  esac
done

cases() {
  if [ "${own[0]-}" ]; then
    echo "given | ${own[*]}"
    return
  fi
  cat << 'END'
rtn             | --method rtn --scheme sym --group-size 128 --format native,awq,gptq,gptq_v2,marlin
gptq            | --method gptq --scheme asym --group-size 32 --format native,awq,gptq,gptq_v2
awq             | --method awq --scheme sym --group-size 128 --format native,awq,gptq,gptq_v2,marlin
awq-asym        | --method awq --scheme asym --group-size 64 --format awq
awq-fast        | --method awq --effort fast --scheme sym --group-size 64 --format native
awq-paper       | --method awq-paper --scheme asym --group-size 64 --format awq,gptq
awq-salient     | --method awq-salient --scheme sym --group-size 64 --format native
awq-self        | --method awq --effort fast --calibration self --scheme sym --group-size 64 --format native
mixed           | --method awq --scheme sym --group-size 64 --target-bits 5 --sensitivity-tokens 512 --format native,gptq_v2
replace-awq     | --method awq --scheme sym --group-size 64 --format native,gptq
replace-gptq    | --method gptq --scheme asym --group-size 64 --format awq
END
}
own=()
if [ "${1-}" = -- ]; then own=("${@:2}"); fi

if [ -z "$program" ]; then
  say "Building"
  install_missing
  build release -- metal-marlin
  program="$ROOT/build/release/bin/metal-marlin"
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
[ -n "$model" ] || { python3 "$ROOT/scripts/make_small_model.py" "$work/model" --layers 6; model="$work/model"; }

# run OUT OPTIONS...
run() {
  case " ${*:2} " in
    *" --calibration "*) "$program" quantize "$model" -o "$1" --quiet "${@:2}" ;;
    *) "$program" quantize "$model" -o "$1" --quiet --calibration "$text" "${@:2}" ;;
  esac > "$work/log" 2>&1
}
sums() { (cd "$1" && find . -type f ! -name 'report.*' ! -path './.metal-marlin/*' | LC_ALL=C sort | xargs -r sha256sum); }
whole_run() { run "$@" || { cat "$work/log" >&2; fail "failed: quantize ${*:2}"; }; }

# round NAME KILLS MILLISECONDS OPTIONS...: kills, ends, compares.
round() {
  local name="$1" number="$2" whole="$3" cut="$work/results/cut" pid share left old=() i
  shift 3
  rm -rf "$work/results"
  mkdir "$work/results"
  if [[ $name = replace-* ]]; then
    old=(--overwrite)
    whole_run "$cut" --method rtn --scheme asym --group-size 32 --format native "${cheap[@]}"
    sums "$cut" > "$work/old-sums"
  fi
  for ((i = 0; i < number; i++)); do
    run "$cut" "$@" ${old[@]+"${old[@]}"} &
    pid=$!
    # On average after 0.75 / NUMBER of a whole run, and at most after a third of it, so that work is left for the next kill.
    # Where an old result stands, at any moment of the run to its end.
    share="$(awk -v r="$RANDOM" -v n="$number" -v o="${#old[@]}" \
      'BEGIN { f = 1.5 / n; if (f > 1 / 3) f = 1 / 3; if (o) f = 1.1; printf "%.5f", r / 32768 * f }')"
    # Some 60 ms pass before the first block is begun: without them most kills of a small model would hit only the start.
    sleep "$(awk -v s="$share" -v w="$whole" -v r="$RANDOM" 'BEGIN { printf "%.3f", (s * w + r / 32768 * 120) / 1000 }')"
    pkill -9 -P "$pid" 2> /dev/null || true
    kill -9 "$pid" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
    left="$({ find "$cut/.metal-marlin" -name 'block-*json' 2> /dev/null || true; } | wc -l)"
    blocks[left]=$((${blocks[left]-0} + 1))
    if [ ${#old[@]} -gt 0 ]; then
      sums "$cut" > "$work/now"
      cmp -s "$work/now" "$work/old-sums" || cmp -s "$work/now" "$work/sums" ||
        fail "$name: after a kill neither the old result nor the new one is whole."
    fi
  done
  whole_run "$cut" "$@" ${old[@]+"${old[@]}"}
  sums "$cut" | cmp - "$work/sums" || fail "$name: the bytes differ."
  [ "$(find "$work/results" -mindepth 1 -maxdepth 1 | wc -l)" = 1 ] || { ls -A "$work/results" >&2; fail "$name: something is left beside."; }
  [ ! -e "$cut/.metal-marlin" ] || fail "$name: the journal is left in the result."
}

cheap=()
[ ${#own[@]} -gt 0 ] || cheap=(--samples 16 --sequence-length 64 --evaluate none)
names=() options=()
while IFS='|' read -r name words; do
  name="${name// /}"
  # shellcheck disable=SC2254
  case "$name" in $only) names+=("$name"); options+=("$words") ;; esac
done < <(cases)
[ ${#names[@]} -gt 0 ] || fail "No case has a name like '$only'."
done_kills=0
for ((c = 0; c < ${#names[@]}; c++)); do
  # The first cases take what does not divide.
  mine=$((kills / ${#names[@]} + (c < kills % ${#names[@]} ? 1 : 0)))
  read -r -a words <<< "${options[c]}"
  words+=(${cheap[@]+"${cheap[@]}"})
  rm -rf "$work/whole"
  start=$(date +%s%N)
  whole_run "$work/whole" "${words[@]}"
  whole=$((($(date +%s%N) - start) / 1000000))
  sums "$work/whole" > "$work/sums"
  blocks=()
  remaining=$mine
  while [ "$remaining" -gt 0 ]; do
    now=$((remaining < 8 ? remaining : 8))
    round "${names[c]}" "$now" "$whole" "${words[@]}"
    remaining=$((remaining - now))
  done
  done_kills=$((done_kills + mine))
  spread=""
  for i in "${!blocks[@]}"; do spread="$spread $i:${blocks[i]}"; done
  printf '%-14s %4d kills, %2d files equal, %5d ms uninterrupted; blocks finished at a kill:%s\n' \
    "${names[c]}" "$mine" "$(wc -l < "$work/sums")" "$whole" "$spread"
done
echo "equal after $done_kills kills"
