#!/usr/bin/env bash
# tools/try-embed.sh: copies examples/embed out of the repository into an empty folder, builds it there with its own spec
# and runs it on the emulator: it must tell a story, and end early when it is told to.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cp -r "$root/examples/embed/." "$folder"
rm -rf "$folder/target"
sed -i.bak "s#\"\.\./\.\./#\"$root/#" "$folder/Cargo.toml"
cd "$folder"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/embed CUDA_VISIBLE_DEVICES=
cargo build --release
embed=$CARGO_TARGET_DIR/release/embed

story=$("$embed" "$root/models/tiny.gguf" "Once upon a time" </dev/null 2>"$folder/told")
tr '\r' '\n' <"$folder/told" | tail -n 1
echo "Once upon a time$story"
grep -q "40 tokens on .*, ended: Length" "$folder/told" || { echo "error: not the 40 tokens asked for" >&2; exit 1; }
[[ $story == *" there "* ]] || { echo "error: this is no beginning of a story" >&2; exit 1; }

# A line on its input, before the first token is there.
if cut=$("$embed" "$root/models/tiny.gguf" "Once upon a time" <<<"" 2>"$folder/told"); then
  grep -q "ended: Cancelled" "$folder/told" || { cat "$folder/told"; echo "error: not cancelled" >&2; exit 1; }
  [ ${#cut} -lt ${#story} ] || { echo "error: cancelled, and still the whole story" >&2; exit 1; }
else
  grep -qi "cancelled" "$folder/told" || { cat "$folder/told"; echo "error: failed for another reason" >&2; exit 1; }
fi
echo "the outsider builds, tells a story, and stops when told to"
