"""The language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperscatter.functional import WeightUse

from .couplers import Coupling, coupler


@dataclass(frozen=True)
class Shape:
    """What the model is made of."""

    experts: int = 8
    subsets: int = 2
    """How many experts a hyperedge holds."""
    coupling: Coupling = "hyperscatter"
    weight_use: WeightUse = "documented"
    width: int = 64
    heads: int = 4
    layers: int = 2
    length: int = 128
    """The longest sequence."""


class Attention(nn.Module):
    """Causal attention, which mixes the characters of a sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inner = nn.Linear(width, 3 * width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, length, width = x.shape
        q, k, v = self.inner(x).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.outer(y.transpose(1, 2).reshape(b, length, width))


class CoupledExperts(nn.Module):
    """All experts of a token, coupled by its hypergraph, and the mean of them that a gate weighs."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        e, f, hidden = shape.experts, shape.width, 2 * shape.width
        self.gate = nn.Linear(f, e)
        self.inner = nn.Parameter(torch.randn(e, f, hidden) * f**-0.5)
        self.outer = nn.Parameter(torch.randn(e, hidden, f) * hidden**-0.5)
        self.inner_bias = nn.Parameter(torch.zeros(e, 1, hidden))
        self.outer_bias = nn.Parameter(torch.zeros(e, 1, f))
        self.coupler = coupler(shape.coupling, f, e, shape.subsets, shape.weight_use)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        of_each = tokens.expand(len(self.inner), *tokens.shape)
        hidden = functional.gelu(torch.baddbmm(self.inner_bias, of_each, self.inner))
        experts = torch.baddbmm(self.outer_bias, hidden, self.outer)
        # Experts lie one behind the other. The layer reads a token's rows where they are.
        coupled = self.coupler(experts.transpose(0, 1))
        shares = self.gate(tokens).softmax(-1)
        return torch.einsum("te,tef->tf", shares, coupled).view_as(x)


class Block(nn.Module):
    """Attention, then experts."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in range(2))
        self.attention = Attention(shape.width, shape.heads)
        self.experts = CoupledExperts(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.experts(self.norms[1](x))


class LanguageModel(nn.Module):
    """The scores of the next character, `[sequences, length, characters]`."""

    def __init__(self, shape: Shape, characters: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, shape.width)
        self.places = nn.Embedding(shape.length, shape.width)
        for table in (self.characters, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.characters(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.characters.weight)  # the head is the embedding


def loss_of(model: nn.Module, ids: Tensor, following: Tensor) -> Tensor:
    """The mean cross entropy of the next characters."""
    return functional.cross_entropy(model(ids).flatten(0, 1), following.flatten())
