#!/usr/bin/env python3
"""tools/train-tiny/reproduce.py PROGRAM TEXT TEXT --out FOLDER: from two text files to the model card's figures, beside the card's.

Prepares the texts, trains, writes the file in F16, quantizes it by PROGRAM (target/release/monomorph) and by llama.cpp's
reference code, measures the files, and prints each figure next to the one in `models/tiny.md`. Ends with status 1 when one
differs. Files must be the same byte for byte on an NVIDIA H200 with PyTorch 2.11.0; elsewhere training gives another model.

Without a GPU, `--weights FOLDER` takes the output of a training made elsewhere, and `--no-training` checks what does not
need one: the corpus and the shipped file.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parents[1]
SPEC, CARD, SHIPPED = ROOT / "models/tiny.toml", ROOT / "models/tiny.md", ROOT / "models/tiny.gguf"
# The card's run: name, epochs, drop-out, weight decay, learning rate.
RECIPE = "c:64:0.2:0.4:3e-3"
# f32 sums of another machine's matrix library may round the last digit that is shown otherwise.
SLACK = {"loss": 0.00011, "perplexity": 0.011, "f32": 0.0011}


def say(*command: object) -> str:
    """Runs a command, shows what it says, and returns what it wrote to stdout."""
    words = [str(word) for word in command]
    print("$", " ".join(words), flush=True)
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    print(ran.stdout, end="", flush=True)
    if ran.returncode != 0:
        sys.exit(f"error: status {ran.returncode}: {' '.join(words)}")
    return ran.stdout


def tool(name: str, *arguments: object) -> str:
    return say(sys.executable, TOOLS / name, *arguments)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def card() -> dict[str, str]:
    """The rows `| name | figure |` of the card's section of figures, in order."""
    section = CARD.read_text(encoding="utf-8").split("\n## Figures\n")[1].split("\n## ")[0]
    rows = section.split("\n|---|---:|\n")[1]
    return dict(re.findall(r"^\| ([^|`]*?) \| `?([^|`]*?)`? \|$", rows, re.M))


def corpus(texts: list[Path], folder: Path) -> dict[str, str]:
    tool("prepare.py", *texts, "--out", folder)
    report = json.loads((folder / "corpus.json").read_text())
    found = {f"text {i + 1}, SHA-256": sha256(path) for i, path in enumerate(texts)}
    for name, part in (("training", "train"), ("held-out", "held")):
        found[f"{name} tokens"] = f"{report[part]['tokens']:,}"
        found[f"{name} tokens, SHA-256"] = sha256(folder / f"{part}.u16")
    return found


def trained(args: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Trains unless the weights are there, and writes f16.gguf, quantized.gguf and reference.gguf."""
    weights = args.weights
    if weights is None:
        weights = args.out / "run"
        tool("train.py", "--spec", SPEC, "--data", folder, "--out", weights, "--run", RECIPE)
    curve = weights / f"loss-{RECIPE.split(':')[0]}.csv"
    plain, quantized = args.out / "f16.gguf", args.out / "quantized.gguf"
    parts = [weights / f"weights-{i}.npz" for i in range(2)]
    tool("export.py", "--spec", SPEC, "--tokenizer", folder / "tokenizer.json", "--out", plain, "--weights", *parts)
    say(args.program, "quantize", plain, quantized, "--type", "q4_k_m")
    tool("requantize.py", plain, quantized, "--out", args.out / "reference.gguf")
    step, _, _, _, held = curve.read_text().splitlines()[-1].split(",")
    return {
        "steps of training": f"{int(step):,}",
        "held-out loss at the end of training": held,
        "loss curve, SHA-256": sha256(curve),
        "F16 file, SHA-256": sha256(plain),
        "quantized file, SHA-256": sha256(quantized),
    }


def measured(args: argparse.Namespace, folder: Path, names: dict[str, Path]) -> dict[str, str]:
    """Perplexities of each file: all tokens of some windows in f32, then the second halves in f32 and by the kernels."""
    said = tool("perplexity.py", args.program, *names.values(), "--spec", SPEC, "--data", folder)
    found = {}
    for name, path in names.items():
        of = re.escape(str(path))
        loss, perplexity = re.search(rf"^{of}: loss (\S+), perplexity (\S+) over", said, re.M).groups()
        f32, kernels = re.search(rf"^{of}: \d+ tokens, f32 arithmetic (\S+), kernels (\S+)$", said, re.M).groups()
        found |= {
            f"{name}: loss": loss,
            f"{name}: perplexity": perplexity,
            f"{name}: second halves, f32": f32,
            f"{name}: second halves, kernels": kernels,
        }
    return found


def same(name: str, found: str, wanted: str) -> bool:
    slack = SLACK.get(name.rsplit(" ", 1)[-1]) if ": " in name else None
    return found == wanted or (slack is not None and abs(float(found) - float(wanted)) <= slack)


def compare(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Prints both columns; the names of figures that differ or that the card does not have."""
    differ = []
    for name in wanted | found:
        mine, theirs = found.get(name, "not computed"), wanted.get(name, "none")
        if name not in found:
            verdict = "-"
        elif name in wanted and same(name, mine, theirs):
            verdict = "same"
        else:
            verdict = "DIFFERS"
            differ.append(name)
        print(f"{verdict:8} {name:42} {mine:24.24} card: {theirs:.24}")
    return differ


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("program", type=Path)
    args.add_argument("texts", type=Path, nargs=2, help="fairy-tales.txt fairy-tales-extra.txt")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--weights", type=Path, help="a folder that train.py wrote, instead of training")
    args.add_argument("--training", action=argparse.BooleanOptionalAction, default=True)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.out / "corpus"
    found = corpus(args.texts, folder)
    names = {"Q4_K_M": SHIPPED}
    if args.training or args.weights:
        found |= trained(args, folder)
        names = {"F16": args.out / "f16.gguf", "Q4_K_M": args.out / "quantized.gguf"}
        names["Q4_K_M by libgguf"] = args.out / "reference.gguf"
    found["shipped file, SHA-256"] = sha256(SHIPPED)
    found |= measured(args, folder, names)
    wanted = card()
    differ = compare(found, wanted)
    if differ:
        sys.exit(f"error: {len(differ)} of {len(found)} figures are not the card's: {', '.join(differ)}")
    left = len(wanted.keys() - found.keys())
    print(f"{len(found)} of {len(wanted)} figures are the card's" + (f"; {left} need training" if left else ""))


if __name__ == "__main__":
    main()
