#!/usr/bin/env bash
# Proves that a change leaves every weight file as it was, byte for byte.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

usage() {
  cat << 'END'
Usage: scripts/golden_runs.sh [--base COMMIT | --base-program PROGRAM] [--only PATTERN] [--model MODEL] [--list]
       scripts/golden_runs.sh --portable [--update]

Runs quantize, convert and calibrate in some twenty ways (methods, schemes, formats, widths, mixed precision) on the
reference model and on a random one whose shapes the Marlin layout can hold, and prints the SHA-256 of every weight file.

--base COMMIT   does the same with a build of COMMIT and compares: exit code 0 when all sums are equal. Sums of a commit are
                kept under build/golden and not made again.
--base-program PROGRAM   compares with a metal-marlin that was built before
--only PATTERN  only the runs whose name matches this shell pattern, for example --only 'awq-*'
--model MODEL   another model than SmolLM2-135M-Instruct, which is downloaded as quickstart.sh does
--portable      forces every library to its AVX2 kernels, runs the set on the random model alone, and compares with the
                sums in tests/data/golden_runs.sums. They hold for Debian 12's libraries. --update writes that file.
--list          the names of the runs and their options

Bytes depend on the processor, so sums of --base are comparable only when made on one machine. The whole set takes about
10 minutes for each of the two trees on 2 cores.
END
}

base="" base_program="" only="*" model="" portable=no update=no list=no
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --base) base="${2:?--base needs a commit}"; shift ;;
    --base-program) base_program="${2:?--base-program needs a program}"; shift ;;
    --only) only="${2:?--only needs a pattern}"; shift ;;
    --model) model="${2:?--model needs a path}"; shift ;;
    --portable) portable=yes ;;
    --update) update=yes ;;
    --list) list=yes ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

# NAME | MODEL | options of quantize. MODEL is `reference` or `random`. The calibration text is the one built into the
# program.
runs() {
  cat << 'END'
rtn-sym          | reference | --method rtn --scheme sym --group-size 64 --format native,awq,gptq,gptq_v2
rtn-asym         | reference | --method rtn --scheme asym --group-size 64 --format native,awq,gptq,gptq_v2
rtn-row          | reference | --method rtn --scheme sym --group-size -1 --format native,gptq_v2
gptq-sym         | reference | --method gptq --scheme sym --group-size 64 --samples 16 --format native,awq,gptq,gptq_v2
gptq-asym-3bit   | reference | --method gptq --scheme asym --bits 3 --group-size 64 --samples 16 --format native,gptq_v2
gptq-8bit        | reference | --method gptq --scheme sym --bits 8 --group-size 64 --samples 16 --format native,gptq
awq-sym          | reference | --method awq --scheme sym --group-size 64 --samples 16 --format native,awq,gptq,gptq_v2
awq-asym         | reference | --method awq --scheme asym --group-size 32 --samples 16 --format native,awq,gptq,gptq_v2
awq-fast         | reference | --method awq --effort fast --scheme sym --group-size 64 --samples 16 --format native
awq-self         | reference | --method awq --effort fast --calibration self --samples 4 --sequence-length 128 --group-size 64 --format native
awq-paper-sym    | reference | --method awq-paper --scheme sym --group-size 64 --samples 16 --format native
awq-paper-asym   | reference | --method awq-paper --scheme asym --group-size 64 --samples 16 --format awq
awq-salient      | reference | --method awq-salient --scheme asym --group-size 64 --samples 16 --format native
mixed            | reference | --method awq --scheme sym --group-size 64 --samples 16 --target-bits 4.5 --sensitivity-tokens 1024 --format native,gptq_v2
by-hand          | reference | --method gptq --samples 16 --group-size 64 --linear-bits *.down_proj.*=8 --linear-bits *.v_proj.*=16 --format native,gptq_v2
random-rtn       | random    | --method rtn --scheme sym --group-size 128 --format native,awq,gptq,gptq_v2,marlin
random-gptq      | random    | --method gptq --scheme asym --group-size 32 --samples 16 --sequence-length 64 --format native,awq,gptq,gptq_v2
random-awq-sym   | random    | --method awq --scheme sym --group-size 128 --samples 16 --sequence-length 64 --format native,awq,gptq,gptq_v2,marlin
random-awq-asym  | random    | --method awq --scheme asym --group-size 32 --samples 16 --sequence-length 64 --format native,awq
random-paper     | random    | --method awq-paper --scheme asym --group-size 64 --samples 16 --sequence-length 64 --format awq
random-salient   | random    | --method awq-salient --scheme sym --group-size 64 --samples 16 --sequence-length 64 --format native
random-mixed     | random    | --method awq --scheme sym --group-size 64 --samples 16 --sequence-length 64 --target-bits 5 --sensitivity-tokens 512 --format native,gptq_v2
END
}
if [ "$list" = yes ]; then runs; exit 0; fi

golden="$ROOT/build/golden"
mkdir -p "$golden"

random_model() {
  [ -f "$golden/random/model.safetensors" ] || python3 "$ROOT/scripts/make_small_model.py" "$golden/random"
  echo "$golden/random"
}

