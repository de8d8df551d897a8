"""For programs that use PyTorch Geometric: its `HypergraphConv` with the same interface and the same numbers,
and its batches.

Nothing here imports PyTorch Geometric.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from . import _calls, _layers, functional
from ._library import Error
from .topology import Batch, Incidence

__all__ = ["HypergraphConv", "from_pyg"]

_MOST_STRUCTURES = 8


class _LazyTheta(nn.LazyLinear):
    """Θ whose number of inputs the first call tells."""

    cls_to_become = nn.Linear  # pyright: ignore[reportAssignmentType]

    def reset_parameters(self) -> None:
        if not is_lazy(self) and self.in_features != 0:
            nn.init.xavier_uniform_(self.weight)


def is_lazy(lin: nn.Linear) -> bool:
    """Whether Θ has no size yet."""
    return nn.parameter.is_lazy(lin.weight)


class HypergraphConv(nn.Module):
    """In the place of `torch_geometric.nn.HypergraphConv` 2.8: what it computes, `y = D⁻¹ H B⁻¹ Hᵀ X Θ + b`.

    Weights are in the degrees D alone (`weight_use="degree_only"`). Where the original's gradients are NaN (a
    vertex whose degree is 0) these are finite. Parameters have its names, and load its state dicts.

    The structure of a `hyperedge_index` is kept as long as that very tensor lives and is not written: give
    the same tensor again. A new one is copied to the host, which waits for the device. The last eight
    structures are kept, and none of an index that was made in inference mode, of which nobody can tell
    whether it was written.

    Attention is not there yet.

    Args:
        in_channels: features of x, or -1 to take them from the first call.
        out_channels: features of y.
        bias: whether a bias is learned.
    """

    rebuilds: int
    """How often a structure was built anew."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        use_attention: bool = False,
        attention_mode: str = "node",
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if attention_mode not in ("node", "edge"):
            raise ValueError(f"attention_mode must be 'node' or 'edge', and is {attention_mode!r}")
        if use_attention:
            raise NotImplementedError(
                "use_attention=True: attention is not there yet; keep "
                "torch_geometric.nn.HypergraphConv for this layer"
            )
        del heads, concat, negative_slope, dropout  # which the original does not use without attention either
        if kwargs.pop("aggr", "add") not in ("add", "sum"):
            raise NotImplementedError("aggr: rows are added, as is the original's default")
        if kwargs:
            raise TypeError(f"unknown arguments: {', '.join(kwargs)}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.use_attention, self.attention_mode = False, attention_mode
        self.heads, self.concat = 1, True
        if in_channels == -1:
            self.lin: nn.Linear = _LazyTheta(out_channels, bias=False)
        else:
            self.lin = nn.Linear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.rebuilds = 0
        self._structures: list[tuple[Any, int, int, int, Incidence]] = []
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Θ as in Glorot and Bengio 2010, the bias 0."""
        if not is_lazy(self.lin):
            nn.init.xavier_uniform_(self.lin.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        x: Tensor,
        hyperedge_index: Tensor,
        hyperedge_weight: Tensor | None = None,
        hyperedge_attr: Tensor | None = None,
        num_edges: int | None = None,
    ) -> Tensor:
        """As the original.

        Args:
            x: `[n, in_channels]`.
            hyperedge_index: `[2, n_incidences]`, vertices above hyperedges, in any order.
            hyperedge_weight: `[m]`; 1 by default.
            hyperedge_attr: not used, as in the original without attention.
            num_edges: `m`, where it is not the number of weights or one more than the largest id.

        Returns:
            `[n, out_channels]`.
        """
        del hyperedge_attr
        if x.dim() != 2:
            raise Error(f"x must have the shape [n, in_channels], and has {tuple(x.shape)}")
        incidence = self._structure(hyperedge_index, x.shape[0], hyperedge_weight, num_edges)
        theta = _layers.theta_of(self.lin)
        if hyperedge_weight is not None:
            hyperedge_weight = hyperedge_weight.flatten().to(_calls.accumulation(x.dtype))
        conventions: Any = {"weight_use": "degree_only", "bias": self.bias}
        if theta is not None:
            return functional.layer(x, theta, incidence, hyperedge_weight, **conventions)
        return functional.conv(self.lin(x), incidence, hyperedge_weight, **conventions)

    @functional.eager
    def _structure(
        self, index: Tensor, n_vertices: int, weight: Tensor | None, num_edges: int | None
    ) -> Incidence:
        # A hyperedge without a weight cannot be in the index, and one without incidences does nothing.
        m = num_edges if weight is None else weight.numel()
        wanted = -1 if m is None else m
        version = -1 if index.is_inference() else index._version
        for of, seen, n, given, found in self._structures:
            if of() is index and (seen, n, given) == (version, n_vertices, wanted) and seen >= 0:
                return found
        found = Incidence.from_hyperedge_index(index, n_vertices, m)
        self.rebuilds += 1
        living = [(entry, entry[0]()) for entry in self._structures]
        others = [
            entry for entry, of in living if of is not None and (of is not index or entry[1] == version)
        ]
        self._structures = others[1 - _MOST_STRUCTURES :]
        self._structures.append((weakref.ref(index), version, n_vertices, wanted, found))
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_structures": []}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels})"


def from_pyg(
    batch: Any, num_hyperedges: str | Tensor | list[int], *, hyperedge_index: str = "hyperedge_index"
) -> Batch:
    """A `hyperscatter.Batch` from a batch of PyTorch Geometric's loader.

    Args:
        batch: a `torch_geometric.data.Batch`.
        num_hyperedges: how many hyperedges each graph owns, or the name of the attribute that tells.
        hyperedge_index: the name of the attribute that holds the index.

    Raises:
        Error: for an incidence that joins a vertex of one graph with a hyperedge of another. That is what a
        loader gives that shifts both rows by the number of vertices: see MIGRATION.md.
    """
    index = getattr(batch, hyperedge_index)
    ptr = getattr(batch, "ptr", None)
    if ptr is None:
        raise Error("from_pyg takes a batch of several graphs, which has `ptr`; one graph is an Incidence")
    counts = getattr(batch, num_hyperedges) if isinstance(num_hyperedges, str) else num_hyperedges
    counts = torch.as_tensor(counts)
    return Batch.from_hyperedge_index(index, ptr.diff(), counts.reshape(-1))
