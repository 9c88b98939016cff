#!/usr/bin/env bash
# tools/fetch-ptxas.sh [DIR] [ptxas|nvdisasm|cuobjdump]...
#
# Installs NVIDIA's assembler (and, when named, the disassemblers) into DIR (default: .tools) from their PyPI packages,
# and prints the path of each binary on stdout. They check PTX without a GPU; running Monomorph needs none of them.
# A binary that is there in the right version is left alone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/pypi.sh
source "$here/pypi.sh"

# Registers and spills of goldens are pinned for this ptxas. The disassemblers have packages from 13.2 on only; they
# read what older assemblers write.
ptxas_version=13.0.88
disassembler_version=13.2.51

# runs BINARY VERSION: whether it runs here and is that version. Its output is read whole: behind `| grep -q` it could be cut off
# while it writes, and count as failed.
runs() {
  local said
  said=$("$1" --version 2>/dev/null) && [[ $said == *"V$2"* ]]
}

dir=${1:-.tools}
shift || true
[ $# -gt 0 ] || set -- ptxas
need_python
mkdir -p "$dir"
tmp=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

for tool in "$@"; do
  case $tool in
    ptxas) package=nvidia-cuda-nvcc version=$ptxas_version ;;
    nvdisasm | cuobjdump) package=nvidia-cuda-$tool version=$disassembler_version ;;
    *) die "unknown tool '$tool'; known: ptxas, nvdisasm, cuobjdump" ;;
  esac
  if ! { [ -x "$dir/$tool" ] && runs "$dir/$tool" "$version"; }; then
    download_wheel "$package==$version" "$tmp/$tool.wheel"
    append_member "$tmp/$tool.wheel" "*/bin/$tool" "$tmp/$tool"
    chmod +x "$tmp/$tool"
    runs "$tmp/$tool" "$version" || die "$tool from $package $version does not run here"
    mv "$tmp/$tool" "$dir/$tool"
  fi
  echo "$dir/$tool"
done
