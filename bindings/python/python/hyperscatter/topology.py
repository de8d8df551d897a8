"""Hypergraphs, batches of them, and windows of weights."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from ._library import Error, Handle, Indices, call, ffi, lib
from ._packed import HEAD, Kind, Reader, check, fingerprint, integers, on_cpu, on_host, pack

__all__ = ["Batch", "Incidence", "Windows"]

Repeats = Literal["keep", "reject", "merge"]
SelfLoops = Literal["none", "isolated", "all"]


def choice(what: str, name: str, choices: Sequence[str]) -> int:
    """The place of a name among choices."""
    try:
        return list(choices).index(name)
    except ValueError:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, choices))}, and is {name!r}") from None


def _repeats(name: str) -> int:
    return choice("repeats", name, ("keep", "reject", "merge"))


class _Structure:
    """What both kinds of topology have."""

    packed: Tensor
    """The structure as operators take it (see `torch.ops.hyperscatter`): never changed, always on the CPU."""
    n_vertices: int
    n_hyperedges: int
    has_layers: bool
    """Whether kernels compute whole layers in one pass: of up to 16 vertices, in most cases."""

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits, the same wherever the structure is the same."""
        return fingerprint(self.packed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Structure) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def _own(self, packed: Tensor, handle: Handle) -> None:
        from ._structures import structures

        self.packed = packed
        # As long as this object lives its plans are kept.
        self._structure = structures.own(packed, handle)
        # Now: a compiled graph can read it, but not ask the library.
        self.has_layers = self._structure.has_layers

    def __getstate__(self) -> dict[str, Any]:
        return {"packed": self.packed}


class Incidence(_Structure):
    """One hypergraph, of which calls compute any number of copies.

    Args:
        hyperedges: the vertices of each hyperedge.
        n_vertices: how many vertices there are, isolated ones included.
        repeats: what becomes of a vertex that a hyperedge lists twice: it counts twice, as in PyTorch
            Geometric (`"keep"`), is an error (`"reject"`), or counts once (`"merge"`).
        self_loops: further hyperedges of one vertex each, behind the others: for no vertex, for those without
            a hyperedge, or for all.

    Raises:
        Error: for ids out of range, and refused repeats.
    """

    def __init__(
        self,
        hyperedges: Iterable[Iterable[int]],
        n_vertices: int,
        *,
        repeats: Repeats = "keep",
        self_loops: SelfLoops = "none",
    ) -> None:
        lists = [list(members) for members in hyperedges]
        ends = integers([0, *accumulate(map(len, lists))])
        members = integers([v for vertices in lists for v in vertices])
        self._take(self._csr(ends, members, n_vertices, repeats), self_loops)

    @classmethod
    def from_csr(
        cls,
        edge_ptr: Tensor | Sequence[int],
        edge_vertices: Tensor | Sequence[int],
        n_vertices: int,
        *,
        repeats: Repeats = "keep",
        self_loops: SelfLoops = "none",
    ) -> Incidence:
        """From compressed sparse rows: hyperedge `e` holds `edge_vertices[edge_ptr[e]:edge_ptr[e + 1]]`."""
        new = cls.__new__(cls)
        handle = cls._csr(integers(edge_ptr), integers(edge_vertices), n_vertices, repeats)
        new._take(handle, self_loops)
        return new

    @classmethod
    def from_hyperedge_index(
        cls,
        hyperedge_index: Tensor,
        n_vertices: int | None = None,
        n_hyperedges: int | None = None,
        *,
        repeats: Repeats = "keep",
        self_loops: SelfLoops = "none",
    ) -> Incidence:
        """From PyTorch Geometric's `hyperedge_index`, `[2, n_incidences]`: vertices above their hyperedges,
        in any order.

        Numbers that are not given are one more than the largest id, so that vertices and hyperedges at the
        end that are in no incidence are missed. A tensor on a device is copied to the host, which waits for
        the device.
        """
        vertices, hyperedges = _two_rows(hyperedge_index)
        n, m = _counted(vertices, n_vertices), _counted(hyperedges, n_hyperedges)
        v, e = Indices.of(vertices), Indices.of(hyperedges)
        new = cls.__new__(cls)
        make = lib.hs_incidence_from_coo
        new._take(Handle("incidence", make, n, m, v.struct, e.struct, _repeats(repeats)), self_loops)
        return new

    @classmethod
    def subsets(cls, n: int, k: int, *, self_loops: SelfLoops = "none") -> Incidence:
        """All subsets of `k` of `n` vertices, in lexicographic order."""
        new = cls.__new__(cls)
        new._take(Handle("incidence", lib.hs_incidence_subsets, _size(n), _size(k)), self_loops)
        return new

    @classmethod
    def pairs(cls, n: int, *, self_loops: SelfLoops = "none") -> Incidence:
        """All pairs of `n` vertices."""
        return cls.subsets(n, 2, self_loops=self_loops)

    def with_self_loops(self, of: SelfLoops = "all") -> Incidence:
        """The same with further hyperedges of one vertex each, ascending, behind the others."""
        found = self._looped.get(of)
        if found is None:
            new = type(self).from_csr(*self._arrays(), self.n_vertices, self_loops=of)
            found = self._looped.setdefault(of, new)
        return found

    @staticmethod
    def _csr(edge_ptr: Tensor, edge_vertices: Tensor, n_vertices: int, repeats: str) -> Handle:
        pointers, members = Indices.of(edge_ptr), Indices.of(edge_vertices)
        make = lib.hs_incidence_from_csr
        n = _size(n_vertices)
        return Handle("incidence", make, n, pointers.struct, members.struct, _repeats(repeats))

    def _take(self, handle: Handle, self_loops: str) -> None:
        loops = choice("self_loops", self_loops, ("none", "isolated", "all"))
        if loops:
            handle = Handle("incidence", lib.hs_incidence_with_self_loops, handle.raw, loops)
        sizes = ffi.new("hs_incidence_sizes *")
        call(lib.hs_incidence_get_sizes(handle.raw, sizes))
        n, m, nnz = sizes.vertices, sizes.hyperedges, sizes.incidences
        with on_host():
            edge_ptr, edge_vertices = (torch.empty(k, dtype=torch.int64) for k in (m + 1, nnz))
        arrays = (ffi.cast("int64_t *", array.data_ptr()) for array in (edge_ptr, edge_vertices))
        call(lib.hs_incidence_get_csr(handle.raw, *arrays))
        self._own(pack(Kind.COPIES, n, m, edge_ptr, edge_vertices), handle)
        self._describe()

    def _describe(self) -> None:
        read = Reader(self.packed)
        read.number()
        self.n_vertices, self.n_hyperedges = read.number(), read.number()
        self._n_incidences = read.rest.numel() - (self.n_hyperedges + 1)
        self._looped: dict[str, Incidence] = {}

    def _arrays(self) -> tuple[Tensor, Tensor]:
        """Where hyperedges end, and their vertices: the packed tensor's own, which never changes."""
        read = Reader(self.packed)
        for _ in range(3):
            read.number()
        return read.array(self.n_hyperedges + 1), read.rest

    def __setstate__(self, state: dict[str, Any]) -> None:
        read = Reader(state["packed"])
        if read.number() != Kind.COPIES:
            raise Error("this is no packed Incidence")
        n, m = read.number(), read.number()
        self._take(self._csr(read.array(m + 1), read.rest, n, "keep"), "none")

    @property
    @on_host()
    def edge_ptr(self) -> Tensor:
        """Where each hyperedge begins in `edge_vertices`, and where the last one ends: a copy, `[m + 1]`."""
        return self._arrays()[0].clone()

    @property
    @on_host()
    def edge_vertices(self) -> Tensor:
        """The vertices of each hyperedge in turn: a copy, `[n_incidences]`."""
        return self._arrays()[1].clone()

    @property
    def n_incidences(self) -> int:
        """How many incidences there are, repeated ones included."""
        return self._n_incidences

    @on_host()
    def hyperedges(self) -> list[list[int]]:
        """The vertices of each hyperedge."""
        ends, members = (array.tolist() for array in self._arrays())
        return [members[begin:end] for begin, end in pairwise(ends)]

    def __repr__(self) -> str:
        return (
            f"Incidence({self.n_vertices} vertices, {self.n_hyperedges} hyperedges, "
            f"{self.n_incidences} incidences)"
        )


