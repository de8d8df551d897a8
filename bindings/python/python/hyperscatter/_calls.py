"""The operators on tensors that hold something, without autograd: what `torch.ops.hyperscatter` runs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._library import NULL, Error, ffi, lib, max_size
from ._packed import HEAD
from ._structures import ELEMENTS, Plan, Structure, structures
from .topology import Incidence

PACKED = max_size()


def accumulation(dtype: torch.dtype) -> torch.dtype:
    """The type of weights, scales, biases and sums: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def instance_stride(tensor: Tensor) -> int | None:
    """From one instance to the next in a tensor `[..., n, F]`; None if no one number tells."""
    stride, span = None, 1
    for size, step in zip(reversed(tensor.shape[:-2]), reversed(tensor.stride()[:-2]), strict=True):
        if size == 1:
            continue
        if stride is None:
            stride, span = step, size
        elif step == stride * span:
            span *= size
        else:
            return None
    return tensor.shape[-2] * tensor.shape[-1] if stride is None else stride


def is_readable(tensor: Tensor) -> bool:
    """Whether its rows can be read in place."""
    return (tensor.stride(-1) == 1 or tensor.shape[-1] == 1) and instance_stride(tensor) is not None


def readable(tensor: Tensor) -> Tensor:
    """The same rows, where the library can read them: a copy if they are strewn."""
    return tensor if tensor.is_contiguous() or is_readable(tensor) else tensor.contiguous()


def empty_like(x: Tensor) -> Tensor:
    """Rows for an output of the shape of x, in x's order of dimensions if rows of such an order can be
    written."""
    return torch.empty_like(x) if is_dense(x) else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def is_dense(x: Tensor) -> bool:
    """Whether x covers its memory without gaps or overlaps, each row contiguous, instances at one stride."""
    if x.is_contiguous():
        return True
    if x.numel() == 0 or not is_readable(x):
        return False
    span = 1
    for step, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if step != span:
                return False
            span *= size
    return True


class Axes(NamedTuple):
    """How many instances a call has, and of how many rows."""

    structure: Structure
    is_packed: bool
    instances: int

    def check_empty(self, x: Tensor, what: str, of_vertices: bool = True) -> None:
        """Whether x, which holds nothing and so never reaches the library, has the right number of rows.

        Raises:
            Error: where not.
        """
        sizes = self.structure.sizes
        if not self.is_packed and not sizes.is_copies and self.instances == 0:
            return  # no instance says how many rows a padded one has
        largest, all_ = (sizes.n, sizes.vertices) if of_vertices else (sizes.m, sizes.hyperedges)
        rows = all_ if self.is_packed else largest
        if x.shape[-2] != rows:
            raise Error(f"{what} has {x.shape[-2]} rows, but must have {rows}")

    def cleared(self, out: Tensor | None) -> Tensor | None:
        """An output, whose padding is made zero: nothing else writes it."""
        if out is not None and not self.is_packed and not self.structure.sizes.is_copies:
            out.zero_()
        return out

    def rows(self, tensor: Tensor) -> tuple[Any, int, int, int, int, int]:
        shape = tensor.shape
        features = shape[-1]
        data = ffi.cast("void *", tensor.data_ptr())
        row = tensor.stride(-2) if shape[-2] > 1 else features
        if self.is_packed:
            return data, self.instances, shape[0], features, row, PACKED
        stride = instance_stride(tensor)
        assert stride is not None
        return data, self.instances, shape[-2], features, row, stride

    def read(self, tensor: Tensor | None) -> Any:
        """Rows that are read. Whoever calls keeps the tensor alive, and has made it readable."""
        return NULL if tensor is None else ffi.new("hs_rows *", self.rows(tensor))

    def write(self, tensor: Tensor | None) -> Any:
        """Rows that are overwritten."""
        return NULL if tensor is None else ffi.new("hs_out_rows *", (*self.rows(tensor), lib.HS_OVERWRITE))

    def weights(
        self, values: Tensor | None, each: int, plan: Plan, windows: Tensor | None = None
    ) -> tuple[Any, Any]:
        """Weights or scales: shared ones, or those of all instances one behind the other, or a table's
        windows. With it comes what must live as long as the call.

        `each` is how many an instance reads; of a table the most.
        """
        if values is None:
            return NULL, None
        count = values.numel()
        kind, table = lib.HS_WINDOWS_SHARED, None
        if windows is not None:
            kind, table = lib.HS_WINDOWS_TABLE, plan.window_table(windows)
            if windows.numel() - HEAD != self.instances:
                raise Error(
                    f"windows must have an offset for each of the {self.instances} instances, and have "
                    f"{windows.numel() - HEAD}"
                )
        elif values.dim() > 1 or (not self.structure.sizes.is_copies and count != each):
            kind = lib.HS_WINDOWS_CONSECUTIVE
        data = ffi.cast("void *", values.data_ptr())
        raw = NULL if table is None else table.raw
        return ffi.new("hs_weights *", ((data, count), kind, raw)), (values, table)

    def weights_of_conv(self, weight: Tensor | None, x: Tensor, plan: Plan, windows: Tensor | None) -> Any:
        """As `weights`; without any they are 1."""
        if weight is not None:
            weight = numbers(weight, x, "weight")
        elif windows is not None:
            raise Error("windows are of weights, and there are none")
        else:
            weight = plan.ones()
        return self.weights(weight, self.structure.sizes.m, plan, windows)