# run_all PROGRAM SUMS: one line "SHA-256  RUN/FILE" for each weight file.
run_all() {
  local program="$1" sums="$2" work name which options source
  work="$(mktemp -d "$golden/work.XXXXXX")"
  : > "$sums.part"
  # The native layout names the program's version in its header: that alone may differ.
  add() {
    local file
    while IFS= read -r file; do
      printf '%s  %s\n' "$(LC_ALL=C sed 's/metal-marlin [0-9]*\.[0-9]*\.[0-9]*/metal-marlin/' "$work/$file" | sha256sum | cut -c1-64)" "$file"
    done < <(cd "$work" && find "$1" -type f \( -name '*.safetensors' -o -name '*.npz' \) ! -path '*/.metal-marlin/*' | LC_ALL=C sort) >> "$sums.part"
    rm -rf "${work:?}/$1"
  }
  attempt() { "$@" > "$work/log" 2>&1 || { cat "$work/log" >&2; fail "failed: $*"; }; }
  while IFS='|' read -r name which options; do
    name="${name// /}" which="${which// /}"
    # shellcheck disable=SC2254
    case "$name" in $only) ;; *) continue ;; esac
    if [ "$which" = random ]; then
      source="$(random_model)"
    else
      [ "$portable" = no ] || continue
      source="$model"
    fi
    case "$options" in *--calibration*) ;; *) options="$options --calibration builtin" ;; esac
    set -f
    # shellcheck disable=SC2086  # a list of words
    attempt "$program" quantize "$source" -o "$work/$name" --evaluate none --quiet $options
    set +f
    # What convert makes of the same codes.
    if [ "$name" = random-awq-sym ]; then
      attempt "$program" convert "$work/$name/marlin" -o "$work/convert-native" --to native --quiet
      attempt "$program" convert "$work/convert-native" -o "$work/convert-gptq" --to gptq --quiet
      attempt "$program" convert "$work/convert-gptq" -o "$work/convert-awq" --to awq --quiet
      mkdir -p "$work/statistics"
      attempt "$program" calibrate "$source" -o "$work/statistics/random.npz" --calibration builtin --samples 16 --sequence-length 64 --quiet
      for part in convert-native convert-gptq convert-awq statistics; do add "$part"; done
    fi
    add "$name"
    echo "  $name" >&2
  done < <(runs)
  rm -rf "$work"
  [ -s "$sums.part" ] || fail "No run has a name like '$only'; see --list."
  mv "$sums.part" "$sums"
}

say "Building" >&2
install_missing >&2
tests=()
[ -f "$ROOT/build/release/CMakeCache.txt" ] || tests=(-DMETAL_MARLIN_BUILD_TESTS=OFF)
build release ${tests[@]+"${tests[@]}"} -- metal-marlin >&2
program="$ROOT/build/release/bin/metal-marlin"

if [ "$portable" = yes ]; then
  [ "$(uname -m)" = x86_64 ] || fail "The committed sums are of x86-64 processors."
  export METAL_MARLIN_ISA=avx2 OPENBLAS_CORETYPE=Haswell DNNL_MAX_CPU_ISA=AVX2
  run_all "$program" "$golden/portable.sums"
  if [ "$update" = yes ]; then
    cp "$golden/portable.sums" "$ROOT/tests/data/golden_runs.sums"
    echo "written: tests/data/golden_runs.sums"
    exit 0
  fi
  diff "$ROOT/tests/data/golden_runs.sums" "$golden/portable.sums" || fail "The sums differ from tests/data/golden_runs.sums."
  echo "equal: $(wc -l < "$golden/portable.sums") files"
  exit 0
fi

[ -n "$model" ] || model="$(default_model)"
this_tree() {
  say "Runs of this tree" >&2
  run_all "$program" "$golden/here.sums"
}
if [ -n "$base_program" ]; then
  this_tree
  say "Runs of $base_program" >&2
  run_all "$base_program" "$golden/program.sums"
  diff "$golden/program.sums" "$golden/here.sums" || fail "Not equal: lines with < are of $base_program."
  echo "equal: $(wc -l < "$golden/here.sums") weight files of this tree and of $base_program"
  exit 0
fi
if [ -z "$base" ]; then
  this_tree
  cat "$golden/here.sums"
  exit 0
fi

commit="$(git -C "$ROOT" rev-parse --verify "$base^{commit}")"
kept="$golden/$commit-$(printf '%s|%s|%s' "$(runs)" "$only" "$model" | sha256sum | cut -c1-16).sums"
if [ ! -s "$kept" ]; then
  say "Building $base" >&2
  tree="$golden/base"
  git -C "$ROOT" worktree remove --force "$tree" 2> /dev/null || true
  git -C "$ROOT" worktree prune
  git -C "$ROOT" worktree add --detach "$tree" "$commit" > /dev/null 2>&1 || fail "No worktree of $base could be made in $tree."
  (cd "$tree" && cmake --preset release -DMETAL_MARLIN_BUILD_TESTS=OFF -DMM_TOKENIZER_TARGET="$golden/tokenizer_c" &&
    cmake --build build/release -j "$(processors)" --target metal-marlin) > "$ROOT/build/logs/golden-base.log" 2>&1 ||
    fail "The build of $base failed: see build/logs/golden-base.log"
  say "Runs of $base" >&2
  run_all "$tree/build/release/bin/metal-marlin" "$kept"
  git -C "$ROOT" worktree remove --force "$tree"
fi
this_tree
diff "$kept" "$golden/here.sums" || fail "Not equal: lines with < are of $base, those with > of this tree."
echo "equal: $(wc -l < "$kept") weight files of this tree and of $base"
