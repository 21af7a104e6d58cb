#!/usr/bin/env bash
# compare_peers.sh MODEL CALIBRATION TEXT [ours|gptqmodel|llmcompressor|autoround|llama ...]        (default: all)
# Quantizes MODEL (a folder in Hugging Face layout) with this program and with the peers, on the first sequences of CALIBRATION and
# on the same grid (4 bits, groups of 64; llama.cpp: its own, of 32). Evaluates all results on TEXT with one program, from
# dequantized weights. Prints the table of docs/accuracy.md and draws the curve to WORK/kl_against_cpu.svg. Peers that would take
# hours get fewer sequences; the table says how many. It is not part of the tests, because a peer takes up to 6 GB.
#   PEERS_DIR           where the peers are or will be set up      (default: build/peers)
#   WORK                results; those that are there are used again, so take one folder for each MODEL, CALIBRATION and TEXT
#                                                                  (default: build/compare-peers)
#   SAMPLES, CHUNKS     calibration sequences of 512 tokens, chunks of 1024 tokens to evaluate (default: 128, 32)
#   PROGRAM             metal-marlin                               (default: build/release/bin/metal-marlin)
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ $# -ge 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
MODEL="$1"; CALIBRATION="$2"; TEXT="$3"; shift 3
[ $# -gt 0 ] || set -- ours gptqmodel llmcompressor autoround llama
TOOLS="$ROOT/scripts/peers"
export PEERS_DIR="${PEERS_DIR:-$ROOT/build/peers}"
PROGRAM="${PROGRAM:-$ROOT/build/release/bin/metal-marlin}"
command -v "$PROGRAM" >/dev/null || { echo "compare_peers.sh: no program $PROGRAM: build it (scripts/setup.sh), or name it by PROGRAM" >&2; exit 1; }
for file in "$MODEL/config.json" "$CALIBRATION" "$TEXT"; do
  [ -e "$file" ] || { echo "compare_peers.sh: no such file: $file" >&2; exit 1; }
done
peers=(eval)
for peer in "$@"; do
  case "$peer" in
    ours) ;;
    gptqmodel|llmcompressor|autoround|llama) peers+=("$peer");;
    *) echo "compare_peers.sh: expected ours, gptqmodel, llmcompressor, autoround or llama, found $peer" >&2; exit 2;;
  esac
done
bash "$TOOLS/setup_peers.sh" "${peers[@]}" >&2
exec python3 "$ROOT/scripts/peers/compare.py" --model "$MODEL" --calibration "$CALIBRATION" --text "$TEXT" --tools "$TOOLS" --peers "$PEERS_DIR" \
  --work "${WORK:-$ROOT/build/compare-peers}" --samples "${SAMPLES:-128}" --chunks "${CHUNKS:-32}" \
  --program "$(command -v "$PROGRAM")" "$@"
