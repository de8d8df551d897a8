"""The C library: its handles, and its errors as exceptions."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import _native

__all__ = ["DeviceError", "Error", "Handle", "Indices", "abi", "call", "ffi", "lib"]

ffi: Any = _native.ffi
lib: Any = _native.lib
NULL = ffi.NULL


class Error(ValueError):
    """What the library refuses, with the facts as fields; `str()` says what to do.

    Each is `None` where there is nothing to tell.
    """

    status: str
    """The name of the status, such as `"HS_ERROR_ROWS_MISMATCH"`."""
    what: str | None
    """The operand, table or argument at fault."""
    other: str | None
    """What sets the bound, or the second operand at fault."""
    instance: int | None
    """The instance; for tables of graphs the graph."""
    position: int | None
    """The position in a table; the topology; for degrees the vertex."""
    value: int | None
    """The value that was found."""
    bound: int | None
    """The bound that it broke."""
    degree: float | None
    """The degree that is negative."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        for name in ("status", "what", "other", "instance", "position", "value", "bound", "degree"):
            setattr(self, name, facts.get(name))

    def __reduce__(self) -> Any:
        return _restored, (type(self), str(self), dict(self.__dict__))


class DeviceError(Error, RuntimeError):
    """The CUDA driver is missing, too old, or failed."""


def _restored(of: type[Error], message: str, facts: dict[str, Any]) -> Error:
    return of(message, **facts)


_OF_DEVICE = {
    "HS_ERROR_DRIVER",
    "HS_ERROR_DRIVER_TOO_OLD",
    "HS_ERROR_DRIVER_UNAVAILABLE",
    "HS_ERROR_NO_DEVICE",
    "HS_ERROR_UNSUPPORTED_ARCHITECTURE",
}


def _text(pointer: Any) -> str | None:
    return ffi.string(pointer).decode() if pointer != NULL else None


def last_error() -> Exception:
    """The failure of the last call that failed on this thread."""
    error = ffi.new("hs_error *")
    error.size = ffi.sizeof("hs_error")
    if lib.hs_last_error(error) != lib.HS_OK:
        return RuntimeError("the library does not tell its last error: its header has another version")
    facts: dict[str, Any] = {"what": _text(error.what), "other": _text(error.other)}
    for name in ("instance", "position", "value", "bound", "degree"):
        if error.facts & getattr(lib, f"HS_FACT_{name.upper()}"):
            facts[name] = getattr(error, name)
    status, message = _text(error.name) or "?", _text(error.message) or "?"
    if status == "HS_ERROR_OUT_OF_MEMORY":
        return MemoryError(message)
    if status == "HS_ERROR_PANIC":
        return RuntimeError(message)
    return (DeviceError if status in _OF_DEVICE else Error)(message, status=status, **facts)


def call(status: int) -> None:
    """Raises what a function's status says."""
    if status:
        raise last_error()


class Handle:
    """What the library made, freed with this object."""

    __slots__ = ("__weakref__", "raw")

    def __init__(self, of: str, make: Any, *arguments: Any) -> None:
        place = ffi.new(f"hs_{of} **")
        call(make(*arguments, place))
        self.raw = ffi.gc(place[0], getattr(lib, f"hs_{of}_free"))


class Indices(NamedTuple):
    """A one-dimensional tensor of 64-bit integers in host memory, as the library takes it."""

    struct: Any
    tensor: Any  # whose memory it is

    @classmethod
    def of(cls, tensor: Any) -> Indices:
        tensor = tensor.contiguous()
        struct = ffi.new("hs_indices *")
        struct.data = ffi.cast("void *", tensor.data_ptr())
        struct.len = tensor.numel()
        struct.integers = lib.HS_INT64
        return cls(struct, tensor)


def abi(place: Any) -> None:
    """Writes what this package was made for."""
    size = ffi.sizeof
    place.version = lib.HS_ABI_VERSION
    place.rows = size("hs_rows") + size("hs_out_rows")
    place.values = size("hs_values") + size("hs_out_values") + size("hs_weights")
    place.steps = (
        size("hs_step")
        + size("hs_step_gradients")
        + size("hs_epilogue")
        + size("hs_epilogue_gradients")
        + size("hs_layer_gradients")
    )
    place.options = size("hs_plan_options") + size("hs_workspace_options") + size("hs_error")


def max_size() -> int:
    """`SIZE_MAX`, which is `HS_PACKED`."""
    return (1 << (8 * ffi.sizeof("size_t"))) - 1
