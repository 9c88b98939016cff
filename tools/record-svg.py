#!/usr/bin/env python3
"""tools/record-svg.py OUT.svg SHOWN COMMAND...: runs COMMAND in a terminal of 100 columns and writes what it shows as an
SVG that types SHOWN and then lets the lines appear in the order in which they came. Plain Python, nothing to install.

    tools/record-svg.py docs/first-command.svg 'cargo run --release -- generate' target/release/monomorph generate --no-progress
"""

import fcntl, html, os, pty, re, select, struct, subprocess, sys, termios, textwrap

COLUMNS, LINE, CHAR, PAD = 100, 18, 8.4, 16
MOST_SECONDS = 9.0
COLOURS = {"1": "#ffffff", "2": "#8b949e", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff", "1;31": "#ff7b72"}


def run(command):
    """The bytes that the command writes to a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CLICOLOR_FORCE")} | {"TERM": "xterm"}
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    shown = b""
    while True:
        if select.select([master], [], [], 0.2)[0]:
            try:
                piece = os.read(master, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        elif child.poll() is not None:
            break
    if child.wait() != 0:
        sys.exit(f"error: {' '.join(command)} ended with status {child.returncode}:\n{shown.decode(errors='replace')}")
    return shown.decode()


def wrapped(text):
    """Lines of at most COLUMNS columns, as (text, colour)."""
    for line in text.replace("\r\n", "\n").rstrip("\n").split("\n"):
        # What a bar drew over is gone.
        line = re.sub(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]", "", re.split(r"\r|\x1b\[2K", line.rstrip("\r"))[-1])
        spans, colour = [], None
        for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
            code = re.fullmatch(r"\x1b\[([0-9;]*)m", piece)
            if code:
                colour = COLOURS.get(code.group(1))
            elif piece:
                spans.append((piece, colour))
        if sum(len(piece) for piece, _ in spans) <= COLUMNS:
            yield spans
        else:
            whole, first = "".join(piece for piece, _ in spans), spans[0][1]
            for part in textwrap.wrap(whole, COLUMNS, drop_whitespace=True):
                yield [(part, first if len(spans) == 1 else None)]


def svg(shown, text):
    lines = list(wrapped(text))
    height = PAD * 2 + LINE * (len(lines) + 2)
    width = PAD * 2 + CHAR * COLUMNS
    step = min(0.35, MOST_SECONDS / max(1, len(lines)))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" '
        'role="img" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="14">',
        f"<title>{html.escape(shown)}</title>",
        "<style>text{white-space:pre;fill:#c9d1d9}.l{opacity:0;animation:a .15s forwards}"
        "@keyframes a{to{opacity:1}}@media(prefers-reduced-motion:reduce){.l{opacity:1;animation:none}}</style>",
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>',
        f'<text x="{PAD}" y="{PAD + LINE}"><tspan fill="#7ee787">$ </tspan>{html.escape(shown)}</text>',
    ]
    for number, spans in enumerate(lines):
        y, delay = PAD + LINE * (number + 2), 0.8 + step * number
        body = "".join(
            f'<tspan fill="{colour}">{html.escape(piece)}</tspan>' if colour else html.escape(piece) for piece, colour in spans
        )
        if body:
            out.append(f'<text class="l" style="animation-delay:{delay:.2f}s" x="{PAD}" y="{y}" xml:space="preserve">{body}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    path, shown, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    with open(path, "w", encoding="utf-8") as file:
        file.write(svg(shown, run(command)))
