"""What a model loses that is trained under one convention of weights and evaluated under another.

    python conventions.py

Each of 1,797 images of digits is a vertex, and makes a hyperedge with its nearest neighbours. Layers learn
their hyperedges' weights. A half of the images is for training. The convention decides where the weights w
are: in the message and in the degree ("documented": the paper, and PyTorch Geometric's documentation), in the
degree alone ("degree_only": what PyTorch Geometric 2.8 computes), or in the message alone ("message_only").
"""

from __future__ import annotations

import argparse
import gzip
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import hyperscatter as hs
from hyperscatter.functional import WEIGHT_USES

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "data" / "digits.csv.gz"


def digits() -> tuple[Tensor, Tensor]:
    """Pixels of all images, from 0 to 1, and which digits they show."""
    lines = gzip.decompress(DIGITS.read_bytes()).decode().split()
    table = torch.tensor([[float(number) for number in line.split(",")] for line in lines])
    return table[:, :-1] / 16, table[:, -1].long()


def neighbourhoods(pixels: Tensor, neighbours: int) -> hs.Incidence:
    """A hyperedge for each image, of itself and its nearest neighbours."""
    nearest = torch.cdist(pixels, pixels).topk(1 + neighbours, largest=False).indices
    return hs.Incidence(nearest.tolist(), len(pixels))


def trained(
    topology: hs.Incidence, pixels: Tensor, labels: Tensor, use: str, layers: int, steps: int
) -> nn.Sequential:
    """A model that has seen the labels of the images it was given."""
    widths = [pixels.shape[1], *[32] * (layers - 1), 10]
    model = nn.Sequential(
        *(
            hs.HypergraphConv(
                before,
                after,
                topology,
                "softplus",
                weight_use=use,
                activation="relu" if after == 32 else None,
            )
            for before, after in pairwise(widths)
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels)[: len(labels)], labels).backward()
        optimizer.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Sequential, pixels: Tensor, labels: Tensor, seen: int, use: str) -> float:
    """Of unseen images, in percent, under a convention that need not be that of training."""
    for layer in model:
        layer.weight_use = use
    right = model(pixels)[seen:].argmax(-1) == labels[seen:]
    return 100 * right.double().mean().item()


def experiment(
    seeds: int, neighbours: int = 9, layers: int = 1, steps: int = 1000
) -> dict[tuple[str, str], list[float]]:
    """Accuracies for each convention of training and of evaluation, one for each seed."""
    pixels, labels = digits()
    found: dict[tuple[str, str], list[float]] = {(a, b): [] for a in WEIGHT_USES for b in WEIGHT_USES}
    for seed in range(seeds):
        torch.manual_seed(seed)
        order = torch.randperm(len(pixels))
        pixels, labels = pixels[order], labels[order]
        topology, seen = neighbourhoods(pixels, neighbours), len(pixels) // 2
        for of_training in WEIGHT_USES:
            model = trained(topology, pixels, labels[:seen], of_training, layers, steps)
            for use in WEIGHT_USES:
                found[of_training, use].append(accuracy(model, pixels, labels, seen, use))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--neighbours", type=int, default=9)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # of small products several make nothing faster
    found = experiment(**vars(arguments))
    print("accuracy on unseen images in percent: the mean, and the worst and best of the seeds")
    print(f"| trained under | evaluated under {' | '.join(WEIGHT_USES)} |")
    print("|---|" + "---|" * len(WEIGHT_USES))
    for of_training in WEIGHT_USES:
        cells = (found[of_training, use] for use in WEIGHT_USES)
        shown = (f"{sum(cell) / len(cell):.1f} ({min(cell):.1f} to {max(cell):.1f})" for cell in cells)
        print(f"| {of_training} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
