#!/usr/bin/env python3
"""tools/train-tiny/perplexity.py PROGRAM MODEL.gguf... --spec models/tiny.toml --data corpus: the model card's figures again.

For each file two lines. The first is what `evaluate.py --windows 64` computes, in numpy instead of PyTorch: all tokens of the first
windows. The second sets the kernels beside f32 arithmetic: `PROGRAM perplexity` on the emulator and the same windows of text
through numpy, where weights are dequantized by the `gguf` package and text is cut by the `tokenizers` package, so that nothing of
it is this project's; both score the second half of each window. No GPU; some minutes.
"""

import argparse
import json
import math
import subprocess
import tempfile
import tomllib
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer

# What the card's table is made of: the first windows of held-out tokens, of the model's context.
CARD_WINDOWS = 64
SEPARATOR = "\n<|endoftext|>\n"


def load(path: Path) -> dict[str, np.ndarray]:
    """Tensors in f32, rows first."""
    return {
        tensor.name: np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(
            tensor.shape[::-1].tolist()
        )
        for tensor in gguf.GGUFReader(path).tensors
    }


def norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(eps)) * weight


def rotate(x: np.ndarray, base: float) -> np.ndarray:
    """RoPE of kind `norm`. x (heads, positions, head_dim)."""
    _, length, dim = x.shape
    angles = np.arange(length)[:, None] * base ** (-np.arange(0, dim, 2) / dim)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack((even * cos - odd * sin, even * sin + odd * cos), -1).reshape(x.shape)


def attention(x: np.ndarray, tensors: dict, block: str, dims: dict) -> np.ndarray:
    length, dim = x.shape[0], dims["head_dim"]
    q, k, v = (
        (x @ tensors[f"{block}.attn_{name}.weight"].T).reshape(length, -1, dim).transpose(1, 0, 2) for name in "qkv"
    )
    q, k = rotate(q, dims["rope_base"]), rotate(k, dims["rope_base"])
    k, v = (np.repeat(t, dims["n_heads"] // dims["n_kv_heads"], axis=0) for t in (k, v))
    scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(dim))
    scores += np.triu(np.full((length, length), -np.inf, dtype=np.float32), 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = (weights / weights.sum(-1, keepdims=True)) @ v
    return y.transpose(1, 0, 2).reshape(length, -1) @ tensors[f"{block}.attn_output.weight"].T


def feed_forward(x: np.ndarray, tensors: dict, block: str) -> np.ndarray:
    gate, up = (x @ tensors[f"{block}.ffn_{name}.weight"].T for name in ("gate", "up"))
    return (gate / (1 + np.exp(-gate)) * up) @ tensors[f"{block}.ffn_down.weight"].T


def surprises(ids: np.ndarray, tensors: dict, dims: dict, first: int) -> np.ndarray:
    """Negative logarithms of the probabilities of the tokens behind the one at `first`."""
    x = tensors["token_embd.weight"][ids[:-1]]
    for layer in range(dims["n_layers"]):
        block, eps = f"blk.{layer}", dims["norm_eps"]
        x = x + attention(norm(x, tensors[f"{block}.attn_norm.weight"], eps), tensors, block, dims)
        x = x + feed_forward(norm(x, tensors[f"{block}.ffn_norm.weight"], eps), tensors, block)
    logits = norm(x[first:], tensors["output_norm.weight"], dims["norm_eps"]) @ tensors["token_embd.weight"].T
    logits = logits.astype(np.float64)
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return total - logits[np.arange(len(logits)), ids[first + 1 :]]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("program", type=Path)
    args.add_argument("models", nargs="+", type=Path)
    args.add_argument("--spec", type=Path, required=True, help="models/tiny.toml")
    args.add_argument("--data", type=Path, required=True, help="the folder that prepare.py wrote")
    args.add_argument("--tokens", type=int, default=4096)
    args.add_argument("--window", type=int, default=512)
    args = args.parse_args()
    dims = tomllib.loads(args.spec.read_text())
    text = (args.data / "held.txt").read_text().replace(SEPARATOR, "\n\n")
    ids = np.array(Tokenizer.from_file(str(args.data / "tokenizer.json")).encode(text).ids[: args.tokens])
    windows = ids[: len(ids) // args.window * args.window].reshape(-1, args.window)
    held = np.fromfile(args.data / "held.u16", dtype="<u2").astype(np.int64)[: CARD_WINDOWS * dims["context"]]
    held = held.reshape(-1, dims["context"])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text)
        file.flush()
        for model in args.models:
            tensors = load(model)
            loss = np.concatenate([surprises(window, tensors, dims, 0) for window in held]).mean()
            print(f"{model}: loss {loss:.4f}, perplexity {math.exp(loss):.2f} over {len(held)} windows", flush=True)
            half = args.window // 2 - 1
            expected = math.exp(np.concatenate([surprises(window, tensors, dims, half) for window in windows]).mean())
            command = [args.program, "perplexity", "-m", model, "--jit", "--device", "emulator", "--text", file.name]
            command += ["-n", str(args.tokens), "--context", str(args.window), "--json"]
            ran = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(
                f"{model}: {ran['scored']} tokens, f32 arithmetic {expected:.3f}, kernels {ran['perplexity']:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
