"""Message passing on hypergraphs: tens of thousands of small ones in one launch, on the CPU and on CUDA
devices."""

from ._devices import set_checks
from ._library import DeviceError, Error
from ._structures import CacheInfo, structures
from .functional import conv, e2v, explain, gram, layer, operator, v2e
from .nn import HypergraphConv
from .pyg import from_pyg
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
    "check",
    "clear_cache",
    "conv",
    "e2v",
    "explain",
    "from_pyg",
    "gram",
    "layer",
    "operator",
    "set_checks",
    "v2e",
]


def cache_info() -> CacheInfo:
    """How many structures are kept, and how many plans and workspaces were built."""
    return structures.info()


def check() -> None:
    """Waits for the CUDA devices, and raises the first error that a kernel found since the last check.

    A kernel may find what no call can know: a negative degree under symmetric normalization, or with
    `set_checks(True)` a wrong index. The next call of the same operator raises it, too.
    """
    structures.check()


def clear_cache() -> None:
    """Drops all plans and workspaces. Calls build what they need anew."""
    structures.clear()
