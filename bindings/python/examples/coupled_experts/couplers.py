"""What couples the experts of a token: every token is one instance of the same small hypergraph."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

import hyperscatter as hs
from hyperscatter.functional import WeightUse

Coupling = Literal["none", "loop", "pyg", "hyperscatter"]
COUPLINGS = ("none", "loop", "pyg", "hyperscatter")


class Loop(hs.HypergraphConv):
    """The layer with one call for each token.

    Θ is applied to all tokens at once, as in the layer: a matrix product of fewer rows may sum in another
    order. So the bits of outputs and of features' gradients are those of the layer. Gradients of weights and
    bias are sums over tokens, which autograd adds in another order here.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        assert self.topology is not None
        weight = self.hyperedge_weight()
        # unbind, because the backward of x[i] would fill a tensor of the size of x for each i.
        rows = [
            hs.conv(
                h,
                self.topology,
                weight,
                weight_use=self.weight_use,
                bias=self.bias,
                activation=self.activation,
                residual=residual,
            )
            for h, residual in zip(self.lin(x).unbind(), x.unbind(), strict=True)
        ]
        return torch.stack(rows)


class PyG(nn.Module):
    """The layer of PyTorch Geometric, on one hypergraph that holds all tokens' side by side.

    Its loader shifts both rows of an index by numbers of vertices. Here hyperedges are shifted by numbers of
    hyperedges, as they must be. Weights are in the degree alone, which is what that layer computes.
    """

    def __init__(self, width: int, hyperedges: list[tuple[int, ...]], n_experts: int) -> None:
        from torch_geometric.nn import HypergraphConv

        super().__init__()
        self.conv = HypergraphConv(width, width)
        self.weight = nn.Parameter(torch.full((len(hyperedges),), 1.0).expm1().log())
        self.n_experts, self.n_hyperedges = n_experts, len(hyperedges)
        vertices = torch.tensor([v for members in hyperedges for v in members])
        owners = torch.tensor([e for e, members in enumerate(hyperedges) for _ in members])
        self.register_buffer("index", torch.stack([vertices, owners]), persistent=False)
        self._batched: dict[tuple[int, torch.device], Tensor] = {}

    def batched(self, tokens: int) -> Tensor:
        """The index of that many copies, built once."""
        index: Tensor = self.index  # type: ignore[assignment]
        key = (tokens, index.device)
        if key not in self._batched:
            shift = torch.tensor([self.n_experts, self.n_hyperedges], device=index.device)
            copies = torch.arange(tokens, device=index.device).view(-1, 1, 1) * shift.view(1, 2, 1)
            self._batched[key] = (index + copies).transpose(0, 1).reshape(2, -1)
        return self._batched[key]

    def forward(self, x: Tensor) -> Tensor:
        tokens, experts, width = x.shape
        weight = nn.functional.softplus(self.weight).repeat(tokens)
        m = tokens * self.n_hyperedges
        y = self.conv(x.reshape(-1, width), self.batched(tokens), weight, num_edges=m)
        return nn.functional.gelu(y).view(tokens, experts, width) + x


def coupler(
    kind: Coupling, width: int, n_experts: int, subsets: int, weight_use: WeightUse = "documented"
) -> nn.Module:
    """Couples experts' outputs, `[tokens, experts, width]`, over all pairs or triples of them."""
    if kind == "none":
        return nn.Identity()
    if kind == "pyg":
        return PyG(width, list(combinations(range(n_experts), subsets)), n_experts)
    topology = hs.Incidence.subsets(n_experts, subsets)
    layer = Loop if kind == "loop" else hs.HypergraphConv
    return layer(width, width, topology, "softplus", weight_use=weight_use, activation="gelu", residual=True)
