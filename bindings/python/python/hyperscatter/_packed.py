"""Structure as a tensor: what operators take, so that compiled and exported graphs hold it.

A packed tensor is one-dimensional, of 64-bit integers, on the CPU:

    [MAGIC, fingerprint (2 words), kind, ...]

The fingerprint is BLAKE2b of everything behind it. It is what things are looked up by: a clone of the tensor,
or the same tensor in another process, finds the same structure, or builds it from the content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from ._library import Error, ffi

MAGIC = 0x7265747461637368  # "hscatter"
HEAD = 4


class Kind(IntEnum):
    COPIES = 0
    """n_vertices, n_hyperedges, edge_ptr, edge_vertices"""
    TABLE = 1
    """n_topologies, n_instances, then each topology as above with n_incidences before its arrays,
    topology_ids"""
    COORDINATES = 2
    """n_graphs, n_incidences, repeats, all_in_first, vertices, hyperedges, vertex_counts, hyperedge_counts"""
    WINDOWS = 3
    """offsets"""


Key = tuple[int, int]


@contextmanager
def on_host() -> Iterator[None]:
    """New tensors are real, on the CPU, whatever the default device is, and are none of inference mode's,
    which could not be saved for a backward."""
    with unset_fake_temporarily(), torch.inference_mode(False), torch.device("cpu"):
        yield


def _refuse_fake(of: object, what: str) -> None:
    if isinstance(of, FakeTensor):
        raise Error(f"{what} are read on the host, and a FakeTensor has no values: make it a real tensor")


@on_host()
def integers(of: object) -> Tensor:
    """One-dimensional 64-bit integers on the CPU.

    Raises:
        TypeError: for anything but integers.
        Error: for another number of dimensions, or a tensor without values.
    """
    _refuse_fake(of, "indices")
    tensor = torch.as_tensor(of)
    if tensor.numel() == 0 and not isinstance(of, Tensor):
        tensor = tensor.to(torch.int64)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"indices must be integers, and these are {tensor.dtype}")
    if tensor.dim() != 1:
        raise Error(f"indices must be one-dimensional, and these have the shape {tuple(tensor.shape)}")
    return tensor.detach().to(device="cpu", dtype=torch.int64).contiguous()


@on_host()
def pack(kind: Kind, *parts: Tensor | int) -> Tensor:
    """Kind and content, with their fingerprint."""
    content = [torch.tensor([part]) if isinstance(part, int) else part for part in (int(kind), *parts)]
    packed = torch.cat([torch.tensor([MAGIC, 0, 0]), *content])
    words = ffi.cast("int64_t *", packed.data_ptr())
    words[1], words[2] = _digest(packed)
    return packed


def _digest(packed: Tensor) -> Key:
    bytes_ = ffi.buffer(ffi.cast("char *", packed.data_ptr()), packed.numel() * 8)[24:]
    digest = hashlib.blake2b(bytes_, digest_size=16).digest()
    first, second = (int.from_bytes(digest[i : i + 8], "little", signed=True) for i in (0, 8))
    return first, second


def check(packed: Tensor) -> None:
    """Whether the fingerprint is that of the content.

    Raises:
        Error: if not, or if this is no packed tensor.
    """
    if key_of(packed) != _digest(packed.contiguous()):
        raise Error("a packed topology was written: its fingerprint is not that of its content")


@on_host()
def on_cpu(packed: Tensor) -> Tensor:
    """A packed tensor that was copied or loaded, wherever that put it."""
    _refuse_fake(packed, "topologies and windows")
    return packed.detach().cpu().clone()


def key_of(packed: Tensor) -> Key:
    """The fingerprint.

    Raises:
        Error: if this is no packed tensor.
    """
    if packed.device.type == "cpu" and packed.dtype == torch.int64 and packed.numel() >= HEAD:
        words = ffi.cast("int64_t *", packed.data_ptr())
        if words[0] == MAGIC:
            return words[1], words[2]
    raise Error(
        "this is no packed topology: operators take what Incidence.packed and "
        "Batch.packed are, a tensor of 64-bit "
        "integers that stays on the CPU"
    )


def fingerprint(packed: Tensor) -> str:
    """The fingerprint, 32 hexadecimal digits."""
    return b"".join(word.to_bytes(8, "little", signed=True) for word in key_of(packed)).hex()


class Reader:
    """Takes a packed tensor apart."""

    @on_host()
    def __init__(self, packed: Tensor) -> None:
        _refuse_fake(packed, "topologies and windows")
        self.rest = packed.detach().cpu().contiguous()[3:]

    @on_host()
    def number(self) -> int:
        number, self.rest = int(self.rest[0]), self.rest[1:]
        return number

    @on_host()
    def array(self, length: int) -> Tensor:
        if not 0 <= length <= self.rest.numel():
            raise Error("a packed topology is shorter than it says")
        array, self.rest = self.rest[:length], self.rest[length:]
        return array
