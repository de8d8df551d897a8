"""Where operators run: the CPU, or a CUDA device on PyTorch's current stream with memory of its allocator."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._library import NULL, Error, Handle, call, ffi, lib

if TYPE_CHECKING:
    from ._structures import Plan, Workspace

checks = False
"""Whether plans that are made from now on check every index on the device (see `set_checks`)."""

ALIGNMENT = 256
ALL_OPERATORS = (1 << (lib.HS_GRAM_BACKWARD + 1)) - 1
LEAST_INSTANCES = 64
MOST_INSTANCES = 2**32 - 1
MOST_ELEMENTS = 2**64 - 1


def set_checks(on: bool) -> None:
    """Whether kernels check every index they read, on CUDA devices, in plans that are made from now on.

    Indices are validated when an Incidence or a Batch is made; this finds tables that something else has
    overwritten on the device. A wrong index is an exception of a later call or of `check`, and the CUDA
    context lives on.
    """
    global checks
    checks = on


class Device:
    """The CPU."""

    index = -1
    has_layers = False
    """Whether layers in one pass are faster here than PyTorch's product with Θ and a convolution."""

    def handle(self) -> Any:
        return NULL

    def prepare(self, plan: Plan, operator: int) -> tuple[int, int, Any]:
        """Which workspaces serve, for which operators one is made, and the stream."""
        threads = torch.get_num_threads()
        if lib.hs_num_threads() != threads:
            call(lib.hs_set_num_threads(threads))
        return threads, ALL_OPERATORS, NULL

    def room(self, plan: Plan, instances: int) -> int:
        """How many instances a workspace is made for."""
        return max(LEAST_INSTANCES, 1 << (instances - 1).bit_length())

    def refuse_capture(self) -> None:
        """Whether handles can be made now.

        Raises:
            Error: while a CUDA graph is captured.
        """

    def lend(self, plan: Plan, workspace: Workspace, operator: int, instances: int) -> Tensor | None:
        """Lends a workspace the memory that it needs for a call."""
        return None

    def clear(self, workspace: Workspace, stream: Any) -> None:
        """Forgets an error that a kernel found."""

    def place_of_memory(self) -> int | None:
        """Where memory that is filled now can be read by later calls that have the same place; None if by
        none."""
        return 0

    def ones(self, length: int, dtype: torch.dtype) -> Tensor:
        return torch.ones(length, dtype=dtype, device="cpu")

    def check(self, workspace: Workspace) -> None:
        """Waits, and raises the error that a kernel found."""

    def retire(self, plan: Plan, *held: Any) -> None:
        """Lets go of what work may still use."""

    def sweep(self) -> None:
        """Frees what no work uses any more."""


class Cuda(Device):
    """A CUDA device."""

    has_layers = True

    def __init__(self, index: int) -> None:
        self.index = index
        self._handle = Handle("device", lib.hs_device_open, index)
        self._retired: list[tuple[set[int], list[Any], Any]] = []
        self._captured: list[Any] = []

    def handle(self) -> Any:
        return self._handle.raw

    def stream(self) -> int:
        return torch.cuda.current_stream(self.index).cuda_stream

    def empty(self, bytes_: int) -> Tensor:
        return torch.empty(bytes_, dtype=torch.uint8, device=f"cuda:{self.index}")

    def is_capturing(self) -> bool:
        with torch.cuda.device(self.index):
            return torch.cuda.is_current_stream_capturing()

    def prepare(self, plan: Plan, operator: int) -> tuple[int, int, Any]:
        stream = self.stream()
        plan.streams.add(stream)
        if self.is_capturing():
            plan.is_captured = True
        return operator, 1 << operator, ffi.cast("void *", stream)

    def room(self, plan: Plan, instances: int) -> int:
        # Memory that is lent depends on the call alone: the most that the library counts.
        rows, features = max(plan.sizes.n, plan.sizes.m, 1), max(plan.key.features, plan.key.inputs)
        return min(MOST_INSTANCES, MOST_ELEMENTS // (rows * features))

    def refuse_capture(self) -> None:
        if self.is_capturing():
            raise Error(
                "the first call of an operator with a topology, element type, width and convention cannot be "
                "captured into a CUDA graph: make it once before the capture begins"
            )

    def lend(self, plan: Plan, workspace: Workspace, operator: int, instances: int) -> Tensor | None:
        bytes_ = plan.scratch_bytes(workspace, operator, instances)
        if not bytes_:
            return None
        # The allocator gives it out again behind this call, to work on the same stream.
        scratch = self.empty(bytes_ + ALIGNMENT)
        start = -(-scratch.data_ptr() // ALIGNMENT) * ALIGNMENT
        call(lib.hs_workspace_lend_scratch(workspace.raw, ffi.cast("void *", start), bytes_))
        return scratch

    def clear(self, workspace: Workspace, stream: Any) -> None:
        lib.hs_workspace_check(workspace.raw, stream)

    def place_of_memory(self) -> int | None:
        # What a graph fills is there when it is replayed.
        return None if self.is_capturing() else self.stream()

    def ones(self, length: int, dtype: torch.dtype) -> Tensor:
        return torch.ones(length, dtype=dtype, device=f"cuda:{self.index}")

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.index)

    def check(self, workspace: Workspace) -> None:
        self.synchronize()
        call(lib.hs_workspace_check(workspace.raw, ffi.cast("void *", self.stream())))

    def retire(self, plan: Plan, *held: Any) -> None:
        # This may run in the middle of anything, also of a capture: events wait for `sweep`. What a graph may
        # replay stays.
        if plan.is_captured:
            self._captured.append(held)
        else:
            self._retired.append((plan.streams, [], held))

    def sweep(self) -> None:
        waiting = []
        while self._retired:
            streams, events, held = entry = self._retired.pop()
            try:
                recorded = [torch.cuda.ExternalStream(of, self.index).record_event() for of in streams]
                if all(event.query() for event in (*events, *recorded)):
                    continue
                entry = set(), [*events, *recorded], held
            except RuntimeError:
                pass  # another thread captures one of the streams: later, then
            waiting.append(entry)
        self._retired.extend(waiting)


@lru_cache
def capability(index: int) -> tuple[int, int]:
    """The compute capability of a CUDA device; (0, 0) where there is none, and a tensor only says so."""
    return torch.cuda.get_device_capability(index) if torch.cuda.is_available() else (0, 0)


_CPU = Device()
_CUDA: dict[int, Cuda] = {}


def of(tensor: Tensor) -> Device:
    """Where a tensor is.

    Raises:
        Error: for a device that is neither.
        DeviceError: for a CUDA device that cannot be used.
    """
    device = tensor.device
    if device.type == "cpu":
        return _CPU
    if device.type != "cuda":
        raise Error(f"tensors must be on the CPU or a CUDA device, and this one is on {device}")
    found = _CUDA.get(device.index)
    if found is None:
        if torch.cuda.is_current_stream_capturing():
            raise Error("a device is first used during the capture of a CUDA graph: call an operator before")
        found = _CUDA.setdefault(device.index, Cuda(device.index))
    return found
