"""The cases, and the tensors that all contestants of a case share."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DTYPES = {"f32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# The width of a layer whose name has none.
LAYER_FEATURES = 256


@dataclass(frozen=True)
class Hypergraph:
    """Hyperedge `e` holds `vertices[pointers[e] : pointers[e + 1]]`. Both are int64, on the CPU."""

    n: int
    pointers: Tensor
    vertices: Tensor

    @property
    def m(self) -> int:
        return self.pointers.numel() - 1

    @property
    def nnz(self) -> int:
        return self.vertices.numel()

    def edges(self) -> Tensor:
        """The hyperedge of each incidence."""
        return torch.repeat_interleave(torch.arange(self.m), self.pointers.diff())

    def lists(self) -> list[list[int]]:
        """The vertices of each hyperedge."""
        ends, vertices = self.pointers.tolist(), self.vertices.tolist()
        return [vertices[begin:end] for begin, end in itertools.pairwise(ends)]

    def deduplicated(self) -> tuple[Hypergraph, Tensor]:
        """Each set of vertices once, without repeated vertices and empty hyperedges; and which those are."""
        kept: dict[tuple[int, ...], int] = {}
        for e, vertices in enumerate(self.lists()):
            if vertices:
                kept.setdefault(tuple(sorted(set(vertices))), e)
        return from_lists(self.n, list(kept)), torch.tensor(list(kept.values()), dtype=torch.int64)


def from_lists(n: int, hyperedges: list[tuple[int, ...]]) -> Hypergraph:
    pointers = torch.tensor([0, *map(len, hyperedges)]).cumsum(0)
    return Hypergraph(n, pointers, torch.tensor([v for vertices in hyperedges for v in vertices]).long())


def subsets(n: int, k: int) -> Hypergraph:
    """All subsets of k of n vertices, in lexicographic order."""
    return from_lists(n, list(itertools.combinations(range(n), k)))


def power_law(n: int, m: int, nnz: int) -> Hypergraph:
    """The hypergraph that `cargo bench --bench gpu` has under the same numbers (benches/gpu/cases.rs)."""
    prime, mask = 611_953, (1 << 64) - 1
    weights = np.array([float(e * prime % m + 1) ** -0.75 for e in range(m)])
    sums = np.cumsum(weights)
    pointers = np.zeros(m + 1, dtype=np.int64)
    pointers[1:] = (nnz * (sums / sums[-1])).astype(np.int64)
    pointers[m] = nnz
    # A linear congruential generator from state 1. The states double: k steps at once are linear, too.
    a, c = 6364136223846793005, 1442695040888963407
    state = np.empty(nnz, dtype=np.uint64)
    state[0] = (a + c) & mask
    have = 1
    while have < nnz:
        more = min(have, nnz - have)
        state[have : have + more] = state[:more] * np.uint64(a) + np.uint64(c)
        a, c, have = a * a & mask, (a * c + c) & mask, have + more
    uniform = (state >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    rank = np.minimum((n * (uniform * uniform * uniform)).astype(np.int64), n - 1)
    return Hypergraph(n, torch.from_numpy(pointers), torch.from_numpy(rank * prime % n))


def from_safetensors(path: Path) -> Hypergraph:
    """A file with the integers `n_vertices`, `edge_ptr` and `edge_vertices`. ValueError: what is wrong."""
    types = {"I64": np.int64, "I32": np.int32, "U64": np.uint64, "U32": np.uint32}
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8:start])
    except ValueError as error:
        raise ValueError(f"{path} is no safetensors file") from error

    def read(name: str) -> np.ndarray:
        if name not in header:
            raise ValueError(f"{path}: there is no {name}")
        dtype, (begin, end) = header[name]["dtype"], header[name]["data_offsets"]
        if dtype not in types:
            raise ValueError(f"{path}: {name} is of {dtype}, not of {', '.join(types)}")
        return np.frombuffer(content[start + begin : start + end], types[dtype]).astype(np.int64)

    n, pointers, vertices = map(read, ("n_vertices", "edge_ptr", "edge_vertices"))
    if n.size != 1 or n[0] < 1 or pointers.size < 2 or vertices.size < 1:
        raise ValueError(f"{path}: there is nothing to measure without vertices, hyperedges and incidences")
    if pointers[0] != 0 or pointers[-1] != vertices.size or (np.diff(pointers) < 0).any():
        raise ValueError(f"{path}: edge_ptr does not rise from 0 to the {vertices.size:,} incidences")
    if vertices.min() < 0 or vertices.max() >= n[0]:
        raise ValueError(f"{path}: edge_vertices has other numbers than those of {n[0]:,} vertices")
    return Hypergraph(int(n[0]), torch.from_numpy(pointers), torch.from_numpy(vertices))


@dataclass(frozen=True)
class Case:
    """A hypergraph, how many copies of it there are, and how many features a row has."""

    name: str
    table: str
    """"operators" or "layers"."""
    hypergraph: Callable[[int], Hypergraph]
    """Of a scale."""
    features: int
    instances: int = 1
    cpu_scale: int = 1
    """The scale where none is asked for, on the CPU."""
    by_default: bool = True
    """Whether it is there where no cases are asked for."""

    def of_features(self, features: int) -> Case:
        """A layer of as many inputs and outputs, with a name that tells it."""
        name = self.name if features == LAYER_FEATURES else f"{self.name}-{features}"
        return replace(self, name=name, features=features)

    def at(self, scale: int) -> tuple[Hypergraph, int]:
        """The hypergraph and the number of its copies. Both halves of a pair of copies differ, so that two
        are the fewest."""
        copies = self.instances if self.instances == 1 else max(self.instances // scale, 2)
        return self.hypergraph(scale), copies


def law(n: int, m: int, nnz: int, shrinks: bool) -> Callable[[int], Hypergraph]:
    def at(scale: int) -> Hypergraph:
        by = scale if shrinks else 1
        return power_law(max(n // by, 64), max(m // by, 64), max(nnz // by, 1_000))

    return at


CASES = [
    Case("A", "operators", lambda _: subsets(8, 2), 256, 24_576, 8),
    Case("A64", "operators", lambda _: subsets(8, 2), 64, 24_576, 8),
    Case("B", "operators", lambda _: subsets(16, 3), 256, 24_576, 48),
    Case("C", "operators", law(2_708, 1_579, 4_786, False), 256),
    # As many rows in each.
    Case("L4", "layers", lambda _: subsets(4, 2), LAYER_FEATURES, 49_152, 8, by_default=False),
    Case("L8", "layers", lambda _: subsets(8, 2), LAYER_FEATURES, 24_576, 8),
    Case("L16", "layers", lambda _: subsets(16, 2), LAYER_FEATURES, 12_288, 8),
    # Last: what does not fit, or breaks, costs nothing else then.
    Case("D", "operators", law(1_000_000, 1_000_000, 100_000_000, True), 64, 1, 50),
]


def case_of_file(path: Path) -> Case:
    """Raises OSError or ValueError where that holds no hypergraph."""
    hypergraph = from_safetensors(path)
    return Case(path.stem, "operators", lambda _: hypergraph, 256)


class Problem:
    """A hypergraph in `instances` copies, with rows of features of one type, on a device. Tables are made
    when they are first asked for, and shared by whoever asks."""

    def __init__(
        self, hypergraph: Hypergraph, instances: int, features: int, dtype: str, device: str
    ) -> None:
        self.hypergraph, self.G, self.F, self.dtype, self.device = (
            hypergraph,
            instances,
            features,
            dtype,
            device,
        )
        self.n, self.m = hypergraph.n, hypergraph.m
        self.N, self.M = self.n * instances, self.m * instances
        self.element = DTYPES[dtype]
        # Far from zero, and the same for all contestants.
        generator = torch.Generator().manual_seed(1)
        self.w = (torch.rand(self.m, generator=generator) + 0.5).to(device)
        theta = torch.randn(features, features, generator=generator) / math.sqrt(features)
        self.theta = theta.to(device, self.element)
        self.bias = torch.randn(features, generator=generator).to(device, self.element)

    def of(self, instances: int) -> Problem:
        """The same with another number of copies."""
        if instances == self.G:
            return self
        return Problem(self.hypergraph, instances, self.F, self.dtype, self.device)

    @cached_property
    def own(self) -> Tensor:
        """Weights of each instance's own."""
        generator = torch.Generator().manual_seed(2)
        return (torch.rand(self.G, self.m, generator=generator) + 0.5).to(self.device)

    def rows(self, seed: int) -> Tensor:
        """Random normals, [instances, n, F]."""
        generator = torch.Generator(self.device).manual_seed(seed)
        shape = (self.G, self.n, self.F)
        return torch.randn(shape, generator=generator, device=self.device, dtype=self.element)

    @property
    def row_bytes(self) -> int:
        """Of x."""
        return self.N * self.F * self.element.itemsize

    def _batched(self, ids: Tensor, stride: int) -> Tensor:
        starts = torch.arange(self.G, device=self.device) * stride
        return (starts[:, None] + ids.to(self.device)).flatten()

    @cached_property
    def index(self) -> Tensor:
        """[2, incidences] of all instances, vertices above hyperedges, as one large hypergraph."""
        h = self.hypergraph
        return torch.stack([self._batched(h.vertices, self.n), self._batched(h.edges(), self.m)])

    @cached_property
    def inverse_sizes(self) -> Tensor:
        """1 / B of one instance."""
        return safe_inverse(self.hypergraph.pointers.diff().float()).to(self.device)

    @cached_property
    def incidence(self) -> Tensor:
        """H of one instance, dense [n, m], f32. Repeated incidences count."""
        h = torch.zeros(self.n, self.m)
        places = (self.hypergraph.vertices, self.hypergraph.edges())
        return h.index_put_(places, torch.ones(self.hypergraph.nnz), accumulate=True).to(self.device)

    def degrees(self, w: Tensor) -> Tensor:
        """D(w) of one instance, f32."""
        if self.n <= 64:
            return self.incidence @ w
        ids, edges = self.hypergraph_index
        return torch.zeros(self.n, device=self.device).index_add_(0, ids, w.index_select(0, edges))

    @cached_property
    def hypergraph_index(self) -> Tensor:
        """The index of one instance."""
        return torch.stack([self.hypergraph.vertices, self.hypergraph.edges()]).to(self.device)

    def csr(self, index_type: torch.dtype, by_vertex: bool) -> tuple[Tensor, Tensor]:
        """Pointers and ids of H (by vertex) or its transpose, of all instances."""
        h, width = self.hypergraph, self.n
        pointers, ids = h.pointers.to(self.device), h.vertices.to(self.device)
        if by_vertex:
            counts = torch.bincount(ids, minlength=self.n)
            pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            width, ids = self.m, h.edges().to(self.device)[torch.argsort(ids, stable=True)]
        ends = torch.cat([self._batched(pointers[:-1], h.nnz), self._batched(pointers[-1:], h.nnz)[-1:]])
        return ends.to(index_type), self._batched(ids, width).to(index_type)


def safe_inverse(d: Tensor) -> Tensor:
    """1 / d, and 0 where d is 0."""
    zero = d == 0
    return (1 / d.masked_fill(zero, 1)).masked_fill(zero, 0)


def reference(p: Problem, x: Tensor, w: Tensor, convention: str) -> Tensor:
    """The convolution of x [G, n, F] in float64, which can be differentiated; w is [m] or [G, m]."""
    values = torch.ones(p.index.shape[1], dtype=torch.float64, device=p.device)
    h = torch.sparse_coo_tensor(p.index, values, (p.N, p.M)).coalesce()
    transposed = h.t().coalesce()
    w = w.expand(p.G, p.m).reshape(-1, 1)
    one = torch.ones_like(w)
    in_message, in_degree = {
        "documented": (w, w),
        "degree_only": (one, w),
        "message_only": (w, one),
    }[convention]
    degree = torch.sparse.mm(h, in_degree)
    size = torch.sparse.mm(transposed, torch.ones(p.N, 1, dtype=torch.float64, device=p.device))
    z = torch.sparse.mm(transposed, x.reshape(p.N, p.F)) * (in_message * safe_inverse(size))
    return (torch.sparse.mm(h, z) * safe_inverse(degree)).view(p.G, p.n, p.F)
