"""What stays from call to call: structures by fingerprint, their plans, and the plans' workspaces.

A structure is kept while an Incidence or a Batch with its fingerprint lives. Those that a compiled graph or
another process brings, as packed tensors without such an object, are kept until a number of others came.

Nothing here takes a lock, so that a forked process finds none that is held: two threads may build the same
thing at the same time, and one of the two is dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from . import _devices
from ._library import NULL, Error, Handle, Indices, abi, call, ffi, last_error, lib
from ._packed import Key, Kind, Reader, key_of

ELEMENTS = {
    torch.float32: lib.HS_F32,
    torch.float64: lib.HS_F64,
    torch.float16: lib.HS_F16,
    torch.bfloat16: lib.HS_BF16,
}

MOST_ORPHANS = 64
MOST_WINDOWS = 16
MOST_SIZES = 256
MOST_VERTICES_OF_LAYERS = 16
NOT_THERE = (lib.HS_ERROR_LAYER_UNAVAILABLE, lib.HS_ERROR_MATRIX_UNAVAILABLE)
FOUND_BY_KERNELS = (lib.HS_ERROR_NEGATIVE_DEGREE, lib.HS_ERROR_INDEX_OUT_OF_BOUNDS)


class CacheInfo(NamedTuple):
    """What was built since the process began, and what is there."""

    structures: int
    """Structures that are kept now."""
    plans_built: int
    """Plans: one for each structure, element type, number of features, convention and device. The number of
    instances has no part in it."""
    workspaces_built: int
    """Workspaces: on the CPU one for each plan and number of threads, and more where instances grow past the
    next power of two; on a device one for each operator of a plan. More where calls run at the same time."""


class Counters:
    plans = 0
    workspaces = 0


class Workspace:
    """Room for calls of up to `capacity` instances."""

    __slots__ = ("capacity", "handle", "raw")

    def __init__(self, plan: Plan, capacity: int, operators: int) -> None:
        options = ffi.new("hs_workspace_options *")
        abi(options.abi)
        options.max_instances, options.operators = capacity, operators
        options.scratch = lib.HS_SCRATCH_LENT
        self.handle = Handle("workspace", lib.hs_workspace_create, plan.handle.raw, options)
        self.raw = self.handle.raw
        self.capacity = capacity
        Counters.workspaces += 1


def _is_there(plan: Handle, operator: int) -> bool:
    status = lib.hs_plan_check_operator(plan.raw, operator)
    if status not in (lib.HS_OK, *NOT_THERE):
        raise last_error()
    return status == lib.HS_OK


def _taken(pool: list[Workspace]) -> Workspace | None:
    try:
        return pool.pop()
    except IndexError:
        return None


class Plan:
    """A structure for one element type, number of features, convention and device."""

    def __init__(self, structure: Structure, key: PlanKey, device: _devices.Device) -> None:
        options = ffi.new("hs_plan_options *")
        abi(options.abi)
        options.device = device.handle()
        options.element, options.features = ELEMENTS[key.dtype], key.features
        options.normalization, options.weight_use = key.normalization, key.weight_use
        options.inputs, options.precision = key.inputs, key.precision
        options.checks = lib.HS_CHECKS_ON if _devices.checks else lib.HS_CHECKS_DEFAULT
        self.handle = Handle("plan", lib.hs_plan_create, structure.handle.raw, options)
        # Not the structure, which holds its plans.
        self.sizes, self.key, self.device = structure.sizes, key, device
        self.pools: dict[int, list[Workspace]] = {}
        self.scratch: dict[tuple[int, int], int] = {}
        self.streams: set[int] = set()
        """The streams of a device on which there was a call."""
        self.is_captured = False
        """Whether a CUDA graph may have a call."""
        self.windows: OrderedDict[Key, Handle] = OrderedDict()
        self._ones: dict[int, Tensor] = {}
        self._has: dict[int, bool] = {}
        Counters.plans += 1

    def run(self, operator: int, instances: int, function: Callable[..., int], *operands: Any) -> None:
        """Calls an operator with its operands, on the current stream of the device."""
        device = self.device
        pool_key, operators, stream = device.prepare(self, operator)
        pool = self.pools.get(pool_key)
        if pool is None:
            pool = self.pools.setdefault(pool_key, [])
        workspace = _taken(pool)
        if workspace is None or workspace.capacity < instances:
            device.refuse_capture()
            room = self.sizes.instances or device.room(self, instances)
            workspace = Workspace(self, room, operators)
        status = lib.HS_OK
        try:
            lent = device.lend(self, workspace, operator, instances)
            status = function(workspace.raw, stream, *operands)
            if status:
                error = last_error()
                if status in FOUND_BY_KERNELS:
                    device.clear(workspace, stream)
                raise error
            del lent
        finally:
            if status == lib.HS_ERROR_PANIC:
                device.retire(self, workspace)  # what it holds is not known
            else:
                pool.append(workspace)

    def has(self, operator: int) -> bool:
        """Whether the library has an operator for the plan."""
        found = self._has.get(operator)
        if found is None:
            found = self._has[operator] = _is_there(self.handle, operator)
        return found

    def ones(self) -> Tensor:
        """Weights of 1, for calls without any: as many as the largest instance has hyperedges."""
        place = self.device.place_of_memory()
        found = None if place is None else self._ones.get(place)
        if found is None:
            dtype = torch.float64 if self.key.dtype == torch.float64 else torch.float32
            found = self.device.ones(self.sizes.m, dtype)
            if place is not None:
                self._ones[place] = found
        return found

    def scratch_bytes(self, workspace: Workspace, operator: int, instances: int) -> int:
        """What a call needs of a device's memory."""
        key = (operator, instances)
        found = self.scratch.get(key)
        if found is None:
            bytes_ = ffi.new("size_t *")
            call(lib.hs_workspace_scratch_bytes(workspace.raw, operator, instances, bytes_))
            if len(self.scratch) >= MOST_SIZES:
                self.scratch.clear()
            found = self.scratch[key] = int(bytes_[0])
        return found

    def window_table(self, packed: Tensor) -> Handle:
        """The windows that a packed tensor describes."""
        key = key_of(packed)
        found = self.windows.get(key)
        if found is None:
            read = Reader(packed)
            if read.number() != Kind.WINDOWS:
                raise Error("windows must be what Windows.packed is, and these are a topology")
            make = lib.hs_windows_create
            offsets = Indices.of(read.rest)
            self.device.refuse_capture()
            found = Handle("windows", make, self.handle.raw, lib.HS_HYPEREDGE, offsets.struct)
            self.windows[key] = found
            if len(self.windows) > MOST_WINDOWS:
                self.device.retire(self, self.windows.popitem(last=False)[1])
        else:
            with suppress(KeyError):  # another thread has just put it out
                self.windows.move_to_end(key)
        return found

    def explain(self, instances: int) -> str:
        """What calls do, in English."""
        needed = ffi.new("size_t *")
        lib.hs_plan_explain(self.handle.raw, instances, NULL, 0, needed)
        text = ffi.new("char[]", int(needed[0]) or 1)
        call(lib.hs_plan_explain(self.handle.raw, instances, text, len(text), needed))
        return ffi.string(text).decode()

    def __del__(self) -> None:
        if hasattr(self, "pools"):
            self.device.retire(self, self.handle, self.pools, self.windows)


