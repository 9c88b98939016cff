#!/usr/bin/env python3
"""Trains the network of `models/tiny.toml` on the ids that `prepare.py` wrote.

One run a `--run NAME:EPOCHS:DROPOUT:DECAY:LR`, one after another; the weights that were best on held-out text, of
all runs, are written as `weights-0.npz` and `weights-1.npz` (f16), the loss curves as `loss-NAME.csv`. A run ends
when its epochs are over or when held-out loss has not improved for `--patience` evaluations.

The same command on the same kind of GPU with the same PyTorch writes the same bytes: nothing follows the clock, no sum
depends on the order in which threads arrive, and the compiler chooses its kernels by rule instead of by timing them. What
each setting is for stands beside it (`repeatable`).
"""

import argparse
import csv
import hashlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

# Read when cuBLAS is first used: with more than one stream, its other workspaces may differ from run to run.
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

import numpy as np
import torch
import torch._inductor.config as inductor

from model import Dims, Tiny, held_out_loss

WARM_UP = 0.02
# The learning rate ends at this share of its peak.
FLOOR = 0.02
GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Run:
    name: str
    epochs: float
    dropout: float
    decay: float
    rate: float

    @staticmethod
    def parse(text: str) -> "Run":
        name, *numbers = text.split(":")
        return Run(name, *map(float, numbers))


def repeatable() -> None:
    """Makes PyTorch leave the same bits in every run on one kind of GPU."""
    # Refuses operations whose atomics add in any order, and selects ordered forms of those that have one. It must not only
    # warn: flash attention's backward is ordered only when this is an error.
    torch.use_deterministic_algorithms(True)
    # Nothing here reads what it has not written; filling every new tensor would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # The compiler would otherwise time several forms of a reduction, each with its own order, and take the fastest.
    inductor.deterministic = True
    # One attention: which of several is taken depends on the version, and not all have an ordered backward.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_math_sdp(False)


def schedule(progress: float) -> float:
    if progress < WARM_UP:
        return progress / WARM_UP
    along = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * along)) / 2


def optimizer(model: Tiny, run: Run) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": run.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=run.rate, betas=(0.9, 0.97), fused=True)


class Trainer:
    def __init__(self, args: argparse.Namespace, dims: Dims):
        self.args, self.dims, self.device = args, dims, torch.device(args.device)
        self.train, self.held = (
            torch.from_numpy(np.fromfile(args.data / f"{name}.u16", dtype="<u2").astype(np.int64)).to(self.device)
            for name in ("train", "held")
        )
        self.best, self.weights, self.best_run = math.inf, {}, ""

    def batch(self, generator: torch.Generator) -> torch.Tensor:
        """Windows that start anywhere, so that no two epochs cut the text alike."""
        length = self.args.length + 1
        starts = torch.randint(
            self.train.numel() - length, (self.args.batch,), generator=generator, device=self.device
        )
        return self.train[starts[:, None] + torch.arange(length, device=self.device)]

    def loss(self, model: Tiny, embedded: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of targets (batch, positions) behind embedded tokens (batch, positions, dim)."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits = model.logits(embedded)
        logits = logits.float()
        # Selected, not gathered: the gradient of a gather adds with atomics.
        tokens = torch.arange(logits.shape[-1], device=logits.device)
        chosen = torch.where(targets[..., None] == tokens, logits, 0).sum(-1)
        return (logits.logsumexp(-1) - chosen).mean()

    def held_out(self, model: Tiny) -> float:
        model.eval()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = held_out_loss(model, self.held, self.args.length)
        model.train()
        return loss

    def run(self, run: Run) -> None:
        # Drop-out's, on the device; the windows have their own.
        torch.manual_seed(self.args.seed)
        generator = torch.Generator(self.device).manual_seed(self.args.seed)
        model = Tiny(self.dims, run.dropout, self.args.seed).to(self.device)
        adam = optimizer(model, run)
        compiled = torch.compile(self.loss) if self.args.compile else self.loss

        def loss_of(window: torch.Tensor) -> torch.Tensor:
            # Not compiled: PyTorch's own gradient of a look-up sorts the tokens, the compiler's adds with atomics.
            return compiled(model, model.embed(window[:, :-1]), window[:, 1:])

        # Compiled before the clock starts.
        loss_of(self.batch(generator)).backward()
        adam.zero_grad(set_to_none=True)
        steps = max(1, round(run.epochs * self.train.numel() / (self.args.batch * self.args.length)))
        every = max(1, steps // self.args.evaluations)
        stale, best, recent, start = 0, math.inf, [], time.monotonic()
        with open(self.args.out / f"loss-{run.name}.csv", "w", newline="") as file:
            log = csv.writer(file, lineterminator="\n")
            log.writerow(["step", "epoch", "rate", "train_loss", "held_out_loss"])
            for step in range(1, steps + 1):
                for group in adam.param_groups:
                    group["lr"] = run.rate * schedule(step / steps)
                loss = loss_of(self.batch(generator))
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
                adam.step()
                adam.zero_grad(set_to_none=True)
                recent.append(loss.detach())
                if len(recent) % 50 == 0:
                    # The clock means nothing while the device lags behind.
                    recent[-1].item()
                if step % every and step != steps:
                    continue
                held = self.held_out(model)
                trained, recent = torch.stack(recent).mean().item(), []
                seconds, rate = time.monotonic() - start, adam.param_groups[0]["lr"]
                epoch = step * self.args.batch * self.args.length / self.train.numel()
                log.writerow([step, f"{epoch:.3f}", f"{rate:.3e}", f"{trained:.4f}", f"{held:.4f}"])
                file.flush()
                print(f"{run.name} {step}/{steps} epoch {epoch:.2f} {seconds:.1f} s  {trained!r} {held!r}", flush=True)
                stale = 0 if held < best else stale + 1
                best = min(best, held)
                if held < self.best:
                    self.best, self.best_run = held, run.name
                    self.weights = {k: v.to(torch.float16).cpu().numpy() for k, v in model.tensors().items()}
                if stale >= self.args.patience:
                    break
        self.save()

    def save(self) -> None:
        names = list(self.weights)
        half = len(names) // 2
        for idx, part in enumerate((names[:half], names[half:])):
            np.savez(self.args.out / f"weights-{idx}.npz", **{name: self.weights[name] for name in part})
        digest = hashlib.sha256(b"".join(self.weights[name].tobytes() for name in names)).hexdigest()
        print(f"best: run {self.best_run}, held-out loss {self.best:.4f}, perplexity {math.exp(self.best):.2f}")
        print(f"weights: SHA-256 {digest}", flush=True)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--spec", type=Path, required=True, help="models/tiny.toml")
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--run", action="append", required=True, metavar="NAME:EPOCHS:DROPOUT:DECAY:LR")
    args.add_argument("--batch", type=int, default=32)
    args.add_argument("--length", type=int, default=1024)
    args.add_argument("--evaluations", type=int, default=40)
    args.add_argument("--patience", type=int, default=8)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--device", default="cuda")
    args.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    repeatable()
    torch.set_float32_matmul_precision("high")
    runs = [Run.parse(text) for text in args.run]
    trainer = Trainer(args, Dims.read(args.spec))
    for run in runs:
        trainer.run(run)


if __name__ == "__main__":
    main()
