#!/usr/bin/env python3
"""Trains the network of `models/tiny.toml` on the ids that `prepare.py` wrote.

One run a `--run NAME:EPOCHS:DROPOUT:DECAY:LR`, one after another; the weights that were best on held-out text, of
all runs, are written as `weights-0.npz` and `weights-1.npz` (f16), the loss curves as `loss-NAME.csv`. A run ends
when its epochs are over, when its share of `--seconds` is used up (the learning rate follows whichever is further),
or when held-out loss has not improved for `--patience` evaluations.
"""

import argparse
import csv
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

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
    seconds: float

    @staticmethod
    def parse(text: str, seconds: float) -> "Run":
        name, *numbers = text.split(":")
        return Run(name, *map(float, numbers), seconds)


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

    def loss(self, model: Tiny, window: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits = model(window[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())

    def held_out(self, model: Tiny) -> float:
        model.eval()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = held_out_loss(model, self.held, self.args.length)
        model.train()
        return loss

    def run(self, run: Run) -> None:
        torch.manual_seed(self.args.seed)
        generator = torch.Generator(self.device).manual_seed(self.args.seed)
        model = Tiny(self.dims, run.dropout).to(self.device)
        adam = optimizer(model, run)
        loss_of = torch.compile(self.loss) if self.args.compile else self.loss
        # Compiled before the clock starts.
        loss_of(model, self.batch(generator)).backward()
        adam.zero_grad(set_to_none=True)
        steps = max(1, round(run.epochs * self.train.numel() / (self.args.batch * self.args.length)))
        every = max(1, steps // self.args.evaluations)
        stale, best, recent, start = 0, math.inf, [], time.monotonic()
        with open(self.args.out / f"loss-{run.name}.csv", "w", newline="") as file:
            log = csv.writer(file, lineterminator="\n")
            log.writerow(["step", "epoch", "seconds", "rate", "train_loss", "held_out_loss"])
            for step in range(1, steps + 1):
                progress = max(step / steps, (time.monotonic() - start) / run.seconds)
                for group in adam.param_groups:
                    group["lr"] = run.rate * schedule(progress)
                loss = loss_of(model, self.batch(generator))
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
                adam.step()
                adam.zero_grad(set_to_none=True)
                recent.append(loss.detach())
                if len(recent) % 50 == 0:
                    # The clock means nothing while the device lags behind.
                    recent[-1].item()
                if step % every and step != steps and progress < 1:
                    continue
                held = self.held_out(model)
                trained, recent = torch.stack(recent).mean().item(), []
                seconds, rate = time.monotonic() - start, adam.param_groups[0]["lr"]
                epoch = step * self.args.batch * self.args.length / self.train.numel()
                log.writerow([step, f"{epoch:.3f}", f"{seconds:.1f}", f"{rate:.3e}", f"{trained:.4f}", f"{held:.4f}"])
                file.flush()
                print(f"{run.name} {step}/{steps} epoch {epoch:.2f} {seconds:.0f} s  {trained:.4f} {held:.4f}", flush=True)
                stale = 0 if held < best else stale + 1
                best = min(best, held)
                if held < self.best:
                    self.best, self.best_run = held, run.name
                    self.weights = {k: v.to(torch.float16).cpu().numpy() for k, v in model.tensors().items()}
                if progress >= 1 or stale >= self.args.patience:
                    break
        self.save()

    def save(self) -> None:
        names = list(self.weights)
        half = len(names) // 2
        for idx, part in enumerate((names[:half], names[half:])):
            np.savez(self.args.out / f"weights-{idx}.npz", **{name: self.weights[name] for name in part})
        print(f"best: run {self.best_run}, held-out loss {self.best:.4f}, perplexity {math.exp(self.best):.2f}", flush=True)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--spec", type=Path, required=True, help="models/tiny.toml")
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--run", action="append", required=True, metavar="NAME:EPOCHS:DROPOUT:DECAY:LR")
    args.add_argument("--seconds", type=float, default=1e9, help="for all runs, in proportion to their epochs")
    args.add_argument("--batch", type=int, default=32)
    args.add_argument("--length", type=int, default=1024)
    args.add_argument("--evaluations", type=int, default=40)
    args.add_argument("--patience", type=int, default=8)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--device", default="cuda")
    args.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    trainer = Trainer(args, Dims.read(args.spec))
    runs = [Run.parse(text, 1.0) for text in args.run]
    total = sum(run.epochs for run in runs)
    for text, run in zip(args.run, runs):
        trainer.run(Run.parse(text, args.seconds * run.epochs / total))


if __name__ == "__main__":
    main()