def values(tensor: Tensor | None) -> Any:
    """Numbers that are read."""
    if tensor is None:
        return NULL
    return ffi.new("hs_values *", (ffi.cast("void *", tensor.data_ptr()), tensor.numel()))


def out_values(tensor: Tensor | None) -> Any:
    """Numbers that are overwritten."""
    if tensor is None:
        return NULL
    data = ffi.cast("void *", tensor.data_ptr())
    return ffi.new("hs_out_values *", (data, tensor.numel(), lib.HS_OVERWRITE))


def axes(topology: Tensor, rows: Tensor) -> Axes:
    """What the shape of rows along vertices or hyperedges means."""
    structure = structures.of(topology)
    if structure.sizes.is_copies:
        instances = 1
        for size in rows.shape[:-2]:
            instances *= size
        return Axes(structure, False, instances)
    instances = structure.sizes.instances
    if rows.dim() != 2 and (rows.dim() != 3 or rows.shape[0] != instances):
        raise Error(
            f"rows of a Batch of {instances} instances must have the shape [rows of all instances, F] or "
            f"[{instances}, rows of the largest, F], and have {tuple(rows.shape)}"
        )
    return Axes(structure, rows.dim() == 2, instances)


def rows_like(tensor: Tensor, like: Tensor, what: str, shape: Any = None) -> Tensor:
    """Rows that the library can read: of the type and on the device of `like`, of a shape."""
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise Error(
            f"{what} must be {like.dtype} on {like.device}, as the features, and is {tensor.dtype} on "
            f"{tensor.device}"
        )
    if shape is not None and tensor.shape != shape:
        raise Error(f"{what} must have the shape {tuple(shape)}, and has {tuple(tensor.shape)}")
    return readable(tensor)


def some_numbers(tensor: Tensor | None, like: Tensor, what: str) -> Tensor | None:
    """The same, of what may be missing."""
    return None if tensor is None else numbers(tensor, like, what)


def numbers(tensor: Tensor, like: Tensor, what: str) -> Tensor:
    """Weights, scales or biases beside features as `like`, one behind the other."""
    dtype = accumulation(like.dtype)
    if tensor.dtype != dtype or tensor.device != like.device:
        raise Error(
            f"{what} must be {dtype} on {like.device}, beside features of {like.dtype}, and is "
            f"{tensor.dtype} on {tensor.device}"
        )
    return tensor.contiguous()


