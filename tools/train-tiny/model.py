"""The network of `models/tiny.toml` in PyTorch: the llama architecture with grouped-query attention, tied embedding.

Parameters bear the names that GGUF gives their tensors, so that writing and reading a file is a loop.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Dims:
    vocab_size: int
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    context: int
    norm_eps: float
    rope_base: float

    @staticmethod
    def read(path: Path) -> "Dims":
        spec = tomllib.loads(Path(path).read_text())
        fixed = {"architecture": "llama", "rope_kind": "norm", "qkv_bias": False, "tied_head": True}
        for key, wanted in fixed.items():
            if spec[key] != wanted:
                raise SystemExit(f"{path}: {key} = {spec[key]!r}, but this network has {wanted!r}")
        return Dims(**{name: spec[name] for name in Dims.__dataclass_fields__})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor: rows first, as PyTorch has them (GGUF lists the row length first)."""
        q_dim, kv_dim = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes = {"token_embd.weight": (self.vocab_size, self.dim), "output_norm.weight": (self.dim,)}
        for layer in range(self.n_layers):
            shapes |= {
                f"blk.{layer}.{name}.weight": shape
                for name, shape in {
                    "attn_norm": (self.dim,),
                    "attn_q": (q_dim, self.dim),
                    "attn_k": (kv_dim, self.dim),
                    "attn_v": (kv_dim, self.dim),
                    "attn_output": (self.dim, q_dim),
                    "ffn_norm": (self.dim,),
                    "ffn_gate": (self.hidden_dim, self.dim),
                    "ffn_up": (self.hidden_dim, self.dim),
                    "ffn_down": (self.dim, self.hidden_dim),
                }.items()
            }
        return shapes


def attribute(name: str) -> str:
    """A tensor's name as PyTorch allows it."""
    return name.replace(".", "__")


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """RoPE of kind `norm`: elements 2i and 2i+1 of a head are a pair. x (batch, heads, positions, head_dim)."""
    cos, sin = table[: x.shape[2], :, 0], table[: x.shape[2], :, 1]
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Tiny(nn.Module):
    def __init__(self, dims: Dims, dropout: float = 0.0, seed: int = 0):
        super().__init__()
        # NumPy's, because PyTorch's on the CPU depends on the width of the machine's vectors.
        random = np.random.Generator(np.random.PCG64(seed))
        self.dims, self.dropout = dims, dropout
        self.names = list(dims.shapes())
        for name, shape in dims.shapes().items():
            if len(shape) == 1:
                weight = torch.ones(shape)
            else:
                # What writes to the residual stream starts smaller, so that depth does not enlarge it.
                writes = "attn_output" in name or "ffn_down" in name
                scale = 0.02 / ((2 * dims.n_layers) ** 0.5 if writes else 1)
                weight = torch.from_numpy((random.standard_normal(shape) * scale).astype(np.float32))
            self.register_parameter(attribute(name), nn.Parameter(weight))
        exponent = -torch.arange(0, dims.head_dim, 2, dtype=torch.float64) / dims.head_dim
        angles = torch.arange(dims.context, dtype=torch.float64)[:, None] * dims.rope_base**exponent
        self.register_buffer("table", torch.stack((angles.cos(), angles.sin()), -1).float(), persistent=False)

    def weight(self, name: str) -> nn.Parameter:
        return getattr(self, attribute(f"{name}.weight"))

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.dims.norm_eps)
        return (x.float() * scale).to(x.dtype) * self.weight(name)

    def attention(self, x: torch.Tensor, block: str) -> torch.Tensor:
        d, (batch, length, _) = self.dims, x.shape
        heads = lambda name, n: (
            F.linear(x, self.weight(f"{block}.{name}")).view(batch, length, n, d.head_dim).transpose(1, 2)
        )
        q, k = (rotate(heads(*what), self.table) for what in (("attn_q", d.n_heads), ("attn_k", d.n_kv_heads)))
        v = heads("attn_v", d.n_kv_heads)
        k, v = (t.repeat_interleave(d.n_heads // d.n_kv_heads, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True)
        return F.linear(y.transpose(1, 2).reshape(batch, length, -1), self.weight(f"{block}.attn_output"))

    def feed_forward(self, x: torch.Tensor, block: str) -> torch.Tensor:
        gate, up = (F.linear(x, self.weight(f"{block}.{name}")) for name in ("ffn_gate", "ffn_up"))
        return F.linear(F.silu(gate) * up, self.weight(f"{block}.ffn_down"))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (batch, positions) to logits (batch, positions, vocabulary)."""
        return self.logits(self.embed(ids))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.weight("token_embd"))

    def logits(self, embedded: torch.Tensor) -> torch.Tensor:
        """Embedded tokens (batch, positions, dim) to logits (batch, positions, vocabulary)."""
        x = self.drop(embedded)
        for layer in range(self.dims.n_layers):
            block = f"blk.{layer}"
            x = x + self.drop(self.attention(self.norm(x, f"{block}.attn_norm"), block))
            x = x + self.drop(self.feed_forward(self.norm(x, f"{block}.ffn_norm"), block))
        return F.linear(self.norm(x, "output_norm"), self.weight("token_embd"))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, attribute(name)).detach() for name in self.names}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        if set(tensors) != set(self.names):
            raise SystemExit(f"tensors differ: {sorted(set(tensors) ^ set(self.names))}")
        for name in self.names:
            getattr(self, attribute(name)).copy_(tensors[name])


def held_out_loss(model: nn.Module, ids: torch.Tensor, length: int, batch: int = 32) -> float:
    """Mean loss in nats a token over consecutive windows, each without sight of the one before."""
    n = ids.numel() // length
    windows = ids[: n * length].view(n, length)
    total = 0.0
    with torch.no_grad():
        for part in windows.split(batch):
            logits = model(part)[:, :-1].float()
            total += F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
    return total / (n * (length - 1))
