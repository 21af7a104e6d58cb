#!/usr/bin/env bash
# Builds the folders platform, core, formats, kernels and pack for 64-bit ARM on an x86-64 Debian 12 and runs their tests
# in qemu: on a processor with plain NEON, with dot products, and with matrix products of bytes. Whether the kernels are
# fast is not tested: that takes such a machine.
#
#   scripts/test_aarch64.sh
#
# The cross compiler and qemu are installed by apt (root or sudo); the arm64 libraries are unpacked into
# build/aarch64-sysroot and touch nothing of the system. Lists and packages come from the machine's own apt sources.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

SYSROOT="$ROOT/build/aarch64-sysroot"
ARM_PACKAGES="libc6-dev libstdc++-12-dev libgomp1 libdnnl-dev ocl-icd-opencl-dev libopenblas-openmp-dev libhwy-dev libfmt-dev
  nlohmann-json3-dev libzip-dev libgtest-dev libxxhash-dev"

make_sysroot() {
  local stamp apt="$ROOT/build/aarch64-apt" log="$LOG_FOLDER/aarch64-sysroot.log" file
  stamp="$SYSROOT/made-of-$(printf '%s' "$ARM_PACKAGES" | cksum | cut -d ' ' -f 1)"
  [ -f "$stamp" ] && return 0
  command -v apt-get > /dev/null || fail "The arm64 libraries are fetched by apt-get, which this system lacks."
  rm -rf "$SYSROOT" "$apt"
  mkdir -p "$SYSROOT" "$apt/lists/partial" "$apt/archives/partial"
  : > "$apt/status"
  # apt with a state of its own, in which nothing is installed yet: it fetches all that the packages need.
  local options=(-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State=$apt" -o "Dir::State::Lists=$apt/lists"
    -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt" -o "Dir::Cache::archives=$apt/archives" -o Debug::NoLocking=1
    -o "APT::Sandbox::User=$(id -un)")
  # shellcheck disable=SC2086  # a list of words
  { apt-get -q "${options[@]}" update && \
    apt-get -q -y --no-install-recommends --download-only "${options[@]}" install $ARM_PACKAGES; } > "$log" 2>&1 ||
    fail "The arm64 packages could not be fetched; the end of $log:
$(tail -n 5 "$log")"
  for file in "$apt"/archives/*.deb; do dpkg-deb --extract "$file" "$SYSROOT"; done
  # Installing a package would choose between the flavours of OpenBLAS.
  for file in "$SYSROOT"/usr/lib/aarch64-linux-gnu/openblas-openmp/lib* "$SYSROOT"/usr/include/aarch64-linux-gnu/openblas-openmp/*.h; do
    ln -sf "openblas-openmp/$(basename "$file")" "$(dirname "$file")/../$(basename "$file")"
  done
  rm -rf "$apt"
  touch "$stamp"
}

# run_tests PROCESSOR WHAT PROGRAM [arguments...]
run_tests() {
  local processor="$1" program="$3" log="$ROOT/build/logs/aarch64-$3-$1.log"
  printf '%-16s %-44s %-16s' "$processor" "$2" "$program"
  shift 3
  if ! OMP_WAIT_POLICY=passive qemu-aarch64 -cpu "$processor" -L "$SYSROOT" "$ROOT/build/aarch64/bin/$program" "$@" > "$log" 2>&1; then
    echo "FAILED"
    fail "$(grep -E '^\[  FAILED|Failure|error' "$log" | head -n 20)
All of it: $log"
  fi
  sed -n 's/^\[  PASSED  \] //p' "$log"
}

# What these folders need of this machine; there is no Rust among it.
APT_PACKAGES="g++-aarch64-linux-gnu qemu-user cmake ninja-build pkg-config ccache ca-certificates"
rust_is_new_enough() { true; }

say "Packages"
install_missing
say "Libraries for arm64, in build/aarch64-sysroot (fetched once, 33 MB)"
make_sysroot
say "Build for arm64, in build/aarch64"
build aarch64 -- platform_tests core_tests formats_tests kernels_tests pack_tests
say "Tests in $(qemu-aarch64 --version | head -n 1)"
# What depends on the processor: every row of the tables that it has, against the plain loops and float64.
kernels='WeightMatrix*:CodeKernels*:*KernelsTest*:*KvAttention*:Dispatch*:AccumulateStats*'
run_tests cortex-a72 "NEON" kernels_tests "--gtest_filter=$kernels"
run_tests neoverse-n1 "NEON, dot products" kernels_tests "--gtest_filter=$kernels"
# Not in an emulator: tests that start this program anew as one of the machine's own, a rate of a billion operations a
# second, and new threads in the child of a process with threads, at which qemu aborts.
run_tests max "NEON, dot products, matrix products" kernels_tests '--gtest_filter=-BlasKernels.*:Gemm.RateIsMeasured'
run_tests max "everything" core_tests --gtest_filter=-ParallelFor.RunsInTheChildOfAFork
for program in platform_tests formats_tests pack_tests; do run_tests max "everything" "$program"; done
echo "Left out, since qemu cannot run them: BlasKernels.*, Gemm.RateIsMeasured, ParallelFor.RunsInTheChildOfAFork."
echo "All passed. In an emulator: no speed was measured."
