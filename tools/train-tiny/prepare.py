#!/usr/bin/env python3
"""Texts to token ids: cleans and deduplicates stories, holds some out, trains the vocabulary, encodes both parts.

Input: text files of documents separated by lines `<|endoftext|>`, each document a title line, an empty line and
paragraphs. A file that is a Project Gutenberg download as it comes loses its licence text and becomes one document.

Output in the folder of `--out`: `tokenizer.json`, `train.u16`, `held.u16` (little-endian token ids, every document
behind the end token), `held.txt` and `corpus.json` (what was kept, counted).
"""

import argparse
import hashlib
import json
import random
import re
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SEPARATOR = "<|endoftext|>"
# Words of a run that two documents share only when one was copied from the other.
SHINGLE_WORDS = 8
# A document with more shared runs than this is a copy (left out); with more than the second, it is not held out.
COPY_SHARE = 0.5
HELD_OUT_SHARE = 0.02
# Longer documents are whole books: held out, one would be most of the sample; and headings of chapters tell little.
MAX_HELD_OUT_CHARS = 60_000
MIN_CHARS = 300


def gutenberg_body(text: str) -> str:
    """The book between Project Gutenberg's start and end marks, where those are."""
    start = re.search(r"\*\*\* ?START OF TH[^\n]*\*\*\*", text)
    end = re.search(r"\*\*\* ?END OF TH[^\n]*\*\*\*", text)
    return text[start.end() if start else 0 : end.start() if end else len(text)]


def clean(document: str) -> str:
    """Unwraps lines, folds to printable ASCII, drops the title and lines that are no prose."""
    document = document.replace("\r", "")
    for mark, plain in {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": "--"}.items():
        document = document.replace(mark, plain)
    document = document.encode("ascii", "ignore").decode()
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", document)]
    kept = []
    for idx, paragraph in enumerate(paragraphs):
        title = idx == 0 and len(paragraph) < 120 and not paragraph.endswith((".", "!", "?", '"'))
        heading = len(paragraph) < 80 and paragraph.upper() == paragraph
        if not paragraph or title or heading or any(c in paragraph for c in "|<>[]{}_*$"):
            continue
        kept.append(paragraph)
    return "\n\n".join(kept)


def documents(paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        text = gutenberg_body(path.read_text(encoding="utf-8"))
        found += [cleaned for part in text.split(SEPARATOR) if len(cleaned := clean(part)) >= MIN_CHARS]
    return found


def shingles(text: str) -> set[int]:
    words = re.findall(r"[a-z]+", text.lower())
    return {hash(tuple(words[i : i + SHINGLE_WORDS])) for i in range(len(words) - SHINGLE_WORDS + 1)}


def without_copies(docs: list[str]) -> tuple[list[str], int]:
    seen: set[int] = set()
    kept = []
    for doc in docs:
        own = shingles(doc)
        if own and len(own & seen) <= COPY_SHARE * len(own):
            kept.append(doc)
        seen |= own
    return kept, len(docs) - len(kept)


def split(docs: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Holds out short documents that have nothing in common with the rest until they are `share` of all text."""
    counts: dict[int, int] = {}
    for doc in docs:
        for shingle in shingles(doc):
            counts[shingle] = counts.get(shingle, 0) + 1
    order = list(range(len(docs)))
    random.Random(seed).shuffle(order)
    wanted = share * sum(map(len, docs))
    held: set[int] = set()
    for idx in order:
        own = shingles(docs[idx])
        shared = sum(counts[s] > 1 for s in own)
        if len(docs[idx]) <= MAX_HELD_OUT_CHARS and shared <= HELD_OUT_SHARE * len(own) and wanted > 0:
            held.add(idx)
            wanted -= len(docs[idx])
    return [docs[i] for i in order if i not in held], [docs[i] for i in order if i in held]


def train_vocabulary(docs: list[str], size: int) -> Tokenizer:
    """A byte-level vocabulary with GPT-2's word boundaries, which GGUF calls `gpt-2`; the end token has id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(docs, trainer)
    assert tokenizer.get_vocab_size() == size, tokenizer.get_vocab_size()
    return tokenizer


def encode(tokenizer: Tokenizer, docs: list[str]) -> np.ndarray:
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(docs):
        ids.append(0)
        ids += encoding.ids
    return np.array(ids, dtype="<u2")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("texts", nargs="+", type=Path)
    args.add_argument("--out", required=True, type=Path)
    args.add_argument("--vocab-size", type=int, default=4096)
    args.add_argument("--held-out", type=float, default=0.05)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    docs, n_copies = without_copies(documents(args.texts))
    train, held = split(docs, args.held_out, args.seed)
    tokenizer = train_vocabulary(train, args.vocab_size)
    tokenizer.save(str(args.out / "tokenizer.json"))
    (args.out / "held.txt").write_text(f"\n{SEPARATOR}\n".join(held))
    report = {
        "inputs": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in args.texts},
        "copies_left_out": n_copies,
    }
    for name, part in (("train", train), ("held", held)):
        ids = encode(tokenizer, part)
        ids.tofile(args.out / f"{name}.u16")
        report[name] = {"documents": len(part), "chars": sum(map(len, part)), "tokens": len(ids)}
    (args.out / "corpus.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
