#!/usr/bin/env python3
"""tools/doc-excerpts.py PROGRAM FILE.md... [--check]: fills the blocks of documents with what the program says now.

A block to fill is a fence behind a line `<!-- $ COMMAND -->`. COMMAND runs in the repository's root in bash, where
`monomorph` is PROGRAM and $GEMV the symbol of the first Q4_K product of `tiny`. --check writes nothing and fails when a
document is not what the program says.
"""

import json, os, pathlib, re, subprocess, sys

BLOCK = re.compile(r"(<!-- \$ (.+?) -->\n```[a-z]*\n)(.*?)(```\n)", re.S)


def main():
    check = "--check" in sys.argv
    program, *files = [argument for argument in sys.argv[1:] if argument != "--check"]
    program = os.path.abspath(program)
    listed = subprocess.run([program, "kernels", "--spec", "tiny", "--json"], check=True, capture_output=True, text=True)
    gemv = min(k["entry"] for k in json.loads(listed.stdout)["kernels"] if k["entry"].startswith("gemv_q4k"))
    env = os.environ | {"GEMV": gemv, "NO_COLOR": "1"}

    def said(command):
        script = f'set -o pipefail; monomorph() {{ "{program}" "$@"; }}; {command}'
        ran = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
        # A reader that has seen enough closes the pipe.
        if ran.returncode != 0:
            sys.exit(f"error: {command}\n{ran.stderr}")
        typed = f"$ {command.replace('$GEMV', gemv).split(' | ')[0]}\n" if command.startswith("monomorph") else ""
        return f"{typed}{ran.stdout.strip(chr(10))}\n"

    stale = []
    for file in map(pathlib.Path, files):
        old = file.read_text(encoding="utf-8")
        new = BLOCK.sub(lambda match: match[1] + said(match[2]) + match[4], old)
        if new != old:
            stale.append(str(file))
            if not check:
                file.write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit(f"error: not what the program says now: {', '.join(stale)}; to fill: tools/doc-excerpts.py {sys.argv[1]} {' '.join(files)}")


main()
