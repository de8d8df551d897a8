"""The layer beside a loop over tokens: bits of the first step, losses of those after it.

    python -m coupled_experts.compare --experts 8 --subsets 2 --steps 5

The first step gives the same bits of outputs and of the gradients of all features. The gradients of weights
and biases are sums over tokens, and their order is not the same, so losses after that differ in the last
digits.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from .__main__ import shape_arguments, shape_of
from .model import Shape, loss_of
from .text import Text, batch
from .training import new_model, train


def first_step(model: nn.Module, ids: Tensor, following: Tensor) -> list[Tensor]:
    """What couplers get and give, and the gradients of both."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...], got: Tensor) -> None:
        for tensor in (given[0], got):
            tensor.retain_grad()
            kept.append(tensor)

    hooks = [block.experts.coupler.register_forward_hook(keep) for block in model.blocks]
    loss_of(model, ids, following).backward()
    for hook in hooks:
        hook.remove()
    return [*(tensor.detach() for tensor in kept), *(tensor.grad for tensor in kept)]


def compare(
    shape: Shape, text: Text, steps: int, sequences: int, device: torch.device, seed: int = 0
) -> tuple[bool, float]:
    """Whether the first step has the same bits, and by how much losses differ at most.

    Args:
        shape: its coupling does not matter.
        text: the text.
        steps: how many steps both are trained.
        sequences: sequences of a step.
        device: where.
        seed: of the first parameters.
    """
    shapes = [Shape(**{**vars(shape), "coupling": kind}) for kind in ("hyperscatter", "loop")]
    models = [new_model(each, text, device, seed) for each in shapes]
    ids, following = (part.to(device) for part in batch(text.train, 0, sequences, shape.length))
    ours, loop = (first_step(model, ids, following) for model in models)
    same = all(torch.equal(a, b) for a, b in zip(ours, loop, strict=True))
    losses = [
        train(model, text, each, range(steps), sequences=sequences).losses
        for model, each in zip(models, shapes, strict=True)
    ]
    return same, max(abs(a - b) for a, b in zip(*losses, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5)
    shape_arguments(parser)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    same, difference = compare(
        shape_of(arguments), Text.read(), arguments.steps, arguments.sequences, device, arguments.seed
    )
    print(
        f"first step: {'the same bits' if same else 'other bits'}; losses differ by at most {difference:.1e}"
    )


if __name__ == "__main__":
    main()
