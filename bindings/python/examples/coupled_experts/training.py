"""Training, measuring, and what came of it."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .model import LanguageModel, Shape, loss_of
from .text import Text, batch


@dataclass
class Curves:
    """What training went through."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """What each step took."""
    processor_seconds: list[float] = field(default_factory=list)
    """What each step took of the CPU, all its threads together."""
    perplexities: dict[int, float] = field(default_factory=dict)
    """Of the validation text, after so many steps."""

    def step(self) -> float:
        """Seconds of the median step, without the first, which builds plans."""
        kept = sorted(self.seconds[1:] or self.seconds)
        return kept[len(kept) // 2]

    def write(self, folder: Path) -> list[Path]:
        """Writes `curves.csv`, and a figure where matplotlib is there."""
        folder.mkdir(parents=True, exist_ok=True)
        table = folder / "curves.csv"
        with table.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["step", "loss", "seconds", "validation_perplexity"])
            for i, (loss, seconds) in enumerate(zip(self.losses, self.seconds, strict=True), 1):
                rows.writerow([i, loss, seconds, self.perplexities.get(i, "")])
        return [table, *self._figures(folder)]

    def _figures(self, folder: Path) -> list[Path]:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return []
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(range(1, len(self.losses) + 1), [math.exp(loss) for loss in self.losses], label="training")
        axes.plot(*zip(*self.perplexities.items(), strict=True), "o-", label="validation")
        axes.set(xlabel="step", ylabel="perplexity of a character")
        axes.legend()
        paths = [folder / "curves.svg", folder / "curves.png"]
        for path in paths:
            figure.savefig(path, dpi=150)
        return paths


def new_model(shape: Shape, text: Text, device: torch.device, seed: int = 0) -> LanguageModel:
    """A model whose first parameters are the same under each coupling."""
    torch.manual_seed(seed)
    model = LanguageModel(shape, len(text.characters))
    for i, block in enumerate(model.blocks):  # a coupler draws as many numbers as it needs
        torch.manual_seed(1000 + i)
        for name, parameter in block.experts.coupler.named_parameters():
            if name.endswith("lin.weight"):
                nn.init.xavier_uniform_(parameter)
    return model.to(device)


@torch.no_grad()
def perplexity(model: nn.Module, ids: Tensor, shape: Shape, sequences: int, batches: int) -> float:
    """Of characters of a text: e to the mean cross entropy. Sequences are the same in each call."""
    device = next(model.parameters()).device
    losses = []
    for i in range(batches):
        given, following = batch(ids, i, sequences, shape.length)
        losses.append(loss_of(model, given.to(device), following.to(device)).item())
    return math.exp(sum(losses) / len(losses))


def train(
    model: nn.Module,
    text: Text,
    shape: Shape,
    steps: Iterable[int],
    *,
    sequences: int = 32,
    rate: float = 3e-3,
    validate_every: int = 0,
    validation_batches: int = 4,
) -> Curves:
    """Trains with AdamW, a batch for each number of `steps` (a progress bar, say)."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    device = next(model.parameters()).device
    curves = Curves()
    for step in steps:
        given, following = (part.to(device) for part in batch(text.train, step, sequences, shape.length))
        start, processor = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        loss = loss_of(model, given, following)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        curves.losses.append(loss.item())  # waits for the device
        curves.seconds.append(time.perf_counter() - start)
        curves.processor_seconds.append(time.process_time() - processor)
        done = len(curves.losses)
        if validate_every and done % validate_every == 0:
            model.eval()
            curves.perplexities[done] = perplexity(
                model, text.validation, shape, sequences, validation_batches
            )
            model.train()
        if hasattr(steps, "set_postfix"):
            rate_now = sequences * shape.length / curves.seconds[-1]
            shown = {"loss": f"{loss.item():.3f}", "tokens/s": f"{rate_now:,.0f}"}
            if curves.perplexities:
                shown["validation perplexity"] = f"{list(curves.perplexities.values())[-1]:.2f}"
            steps.set_postfix(shown)
    return curves
