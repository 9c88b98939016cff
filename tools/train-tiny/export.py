#!/usr/bin/env python3
"""Weights and vocabulary to a GGUF file: matrices F16, norms F32, tokenizer `gpt2` with pre-tokenizer `gpt-2`."""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np

from model import Dims

END = "<|endoftext|>"


def vocabulary(path: Path) -> tuple[list[str], list[str]]:
    """Tokens in the order of their ids, and merges in the order of their rank, each two parts and a space."""
    model = json.loads(path.read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    if [model["vocab"][t] for t in tokens] != list(range(len(tokens))) or tokens[0] != END:
        raise SystemExit(f"{path}: ids are not 0, 1, 2 …, or 0 is not {END}")
    return tokens, [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]


def add_metadata(out: gguf.GGUFWriter, dims: Dims, tokens: list[str], merges: list[str]) -> None:
    out.add_name("tiny")
    out.add_description("A small model of public-domain fairy tales, see models/tiny.md")
    out.add_license("MIT OR Apache-2.0")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    out.add_vocab_size(dims.vocab_size)
    out.add_context_length(dims.context)
    out.add_embedding_length(dims.dim)
    out.add_feed_forward_length(dims.hidden_dim)
    out.add_block_count(dims.n_layers)
    out.add_head_count(dims.n_heads)
    out.add_head_count_kv(dims.n_kv_heads)
    out.add_key_length(dims.head_dim)
    out.add_value_length(dims.head_dim)
    out.add_rope_dimension_count(dims.head_dim)
    out.add_rope_freq_base(dims.rope_base)
    out.add_layer_norm_rms_eps(dims.norm_eps)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    out.add_token_types([control if token == END else normal for token in tokens])
    out.add_token_merges(merges)
    # One token ends a story and begins the next: what training saw before the first word of each.
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    out.add_add_bos_token(True)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--spec", type=Path, required=True, help="models/tiny.toml")
    args.add_argument("--tokenizer", type=Path, required=True)
    args.add_argument("--weights", type=Path, nargs="+", required=True, help="weights-0.npz weights-1.npz")
    args.add_argument("--out", type=Path, required=True)
    args = args.parse_args()
    dims = Dims.read(args.spec)
    tokens, merges = vocabulary(args.tokenizer)
    if len(tokens) != dims.vocab_size:
        raise SystemExit(f"{args.tokenizer}: {len(tokens)} tokens, {args.spec} has {dims.vocab_size}")
    weights = {name: array for path in args.weights for name, array in np.load(path).items()}
    out = gguf.GGUFWriter(args.out, "llama")
    add_metadata(out, dims, tokens, merges)
    for name, shape in dims.shapes().items():
        if weights[name].shape != shape:
            raise SystemExit(f"{name}: {weights[name].shape} in the weights, {shape} in the spec")
        out.add_tensor(name, weights[name].astype(np.float32 if len(shape) == 1 else np.float16))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    main()
