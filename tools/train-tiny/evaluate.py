#!/usr/bin/env python3
"""Perplexity on held-out text and sampled stories of a GGUF file of any tensor types, with f32 arithmetic.

Weights are dequantized by the `gguf` package, so that a quantized file is judged by code that is not this project's.
"""

import argparse
import math
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer

from model import Dims, Tiny, held_out_loss


def load(path: Path, dims: Dims) -> Tiny:
    model = Tiny(dims)
    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        tensors[tensor.name] = torch.from_numpy(np.array(values, dtype=np.float32).reshape(tensor.shape[::-1].tolist()))
    model.load_tensors(tensors)
    return model.eval()


@torch.no_grad()
def sample(model: Tiny, ids: list[int], count: int, temperature: float, top_p: float, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        logits = model(torch.tensor([ids[-model.dims.context :]]))[0, -1]
        if temperature == 0:
            token = int(logits.argmax())
        else:
            probabilities, order = torch.softmax(logits / temperature, -1).sort(descending=True)
            probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
            token = int(order[torch.multinomial(probabilities, 1, generator=generator)])
        if token == 0:
            break
        ids = [*ids, token]
    return ids


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("model", type=Path)
    args.add_argument("--spec", type=Path, required=True, help="models/tiny.toml")
    args.add_argument("--data", type=Path, required=True, help="the folder that prepare.py wrote")
    args.add_argument("--prompt", action="append", default=[])
    args.add_argument("--tokens", type=int, default=120)
    args.add_argument("--temperature", type=float, default=0.7)
    args.add_argument("--top-p", type=float, default=0.95)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--windows", type=int, default=0, help="of held-out text; 0 takes all")
    args.add_argument("--perplexity", action=argparse.BooleanOptionalAction, default=True)
    args = args.parse_args()
    dims = Dims.read(args.spec)
    model = load(args.model, dims)
    if args.perplexity:
        held = torch.from_numpy(np.fromfile(args.data / "held.u16", dtype="<u2").astype(np.int64))
        if args.windows:
            held = held[: args.windows * dims.context]
        loss = held_out_loss(model, held, dims.context, batch=4)
        n = held.numel() // dims.context
        print(f"{args.model}: held-out loss {loss:.4f}, perplexity {math.exp(loss):.3f} over {n} windows")
    tokenizer = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    for idx, prompt in enumerate(args.prompt):
        ids = [0, *tokenizer.encode(prompt).ids]
        ids = sample(model, ids, args.tokens, args.temperature, args.top_p, args.seed + idx)
        print(f"--- {tokenizer.decode(ids[1:])}")


if __name__ == "__main__":
    main()
