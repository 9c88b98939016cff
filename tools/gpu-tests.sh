#!/usr/bin/env bash
# tools/gpu-tests.sh [FOLDER]
#
# Runs the tests of whole models on a CUDA device: batches, a long context, raw addresses and host slices, caches, exact
# activations, sampling, architectures, steps launch by launch, and the runtime alone. Each compares with the emulator,
# with its rows alone, or with equations; MONOMORPH_TEST_DEVICE is what makes them run there.
#
# With FOLDER it runs test programs that were built elsewhere (`batch` or `batch-0123456789abcdef`); no cargo is needed:
#
#   tools/gpu-tests.sh --build FOLDER      builds them and copies them to FOLDER
#   tools/gpu-tests.sh FOLDER              runs them
#
# Without, cargo builds and runs them.
#
#   MONOMORPH_TEST_DEVICE   the device                                  [default: cuda:0]
#   GPU_TESTS               names of the tests to run                   [default: all]
#   GPU_TEST_SECONDS        the most that one may take                  [default: 300]
#
# One line a test, then a summary. Exit 1 when a test fails, is not there, or finds no device.
set -euo pipefail
export MONOMORPH_TEST_DEVICE=${MONOMORPH_TEST_DEVICE:-cuda:0} REQUIRE_GPU=1
# The first tells whether there is a device at all.
read -ra names <<<"${GPU_TESTS:-devices api batch depth caches exact sampling stepwise variants}"
seconds=${GPU_TEST_SECONDS:-300}

package_of() {
  if [ "$1" = devices ]; then echo monomorph-runtime; else echo monomorph; fi
}

# built NAME: the path of its test program, made by cargo, which tells of the command line's too.
built() {
  cargo test --release -q -p "$(package_of "$1")" --test "$1" --no-run --message-format=json |
    grep '"kind":\["test"\]' | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

# found FOLDER NAME: the newest test program of that name.
found() {
  find "$1/" -maxdepth 1 -type f -perm -u+x \( -name "$2" -o -name "$2-[0-9a-f]*" \) -printf '%T@ %p\n' |
    sort -n | tail -n 1 | cut -d ' ' -f 2-
}

if [ "${1:-}" = --build ]; then
  folder=${2:?usage: tools/gpu-tests.sh --build FOLDER}
  mkdir -p "$folder"
  for name in "${names[@]}"; do
    program=$(built "$name")
    cp "$program" "$folder/$name"
    # Lines of the source are of no use there, and most of the bytes.
    if command -v strip >/dev/null; then strip --strip-debug "$folder/$name"; fi
    echo "$folder/$name"
  done
  exit 0
fi

folder=${1:-}
if [ -z "$folder" ] && ! command -v cargo >/dev/null; then
  echo "error: no cargo here; name a folder of test programs: tools/gpu-tests.sh FOLDER" >&2
  exit 1
fi
if [ -n "$folder" ] && [ ! -d "$folder" ]; then
  echo "error: $folder is no folder" >&2
  exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=() failed=()
for name in "${names[@]}"; do
  if [ -n "$folder" ]; then program=$(found "$folder" "$name"); else program=$(built "$name"); fi
  if [ -z "$program" ]; then
    echo "MISSING  $name: no test program in $folder"
    failed+=("$name")
    continue
  fi
  from=$SECONDS status=0
  timeout "$seconds" "$program" --nocapture --test-threads 1 >"$log" 2>&1 || status=$?
  result=$(grep '^test result:' "$log" | tail -n 1 || true)
  if [ "$status" -eq 0 ] && [ -n "$result" ]; then
    echo "ok       $name ($((SECONDS - from)) s): ${result#test result: }"
    passed+=("$name")
    continue
  fi
  if [ "$status" -eq 124 ]; then echo "FAILED   $name: not done after $seconds s"; else echo "FAILED   $name (status $status)"; fi
  sed 's/^/    /' "$log" | tail -n 40
  failed+=("$name")
  if grep -q 'REQUIRE_GPU is set' "$log"; then
    echo "error: $MONOMORPH_TEST_DEVICE is not there; the other tests need it too" >&2
    exit 1
  fi
done

echo
echo "on $MONOMORPH_TEST_DEVICE: ${#passed[@]} passed, ${#failed[@]} failed${failed[*]:+: ${failed[*]}}"
[ ${#failed[@]} -eq 0 ]
