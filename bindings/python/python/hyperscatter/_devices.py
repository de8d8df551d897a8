"""Where operators run: the CPU, or a CUDA device on PyTorch's current stream with memory of its allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._library import NULL, Error, Handle, call, ffi, lib

if TYPE_CHECKING:
    from ._structures import Plan, Workspace

checks = False
"""Whether plans that are made from now on check every index on the device (see `set_checks`)."""

ALIGNMENT = 256


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

    def handle(self) -> Any:
        return NULL

    def pool(self, operator: int) -> tuple[Any, int, Any]:
        """Which workspaces serve, for which operators one is made, and the stream."""
        threads = torch.get_num_threads()
        if lib.hs_num_threads() != threads:
            call(lib.hs_set_num_threads(threads))
        return threads, lib_all_operators(), NULL

    def lend(self, workspace: Workspace, operator: int, instances: int) -> Tensor | None:
        """Lends a workspace the memory that it needs for a call."""
        return None

    def clear(self, workspace: Workspace, stream: Any) -> None:
        """Forgets an error that a kernel found."""

    def retire(self, plan: Plan, *held: Any) -> None:
        """Lets go of what work may still use."""

    def sweep(self) -> None:
        """Frees what no work uses any more."""


def lib_all_operators() -> int:
    """A bit for each operator."""
    return (1 << (lib.HS_GRAM_BACKWARD + 1)) - 1


class Cuda(Device):
    """A CUDA device."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._handle = Handle("device", lib.hs_device_open, index)
        self._retired: list[tuple[set[int], list[Any], Any]] = []

    def handle(self) -> Any:
        return self._handle.raw

    def stream(self) -> int:
        return torch.cuda.current_stream(self.index).cuda_stream

    def empty(self, bytes_: int) -> Tensor:
        return torch.empty(bytes_, dtype=torch.uint8, device=f"cuda:{self.index}")

    def pool(self, operator: int) -> tuple[Any, int, Any]:
        stream = self.stream()
        return (operator, stream), 1 << operator, ffi.cast("void *", stream)

    def lend(self, workspace: Workspace, operator: int, instances: int) -> Tensor | None:
        bytes_ = workspace.scratch_bytes(operator, instances)
        if not bytes_:
            return None
        # The allocator gives it out again behind this call, to work on the same stream.
        scratch = self.empty(bytes_ + ALIGNMENT)
        start = -(-scratch.data_ptr() // ALIGNMENT) * ALIGNMENT
        call(lib.hs_workspace_lend_scratch(workspace.raw, ffi.cast("void *", start), bytes_))
        return scratch

    def clear(self, workspace: Workspace, stream: Any) -> None:
        lib.hs_workspace_check(workspace.raw, stream)

    def retire(self, plan: Plan, *held: Any) -> None:
        # This may run in the middle of anything, also of a capture: events wait for `sweep`.
        self._retired.append(({stream for _, stream in plan.pools}, [], held))

    def sweep(self) -> None:
        if torch.cuda.is_current_stream_capturing():
            return
        waiting = []
        while self._retired:
            streams, events, held = self._retired.pop()
            for stream in streams:
                events.append(torch.cuda.ExternalStream(stream, self.index).record_event())
            if not all(event.query() for event in events):
                waiting.append((set(), events, held))
        self._retired.extend(waiting)


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
        found = _CUDA.setdefault(device.index, Cuda(device.index))
    return found