def new(shape: Any, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous tensor beside another one."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


def _nothing(like: Tensor) -> Tensor:
    """In the place of a gradient that nobody wants."""
    return torch.empty(0, dtype=like.dtype, device=like.device)


# ---- steps ----


class Step(NamedTuple):
    """One of the two steps."""

    forward: Any
    backward: Any
    forward_id: int
    backward_id: int


STEPS = {
    True: Step(
        lib.hs_vertex_to_hyperedge,
        lib.hs_vertex_to_hyperedge_backward,
        lib.HS_VERTEX_TO_HYPEREDGE,
        lib.HS_VERTEX_TO_HYPEREDGE_BACKWARD,
    ),
    False: Step(
        lib.hs_hyperedge_to_vertex,
        lib.hs_hyperedge_to_vertex_backward,
        lib.HS_HYPEREDGE_TO_VERTEX,
        lib.HS_HYPEREDGE_TO_VERTEX_BACKWARD,
    ),
}


def _step(
    of: Axes, plan: Plan, vertex_scale: Tensor | None, hyperedge_scale: Tensor | None, mean: bool
) -> Any:
    sizes = of.structure.sizes
    scales = of.weights(vertex_scale, sizes.n, plan)[0], of.weights(hyperedge_scale, sizes.m, plan)[0]
    step = ffi.new("hs_step *", (lib.HS_MEAN if mean else lib.HS_SUM, *scales))
    return step, scales


def step(
    x: Tensor,
    topology: Tensor,
    vertex_scale: Tensor | None,
    hyperedge_scale: Tensor | None,
    mean: bool,
    rows: int,
    to_hyperedges: bool,
) -> Tensor:
    """A step forward: `[..., rows, F]`."""
    out = new((*x.shape[:-2], rows, x.shape[-1]), x)
    of = axes(topology, x)
    if x.numel() == 0 or out.numel() == 0:
        of.check_empty(x, "x" if to_hyperedges else "z", to_hyperedges)
        return out.zero_()
    x = readable(x)
    of.cleared(out)
    vertex_scale = some_numbers(vertex_scale, x, "vertex_scale")
    hyperedge_scale = some_numbers(hyperedge_scale, x, "hyperedge_scale")
    plan = of.structure.plan(x, lib.HS_NORMALIZATION_ROW, lib.HS_WEIGHTS_DOCUMENTED)
    this = STEPS[to_hyperedges]
    struct, _scales = _step(of, plan, vertex_scale, hyperedge_scale, mean)
    plan.run(this.forward_id, of.instances, this.forward, struct, of.read(x), of.write(out))
    return out


def step_backward(
    grad: Tensor,
    x: Tensor,
    topology: Tensor,
    vertex_scale: Tensor | None,
    hyperedge_scale: Tensor | None,
    mean: bool,
    wanted: list[bool],
    to_hyperedges: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by x and by both scales, of those that are wanted."""
    outs = [
        empty_like(x) if wanted[0] else None,
        *(
            new(scale.shape, scale) if scale is not None and wanted[i] else None
            for i, scale in ((1, vertex_scale), (2, hyperedge_scale))
        ),
    ]
    if x.numel() == 0 or grad.numel() == 0:
        for out in outs:
            if out is not None:
                out.zero_()
    elif any(out is not None for out in outs):
        x, grad = readable(x), rows_like(grad, x, "the gradient")
        of = axes(topology, x)
        of.cleared(outs[0])
        vertex_scale = some_numbers(vertex_scale, x, "vertex_scale")
        hyperedge_scale = some_numbers(hyperedge_scale, x, "hyperedge_scale")
        plan = of.structure.plan(x, lib.HS_NORMALIZATION_ROW, lib.HS_WEIGHTS_DOCUMENTED)
        this = STEPS[to_hyperedges]
        struct, _scales = _step(of, plan, vertex_scale, hyperedge_scale, mean)
        parts = of.write(outs[0]), out_values(outs[1]), out_values(outs[2])
        gradients = ffi.new("hs_step_gradients *", parts)
        plan.run(this.backward_id, of.instances, this.backward, struct, of.read(x), of.read(grad), gradients)
    return tuple(_nothing(x) if out is None else out for out in outs)  # pyright: ignore[reportReturnType]


# ---- convolution ----


def conv(
    x: Tensor,
    weight: Tensor | None,
    topology: Tensor,
    windows: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    normalization: int,
    weight_use: int,
    readout: bool,
) -> Tensor:
    """The convolution with what follows it; with a readout the mean over the vertices, `[..., F]`."""
    of = axes(topology, x)
    if readout:
        lead = x.shape[:-2] if of.structure.sizes.is_copies else (of.instances,)
        out = new((*lead, x.shape[-1]), x)
    else:
        out = empty_like(x)
    if x.numel() == 0:
        of.check_empty(x, "x")
        return out.zero_()
    if not readout:
        of.cleared(out)
    x = readable(x)
    residual = None if residual is None else rows_like(residual, x, "residual", x.shape)
    bias = some_numbers(bias, x, "bias")
    plan = of.structure.plan(x, normalization, weight_use)
    w, _held = of.weights_of_conv(weight, x, plan, windows)
    if not readout and bias is None and residual is None and activation == lib.HS_IDENTITY:
        plan.run(lib.HS_CONV, of.instances, lib.hs_conv, of.read(x), w, of.write(out))
        return out
    b = values(bias)
    epilogue = ffi.new("hs_epilogue *", (activation, b))
    operands = of.read(x), w, epilogue, of.read(residual)
    if readout:
        plan.run(lib.HS_CONV_READOUT, of.instances, lib.hs_conv_readout, *operands, out_values(out))
    else:
        plan.run(lib.HS_CONV_EPILOGUE, of.instances, lib.hs_conv_epilogue, *operands, of.write(out))
    return out


def conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    topology: Tensor,
    windows: Tensor | None,
    bias: Tensor | None,
    activation: int,
    normalization: int,
    weight_use: int,
    readout: bool,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, weights, bias and residual, of those that are wanted.

    That of the residual is the gradient of the output itself, and comes from here with a readout alone.
    """
    grad_x = empty_like(x) if wanted[0] else None
    grad_w = new(weight.shape, weight) if wanted[1] and weight is not None else None
    grad_bias = new(bias.shape, bias) if wanted[2] and bias is not None else None
    grad_residual = new(x.shape, x) if wanted[3] else None
    outs = grad_x, grad_w, grad_bias, grad_residual
    if x.numel() == 0:
        for out in outs:
            if out is not None:
                out.zero_()
    elif any(out is not None for out in outs):
        x = readable(x)
        of = axes(topology, x)
        of.cleared(grad_x)
        of.cleared(grad_residual)
        bias = some_numbers(bias, x, "bias")
        shape = (*x.shape[:-2], x.shape[-1]) if of.structure.sizes.is_copies else (of.instances, x.shape[-1])
        grad = rows_like(grad, x, "the gradient", torch.Size(shape) if readout else x.shape)
        plan = of.structure.plan(x, normalization, weight_use)
        w, _held = of.weights_of_conv(weight, x, plan, windows)
        gx, gw = of.write(grad_x), out_values(grad_w)
        if not readout and bias is None and activation == lib.HS_IDENTITY:
            gx = gx or _skipped("hs_out_rows", of.rows(x))
            gw = gw or _skipped("hs_out_values", (NULL, w.values.len))
            plan.run(
                lib.HS_CONV_BACKWARD, of.instances, lib.hs_conv_backward, of.read(x), w, of.read(grad), gx, gw
            )
        else:
            b = values(bias)
            epilogue = ffi.new("hs_epilogue *", (activation, b))
            parts = gx, gw, out_values(grad_bias), of.write(grad_residual)
            gradients = ffi.new("hs_epilogue_gradients *", parts)
            if readout:
                grad = grad.contiguous()
                operator, function, g = (
                    lib.HS_CONV_READOUT_BACKWARD,
                    lib.hs_conv_readout_backward,
                    values(grad),
                )
            else:
                operator, function, g = (
                    lib.HS_CONV_EPILOGUE_BACKWARD,
                    lib.hs_conv_epilogue_backward,
                    of.read(grad),
                )
            plan.run(operator, of.instances, function, of.read(x), w, epilogue, g, gradients)
    return tuple(_nothing(x) if out is None else out for out in outs)  # pyright: ignore[reportReturnType]


def _skipped(kind: str, start: tuple[Any, ...]) -> Any:
    """An output that is not computed."""
    return ffi.new(f"{kind} *", (*start, lib.HS_SKIP))


# ---- matrices ----


def operator(
    weight: Tensor,
    topology: Tensor,
    windows: Tensor | None,
    instances: int,
    n: int,
    normalization: int,
    weight_use: int,
) -> Tensor:
    """The matrices of the convolution, `[instances, n, n]`."""
    out = new((instances, n, n), weight)
    if out.numel():
        of, plan = _of_matrices(weight, topology, instances, normalization, weight_use)
        contiguous = weight.contiguous()
        w, _held = of.weights(contiguous, of.structure.sizes.m, plan, windows)
        plan.run(lib.HS_CONV_MATRIX, instances, lib.hs_conv_matrix, w, out_values(out))
    return out


def operator_backward(
    grad: Tensor,
    weight: Tensor,
    topology: Tensor,
    windows: Tensor | None,
    normalization: int,
    weight_use: int,
) -> Tensor:
    """The gradient by the weights."""
    out = new(weight.shape, weight)
    if grad.numel() == 0:
        return out.zero_()
    grad, weight = grad.contiguous(), weight.contiguous()
    if grad.dtype != weight.dtype or grad.device != weight.device:
        raise Error(f"the gradient must be {weight.dtype} on {weight.device}, as the weights")
    instances = grad.shape[0]
    of, plan = _of_matrices(weight, topology, instances, normalization, weight_use)
    w, _held = of.weights(weight, of.structure.sizes.m, plan, windows)
    plan.run(
        lib.HS_CONV_MATRIX_BACKWARD, instances, lib.hs_conv_matrix_backward, w, values(grad), out_values(out)
    )
    return out


def _of_matrices(
    weight: Tensor, topology: Tensor, instances: int, normalization: int, weight_use: int
) -> tuple[Axes, Plan]:
    structure = structures.of(topology)
    # No rows are read: a plan for one feature serves.
    plan = structure.plan(weight, normalization, weight_use, features=1)
    return Axes(structure, False, instances), plan


def gram(x: Tensor, topology: Tensor | None) -> Tensor:
    """Inner products of the rows of each instance, `[..., n, n]`, of the accumulation type."""
    n = x.shape[-2]
    out = new((*x.shape[:-2], n, n), x, accumulation(x.dtype))
    if x.numel() == 0:
        return out.zero_()
    x = readable(x)
    of = axes(rows_alone(n).packed if topology is None else topology, x)
    plan = of.structure.plan(x, lib.HS_NORMALIZATION_ROW, lib.HS_WEIGHTS_DOCUMENTED)
    plan.run(lib.HS_GRAM, of.instances, lib.hs_gram, of.read(x), out_values(out))
    return out


def gram_backward(grad: Tensor, x: Tensor, topology: Tensor | None) -> Tensor:
    """The gradient by x."""
    out = empty_like(x)
    if x.numel() == 0:
        return out
    x, grad = readable(x), numbers(grad, x, "the gradient")
    of = axes(rows_alone(x.shape[-2]).packed if topology is None else topology, x)
    plan = of.structure.plan(x, lib.HS_NORMALIZATION_ROW, lib.HS_WEIGHTS_DOCUMENTED)
    of.cleared(out)
    plan.run(
        lib.HS_GRAM_BACKWARD, of.instances, lib.hs_gram_backward, of.read(x), values(grad), of.write(out)
    )
    return out


@lru_cache(maxsize=64)
def rows_alone(n: int) -> Incidence:
    """Vertices without hyperedges."""
    return Incidence([], n)


def check_element(x: Tensor) -> None:
    """Whether there are operators for the type of x.

    Raises:
        Error: where not.
    """
    if x.dtype not in ELEMENTS:
        raise Error(f"features must be float32, float64, float16 or bfloat16, and are {x.dtype}")
