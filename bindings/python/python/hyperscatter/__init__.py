"""Message passing on hypergraphs: tens of thousands of small ones in one launch, on the CPU and on CUDA
devices."""

from ._devices import set_checks
from ._library import DeviceError, Error
from ._structures import CacheInfo, structures
from .functional import conv, e2v, gram, operator, v2e
from .nn import HypergraphConv
from .topology import Batch, Incidence, Windows

__all__ = [
    "Batch",
    "CacheInfo",
    "DeviceError",
    "Error",
    "HypergraphConv",
    "Incidence",
    "Windows",
    "cache_info",
    "clear_cache",
    "conv",
    "e2v",
    "gram",
    "operator",
    "set_checks",
    "v2e",
]


def cache_info() -> CacheInfo:
    """How many structures are kept, and how many plans and workspaces were built."""
    return structures.info()


def clear_cache() -> None:
    """Drops all plans and workspaces. Calls build what they need anew."""
    structures.clear()
