"""The convolution by dense matrices: what results are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

import hyperscatter as hs

USES = ("documented", "degree_only", "message_only")
NORMALIZATIONS = ("row", "symmetric", "none")


def incidence_matrix(of: hs.Incidence, dtype: torch.dtype = torch.float64) -> Tensor:
    """H, `[n, m]`; repeated incidences count."""
    h = torch.zeros(of.n_vertices, of.n_hyperedges, dtype=dtype)
    for e, members in enumerate(of.hyperedges()):
        for v in members:
            h[v, e] += 1
    return h


def operator(of: hs.Incidence, w: Tensor, use: str = "documented", normalization: str = "row") -> Tensor:
    """M, `[..., n, n]`, of weights `[..., m]`."""
    h = incidence_matrix(of, w.dtype)
    one = torch.ones_like(w)
    degree = ((one if use == "message_only" else w).unsqueeze(-2) * h).sum(-1)
    message = one if use == "degree_only" else w
    size = h.sum(0)
    zero = degree == 0
    safe = degree.masked_fill(zero, 1)
    m = (h * (message / size.masked_fill(size == 0, 1)).unsqueeze(-2)) @ h.T
    if normalization == "row":
        return m * (1 / safe).masked_fill(zero, 0).unsqueeze(-1)
    if normalization == "symmetric":
        root = safe.rsqrt().masked_fill(zero, 0)
        return root.unsqueeze(-1) * m * root.unsqueeze(-2)
    return m


def drawn(n: int, m: int, nnz: int) -> hs.Incidence:
    """A hypergraph with isolated vertices, empty hyperedges and repeats, as it comes."""
    return hs.Incidence.from_hyperedge_index(
        torch.stack([torch.randint(0, n, (nnz,)), torch.randint(0, m, (nnz,))]), n, m
    )