class Batch(_Structure):
    """A table of instances, each a copy of one of several hypergraphs.

    Rows of all instances follow each other, `[n_vertices, F]`, or are padded to those of the largest,
    `[n_instances, largest_vertices, F]`.

    Args:
        incidences: the hypergraphs.
        topology_ids: which of them each instance is; one instance of each, in order, by default.
    """

    n_instances: int
    largest_vertices: int
    largest_hyperedges: int

    def __init__(
        self, incidences: Sequence[Incidence], topology_ids: Tensor | Sequence[int] | None = None
    ) -> None:
        ids = integers(range(len(incidences)) if topology_ids is None else topology_ids)
        parts: list[Tensor | int] = [len(incidences), ids.numel()]
        handles = []
        for of in incidences:
            ends, members = of._arrays()
            parts += [of.n_vertices, of.n_hyperedges, members.numel(), ends, members]
            handles.append(Incidence._csr(ends, members, of.n_vertices, "keep"))
        self._finish(pack(Kind.TABLE, *parts, ids), table(handles, ids))

    @classmethod
    def from_hyperedge_index(
        cls,
        hyperedge_index: Tensor,
        n_vertices: Tensor | Sequence[int],
        n_hyperedges: Tensor | Sequence[int],
        *,
        repeats: Repeats = "keep",
        all_in_first: Literal["reject", "accept"] = "reject",
    ) -> Batch:
        """From an already batched index, `[2, n_incidences]`, whose ids are numbered over the whole batch.

        `n_vertices` and `n_hyperedges` have for each graph how many it owns. Each incidence is checked
        against them, so that an index whose hyperedges were shifted by the wrong numbers is refused, not
        merged.

        Raises:
            Error: for an incidence that joins two graphs, or an index that looks as if nobody had shifted it
                (`all_in_first="accept"` where all incidences are meant to be in the first graph).
        """
        vertices, hyperedges = _two_rows(hyperedge_index)
        counts = integers(n_vertices), integers(n_hyperedges)
        accept = choice("all_in_first", all_in_first, ("reject", "accept"))
        new = cls.__new__(cls)
        head = (counts[0].numel(), vertices.numel(), _repeats(repeats), accept)
        handle = from_coordinates(*head, vertices, hyperedges, *counts)
        new._finish(pack(Kind.COORDINATES, *head, vertices, hyperedges, *counts), handle)
        return new

    def _finish(self, packed: Tensor, handle: Handle) -> None:
        self._own(packed, handle)
        sizes = self._structure.sizes
        self.n_instances = sizes.instances
        self.largest_vertices, self.largest_hyperedges = sizes.n, sizes.m
        self.n_vertices, self.n_hyperedges = sizes.vertices, sizes.hyperedges

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = on_cpu(state["packed"])
        self._finish(packed, restored(packed))

    def vertex_starts(self) -> list[int]:
        """Where the vertices of each instance begin among all, and how many there are."""
        return self._structure.starts(lib.HS_VERTEX)

    def hyperedge_starts(self) -> list[int]:
        """Where the hyperedges of each instance begin among all, and how many there are."""
        return self._structure.starts(lib.HS_HYPEREDGE)

    def __repr__(self) -> str:
        return (
            f"Batch({self.n_instances} instances, {self.n_vertices} vertices, {self.n_hyperedges} hyperedges)"
        )