class PlanKey(NamedTuple):
    dtype: torch.dtype
    features: int
    normalization: int
    weight_use: int
    device: int
    inputs: int = 0
    """Of a layer; else 0."""
    precision: int = 0
    """Of a layer in float32."""


class Sizes(NamedTuple):
    is_copies: bool
    instances: int
    """Of a table; 0 for copies."""
    n: int
    """Vertices of the largest."""
    m: int
    """Hyperedges of the largest."""
    vertices: int
    """Of all instances of a table; of one copy."""
    hyperedges: int


class Structure:
    """A batch in the library, and its plans."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        found = ffi.new("hs_batch_sizes *")
        call(lib.hs_batch_get_sizes(handle.raw, found))
        is_copies = bool(found.is_replicated)
        instances, last = int(found.instances), 1 if is_copies else int(found.instances)
        n, m = int(found.largest_vertices), int(found.largest_hyperedges)
        vertices, hyperedges = self._start(lib.HS_VERTEX, last), self._start(lib.HS_HYPEREDGE, last)
        self.sizes = Sizes(is_copies, instances, n, m, vertices, hyperedges)
        self.plans: dict[PlanKey, Plan] = {}
        self.has_layers = n <= MOST_VERTICES_OF_LAYERS and self._has_matrices()

    def _has_matrices(self) -> bool:
        """Whether each hypergraph has the matrix of its convolution. A plan on the CPU knows."""
        options = ffi.new("hs_plan_options *")
        abi(options.abi)
        options.features = 1
        plan = Handle("plan", lib.hs_plan_create, self.handle.raw, options)
        return _is_there(plan, lib.HS_CONV_MATRIX)

    def _start(self, axis: int, instance: int) -> int:
        start = ffi.new("size_t *")
        call(lib.hs_batch_get_start(self.handle.raw, axis, instance, start))
        return int(start[0])

    def starts(self, axis: int) -> list[int]:
        return [self._start(axis, g) for g in range(self.sizes.instances + 1)]

    def plan(
        self,
        like: Tensor,
        normalization: int,
        weight_use: int,
        *,
        features: int | None = None,
        inputs: int = 0,
        precision: int = 0,
    ) -> Plan:
        """The plan for rows like these, or of another number of features."""
        device = _devices.of(like)
        features = like.shape[-1] if features is None else features
        key = PlanKey(like.dtype, features, normalization, weight_use, device.index, inputs, precision)
        found = self.plans.get(key)
        if found is None:
            device.refuse_capture()
            device.sweep()
            found = self.plans.setdefault(key, Plan(self, key, device))
        return found


class Structures:
    """All structures, by fingerprint."""

    def __init__(self) -> None:
        self._living: WeakValueDictionary[Key, Structure] = WeakValueDictionary()
        self._orphans: OrderedDict[Key, Structure] = OrderedDict()

    def own(self, packed: Tensor, handle: Handle) -> Structure:
        """The structure of a packed tensor; `handle` is its incidence or batch."""
        from .topology import copies

        key = key_of(packed)
        found = self._living.get(key)
        if found is None:
            is_incidence = ffi.typeof(handle.raw) is ffi.typeof("hs_incidence *")
            found = self._living.setdefault(key, Structure(copies(handle) if is_incidence else handle))
        return found

    def of(self, packed: Tensor) -> Structure:
        """The structure of a packed tensor, built from its content if nobody has it."""
        key = key_of(packed)
        found = self._living.get(key)
        if found is None:
            from .topology import restored

            found = self._living.setdefault(key, Structure(restored(packed)))
            self._orphans[key] = found
            while len(self._orphans) > MOST_ORPHANS:
                self._orphans.popitem(last=False)
        return found

    def clear(self) -> None:
        for structure in list(self._living.values()):
            structure.plans.clear()
        self._orphans.clear()

    def check(self) -> None:
        """Waits for the devices, and raises the first error that a kernel found."""
        plans = [plan for of in list(self._living.values()) for plan in list(of.plans.values())]
        for plan in plans:
            for pool in list(plan.pools.values()):
                # None that another thread has at work; each once.
                for _ in range(len(pool)):
                    workspace = _taken(pool)
                    if workspace is not None:
                        try:
                            plan.device.check(workspace)
                        finally:
                            pool.insert(0, workspace)

    def info(self) -> CacheInfo:
        return CacheInfo(len(self._living), Counters.plans, Counters.workspaces)


structures = Structures()
