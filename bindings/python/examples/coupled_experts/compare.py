"""The layer beside a loop over tokens: bits of the first step, losses of those after it.

    python -m coupled_experts.compare --experts 8 --subsets 2 --steps 5

Hyperedge weights and biases are random, so that a wrong use of them shows. The first step gives the same bits
of outputs and of the gradients of all features. The gradients of weights and biases are sums over tokens, and
their order is not the same, so losses after that differ in the last digits. The program fails where bits of
the first step, or losses by more than 1e-5, are others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .arguments import add_model, count, new_parser, parse, shape_of
from .model import Shape, loss_of
from .text import Text, batch
from .training import new_model, train

MOST = 1e-5
"""By which losses may differ."""


@torch.no_grad()
def scatter_weights(model: nn.Module, seed: int) -> None:
    """Draws the hyperedge weights and biases of couplers, which are all the same in a new model."""
    random = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for parameter in (block.experts.coupler.weight, block.experts.coupler.bias):
            parameter.copy_(torch.randn(parameter.shape, generator=random))


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
    """Whether the first step has the same bits, and by how much losses differ at most (NaN: not comparable).

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
    for model in models:
        scatter_weights(model, seed)
    ids, following = (part.to(device) for part in batch(text.train, 0, sequences, shape.length))
    ours, loop = (first_step(model, ids, following) for model in models)
    same = all(torch.equal(a, b) for a, b in zip(ours, loop, strict=True))
    losses = [
        train(model, text, each, range(steps), sequences=sequences).losses
        for model, each in zip(models, shapes, strict=True)
    ]
    ours, loop = torch.tensor(losses, dtype=torch.float64)
    return same, (ours - loop).abs().max().item()


def main(given: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--steps", type=count, default=5)
    parser.add_argument("--weight-use", choices=("documented", "degree_only"), default="documented")
    add_model(parser)
    arguments = parse(parser, given)
    shape, device = shape_of(arguments, weight_use=arguments.weight_use), torch.device(arguments.device)
    same, difference = compare(
        shape, Text.read(), arguments.steps, arguments.sequences, device, arguments.seed
    )
    print(
        f"first step: {'the same bits' if same else 'other bits'}; losses differ by at most {difference:.1e}"
    )
    if not same or not difference <= MOST:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
