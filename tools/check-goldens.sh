#!/usr/bin/env bash
# tools/check-goldens.sh PTXAS [GENERATED]
#
# Assembles every golden .ptx of GENERATED (default: generated) for the target its own `.target` line names, and fails
# on an error, on a spilled register, and on an entry that ptxas gave no figures for. One line a file on stdout.
# The tensor-core kernels (gemm_*) may spill a little where their lock file pins it: at most most_spilled bytes a thread.
# Registers and shared bytes are compared with the lock files by the Rust tests.
set -euo pipefail
export most_spilled=256

# check_one PTXAS FILE
check_one() {
  local ptxas=$1 file=$2 target log entries reported spilled most entry pinned
  target=$(sed -n 's/^[[:space:]]*\.target[[:space:]]*\(sm_[0-9a-z]*\).*/\1/p' "$file" | head -n 1)
  if [ -z "$target" ]; then
    echo "error: $file has no .target line" >&2
    return 1
  fi
  log=$(mktemp)
  if ! "$ptxas" -v --gpu-name="$target" --output-file="$log.cubin" "$file" >"$log" 2>&1; then
    echo "error: ptxas rejects $file for $target:" >&2
    sed 's/^/  /' "$log" >&2
    rm -f "$log" "$log.cubin"
    return 1
  fi
  entries=$(grep -cE '^[[:space:]]*(\.visible[[:space:]]+)?\.entry[[:space:]]' "$file" || true)
  reported=$(grep -cE 'bytes spill stores, [0-9]+ bytes spill loads' "$log" || true)
  spilled=$(grep -cE '[1-9][0-9]* bytes spill (stores|loads)' "$log" || true)
  most=$(sed -nE 's/.*Used ([0-9]+) registers.*/\1/p' "$log" | sort -n | tail -n 1)
  if [ "$entries" -eq 0 ] || [ "$entries" -ne "$reported" ]; then
    echo "error: $file has $entries entries, ptxas reports on $reported" >&2
    rm -f "$log" "$log.cubin"
    return 1
  fi
  entry=$(basename "$file" .ptx)
  pinned=0
  if [[ $entry == gemm_* && -f $(dirname "$file")/kernels.lock ]]; then
    pinned=$(awk -v entry="$entry" '$1 == entry { print $3 }' "$(dirname "$file")/kernels.lock")
    [[ $pinned =~ ^[0-9]+$ ]] || pinned=0
  fi
  if [ "$spilled" -ne 0 ] && { [ "$pinned" -eq 0 ] || [ "$pinned" -gt "$most_spilled" ]; }; then
    echo "error: $spilled of $entries entries of $file spill on $target:" >&2
    grep -B1 -E '[1-9][0-9]* bytes spill (stores|loads)' "$log" | sed 's/^/  /' >&2
    rm -f "$log" "$log.cubin"
    return 1
  fi
  rm -f "$log" "$log.cubin"
  echo "$file: $target, entries $entries, spilled bytes $pinned, most registers ${most:-?}"
}
export -f check_one

ptxas=${1:?usage: tools/check-goldens.sh PTXAS [GENERATED]}
generated=${2:-generated}
[ -x "$ptxas" ] || { echo "error: $ptxas is not an executable file" >&2; exit 1; }
n=$(find "$generated" -name '*.ptx' | wc -l)
[ "$n" -gt 0 ] || { echo "error: no .ptx under $generated" >&2; exit 1; }
# shellcheck disable=SC2016 # the inner bash expands them
find "$generated" -name '*.ptx' -print0 | sort -z |
  xargs -0 -n 1 -P "$(nproc)" bash -c 'check_one "$0" "$1" || exit 1' "$ptxas" ||
  { echo "error: not every golden assembles without spills that are not pinned" >&2; exit 1; }
echo "$n files assembled, no spills but those that are pinned"