class Windows:
    """Where each instance's window of weights begins.

    Instance `g` reads as many weights from `offsets[g]` on as its topology has hyperedges. Windows may
    overlap.

    Args:
        offsets: one for each instance of a `Batch`, or for each copy of an `Incidence` in the order of the
            leading dimensions of x.
    """

    packed: Tensor

    def __init__(self, offsets: Tensor | Sequence[int]) -> None:
        self.packed = pack(Kind.WINDOWS, integers(offsets))

    def __getstate__(self) -> dict[str, Any]:
        return {"packed": self.packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.packed = on_cpu(state["packed"])

    @property
    @on_host()
    def offsets(self) -> Tensor:
        """Where they begin: a copy, `[n]`."""
        return self.packed[HEAD:].clone()

    def __repr__(self) -> str:
        return f"Windows({self.offsets.numel()} offsets)"


def table(handles: Sequence[Handle], ids: Tensor) -> Handle:
    """A batch of a table of instances."""
    raw = ffi.new("hs_incidence *[]", [handle.raw for handle in handles])
    return Handle("batch", lib.hs_batch_from_table, raw, len(handles), Indices.of(ids).struct)


def from_coordinates(
    n_graphs: int, n_incidences: int, repeats: int, all_in_first: int, *arrays: Tensor
) -> Handle:
    """A batch of an already batched index."""
    del n_incidences
    given = [Indices.of(array) for array in arrays]
    make = lib.hs_batch_from_batched_coo
    return Handle("batch", make, n_graphs, *(array.struct for array in given), repeats, all_in_first)


def copies(handle: Handle) -> Handle:
    """A batch of copies of a hypergraph."""
    return Handle("batch", lib.hs_batch_copies, handle.raw)


def restored(packed: Tensor) -> Handle:
    """The batch that a packed tensor describes. All of it is checked again."""
    check(packed)
    read = Reader(packed)
    kind = read.number()
    if kind == Kind.COPIES:
        n, m = read.number(), read.number()
        return copies(Incidence._csr(read.array(m + 1), read.rest, n, "keep"))
    if kind == Kind.TABLE:
        n_topologies, n_instances = read.number(), read.number()
        handles = []
        for _ in range(n_topologies):
            n, m, nnz = read.number(), read.number(), read.number()
            handles.append(Incidence._csr(read.array(m + 1), read.array(nnz), n, "keep"))
        return table(handles, read.array(n_instances))
    if kind == Kind.COORDINATES:
        n_graphs, nnz, repeats, accept = (read.number() for _ in range(4))
        lengths = (nnz, nnz, n_graphs, n_graphs)
        return from_coordinates(n_graphs, nnz, repeats, accept, *map(read.array, lengths))
    raise Error(f"a packed tensor of kind {kind} is no topology")


def _size(number: int) -> int:
    number = operator.index(number)
    if number < 0:
        raise Error(f"a number of vertices, hyperedges or members must not be negative, and is {number}")
    return number


@on_host()
def _two_rows(index: Tensor) -> tuple[Tensor, Tensor]:
    index = torch.as_tensor(index)
    if index.dim() != 2 or index.shape[0] != 2:
        raise Error(
            f"hyperedge_index must have the shape [2, n_incidences], vertices above hyperedges, and has "
            f"{tuple(index.shape)}"
        )
    return integers(index[0]), integers(index[1])


@on_host()
def _counted(ids: Tensor, given: int | None) -> int:
    if given is not None:
        return _size(given)
    return int(ids.max()) + 1 if ids.numel() and int(ids.max()) >= 0 else 0
