"""Layers in one pass, `y = act(M (x Θᵀ) + b) + r`: their operators in `torch.ops.hyperscatter`, and when a
call takes them.

On a CUDA device one kernel reads x once and writes y once. Elsewhere `is_one_pass` leaves these operators
out: they can multiply by Θ as PyTorch does, and then convolve, as where there is nothing to compute, but
would multiply a second time in the backward, where PyTorch's own product is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as modules

from . import _calls, _devices, _ops
from ._calls import Axes, axes, empty_like, new, out_values, readable, rows_like, some_numbers, values
from ._library import NULL, Error, ffi, lib
from ._ops import ops
from ._structures import Plan
from .topology import Batch, Incidence, choice

PRECISIONS = ("three_bf16", "tf32")

LEAST_CAPABILITY = (8, 0)
MOST_FEATURES = {torch.float16: 512, torch.bfloat16: 512, torch.float32: 256}


def number_of(precision: str | None) -> int:
    """The library's number of a precision. PyTorch, which says where nobody does, allows TF32 or nothing.

    Raises:
        ValueError: for a word that is none.
    """
    return choice("precision", "tf32" if precision is None else precision, PRECISIONS)


def is_one_pass(x: Tensor, theta: Tensor, topology: Incidence | Batch, precision: str | None) -> bool:
    """Whether kernels take a layer, forward and backward.

    Args:
        x: `[..., n, F_in]`.
        theta: `[F_out, F_in]`.
        topology: the hypergraph of each instance, or a table of instances.
        precision: see `hyperscatter.layer`.
    """
    if x.device.type != "cuda" or not topology.has_layers:
        return False
    most = MOST_FEATURES.get(x.dtype, 0)
    if not (0 < theta.shape[0] <= most and 0 < theta.shape[1] <= most):
        return False
    if x.dtype == torch.float32 and precision is None and not _multiplies_by_tf32():
        return False
    return _has_tensor_cores(x.device.index)


# A compiled graph holds the answers of these two: numbers and words alone can be constants of it.
@torch.compiler.assume_constant_result
def _multiplies_by_tf32() -> bool:
    """Whether PyTorch multiplies float32 on CUDA by TF32."""
    backends: Any = torch.backends
    matmul = backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):  # before PyTorch 2.9
        return torch.get_float32_matmul_precision() != "highest"
    own = matmul.fp32_precision
    return (backends.fp32_precision if own == "none" else own) == "tf32"


@torch.compiler.assume_constant_result
def _has_tensor_cores(index: int) -> bool:
    return _devices.capability(index) >= LEAST_CAPABILITY


def theta_of(lin: nn.Module) -> Tensor | None:
    """Θ of a linear map that does nothing but multiply; None where something may have been hung on it."""
    if type(lin) is not nn.Linear or lin.bias is not None or "forward" in vars(lin):
        return None
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(lin, of) or getattr(modules, f"_global{of}") for of in hooks):
        return None
    # Others have products of their own.
    return lin.weight if type(lin.weight) in (nn.Parameter, Tensor, FakeTensor) else None


# ---- calls ----


def _empty(x: Tensor, features: int) -> Tensor:
    """Rows of so many features, in x's order of dimensions if rows of such an order can be written."""
    shape = (*x.shape[:-1], features)
    if x.is_contiguous() or not _calls.is_dense(x):
        return new(shape, x)
    order = sorted(range(x.dim() - 1), key=lambda i: (-x.stride(i), -x.shape[i]))
    return torch.empty_permuted(shape, (*order, x.dim() - 1), dtype=x.dtype, device=x.device)


def _product(x: Tensor, theta: Tensor) -> Tensor:
    """As PyTorch multiplies, of the type of x whatever autocast is for."""
    with torch.autocast(x.device.type, enabled=False):
        return nn.functional.linear(x, theta.to(x.dtype))


class _Operands:
    """What both directions read. It keeps what the library's structures point to."""

    def __init__(
        self,
        of: Axes,
        plan: Plan,
        x: Tensor,
        theta: Tensor,
        weight: Tensor | None,
        windows: Tensor | None,
        bias: Tensor | None,
        activation: int,
    ) -> None:
        self._tensors = readable(x), theta.to(x.dtype).contiguous(), some_numbers(bias, x, "bias")
        x, theta, bias = self._tensors
        w, self._weights = of.weights_of_conv(weight, x, plan, windows)
        self._bias = values(bias)
        epilogue = ffi.new("hs_epilogue *", (activation, self._bias))
        self.structs = of.read(x), values(theta), w, epilogue


def _plan(
    operator: int, x: Tensor, theta: Tensor, topology: Tensor, conventions: tuple[int, int], precision: int
) -> tuple[Axes, Plan] | None:
    """The plan whose kernels have the call; None if none have."""
    if not _devices.of(x).has_layers or x.numel() == 0 or theta.numel() == 0:
        return None
    of = axes(topology, x)
    features, inputs = theta.shape
    plan = of.structure.plan(x, *conventions, features=features, inputs=inputs, precision=precision)
    return (of, plan) if plan.has(operator) else None


def layer(
    x: Tensor,
    theta: Tensor,
    weight: Tensor | None,
    topology: Tensor,
    windows: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    normalization: int,
    weight_use: int,
    precision: int,
) -> Tensor:
    """The layer: `[..., n, F_out]`."""
    conventions = normalization, weight_use
    found = _plan(lib.HS_LAYER, x, theta, topology, conventions, precision)
    if found is None:
        h = _empty(x, theta.shape[0]).copy_(_product(x, theta))
        return _calls.conv(h, weight, topology, windows, bias, residual, activation, *conventions, False)
    of, plan = found
    out = _empty(x, theta.shape[0])
    of.cleared(out)
    residual = None if residual is None else rows_like(residual, x, "residual", out.shape)
    operands = _Operands(of, plan, x, theta, weight, windows, bias, activation)
    to = of.read(residual), of.write(out)
    plan.run(lib.HS_LAYER, of.instances, lib.hs_layer, *operands.structs, *to)
    return out


def layer_backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    weight: Tensor | None,
    topology: Tensor,
    windows: Tensor | None,
    bias: Tensor | None,
    activation: int,
    normalization: int,
    weight_use: int,
    precision: int,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, Θ, weights and bias, of those that are wanted."""
    conventions = normalization, weight_use
    found = _plan(lib.HS_LAYER_BACKWARD, x, theta, topology, conventions, precision)
    if found is None:
        return _composed_backward(
            grad, x, theta, weight, topology, windows, bias, activation, conventions, wanted
        )
    of, plan = found
    outs = (
        empty_like(x) if wanted[0] else None,
        new(theta.shape, x, _calls.accumulation(x.dtype)) if wanted[1] else None,
        new(weight.shape, weight) if wanted[2] and weight is not None else None,
        new(bias.shape, bias) if wanted[3] and bias is not None else None,
    )
    of.cleared(outs[0])
    grad = rows_like(grad, x, "the gradient", torch.Size((*x.shape[:-1], theta.shape[0])))
    operands = _Operands(of, plan, x, theta, weight, windows, bias, activation)
    parts = of.write(outs[0]), *map(out_values, outs[1:]), NULL
    gradients = ffi.new("hs_layer_gradients *", parts)
    to = of.read(grad), gradients
    plan.run(lib.HS_LAYER_BACKWARD, of.instances, lib.hs_layer_backward, *operands.structs, *to)
    grad_x, grad_theta, grad_w, grad_bias = (new(0, x) if out is None else out for out in outs)
    return grad_x, grad_theta.to(theta.dtype) if wanted[1] else grad_theta, grad_w, grad_bias


def _composed_backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    weight: Tensor | None,
    topology: Tensor,
    windows: Tensor | None,
    bias: Tensor | None,
    activation: int,
    conventions: tuple[int, int],
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same from the convolution's, with the product by Θ formed again."""
    of_conv = [wanted[0] or wanted[1], wanted[2], wanted[3], False]
    grad_h, grad_w, grad_bias, _ = _calls.conv_backward(
        grad, _product(x, theta), weight, topology, windows, bias, activation, *conventions, False, of_conv
    )
    grad_x, grad_theta = new(0, x), new(0, x)
    if wanted[0]:
        grad_x = empty_like(x).copy_(_product(grad_h, theta.T))
    if wanted[1]:
        grad_theta = _product(grad_h.flatten(0, -2).T, x.flatten(0, -2).T).to(theta.dtype)
    return grad_x, grad_theta, grad_w, grad_bias


# ---- operators ----


def _forward(
    x: Tensor,
    theta: Tensor,
    weight: Any,
    topology: Tensor,
    windows: Any,
    bias: Any,
    residual: Any,
    activation: int,
    normalization: int,
    weight_use: int,
    m: int,
    padded: bool,
    precision: int,
) -> Tensor:
    return layer(
        x, theta, weight, topology, windows, bias, residual, activation, normalization, weight_use, precision
    )


def _fake_forward(x: Tensor, theta: Tensor, *_: Any) -> Tensor:
    return _empty(x, theta.shape[0])


def _backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    weight: Any,
    topology: Tensor,
    windows: Any,
    bias: Any,
    activation: int,
    normalization: int,
    weight_use: int,
    m: int,
    padded: bool,
    precision: int,
    wanted: list[bool],
) -> Any:
    conventions = normalization, weight_use
    return layer_backward(
        grad, x, theta, weight, topology, windows, bias, activation, *conventions, precision, wanted
    )


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    weight: Any,
    topology: Tensor,
    windows: Any,
    bias: Any,
    activation: int,
    normalization: int,
    weight_use: int,
    m: int,
    padded: bool,
    precision: int,
    wanted: list[bool],
) -> Any:
    return (
        empty_like(x) if wanted[0] else x.new_empty(0),
        theta.new_empty(theta.shape) if wanted[1] else x.new_empty(0),
        weight.new_empty(weight.shape) if wanted[2] and weight is not None else x.new_empty(0),
        bias.new_empty(bias.shape) if wanted[3] and bias is not None else x.new_empty(0),
    )


def _setup(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
    x, theta, weight, topology, windows, bias, residual, *ctx.numbers = inputs
    ctx.save_for_backward(x, theta, weight, topology, windows, bias)
    ctx.has_residual = residual is not None


def _derivative(ctx: Any, needs: Any, grad: Tensor) -> Any:
    x, theta, weight, topology, windows, bias = ctx.saved_tensors
    _, _, _, m, padded, _ = ctx.numbers
    wanted = [needs[0], needs[1], weight is not None and needs[2], bias is not None and needs[5]]
    gradients = [None] * 4
    if any(wanted):
        outputs = ops.layer_backward(grad, x, theta, weight, topology, windows, bias, *ctx.numbers, wanted)
        gradients = [g if want else None for g, want in zip(outputs, wanted, strict=True)]
    grad_x, grad_theta, grad_w, grad_bias = gradients
    grad_residual = None
    if ctx.has_residual and needs[6]:
        grad_residual = _ops.only_rows(grad, topology, m) if padded else grad
    return grad_x, grad_theta, grad_w, None, None, grad_bias, grad_residual, *[None] * 6


def _setup_backward(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
    grad, x, theta, weight, topology, windows, bias, *ctx.numbers, ctx.wanted = inputs
    ctx.save_for_backward(grad, x, theta, weight, topology, windows, bias)


def _second_derivative(ctx: Any, needs: Any, *cotangents: Any) -> Any:
    grad, x, theta, weight, topology, windows, bias = ctx.saved_tensors
    activation, normalization, weight_use, m, padded, _ = ctx.numbers

    def function(x: Tensor, theta: Tensor, weight: Any, bias: Any) -> Tensor:
        h = _product(x, theta)
        y = _ops.conv_from_sums(h, weight, topology, windows, normalization, weight_use, m)
        y = _ops.with_epilogue(y, bias, activation)
        return _ops.only_rows(y, topology, m) if padded else y

    operands = [x, theta, weight, bias]
    g, gx, gt, gw, gb = _ops.second_order(function, grad, operands, ctx.wanted, cotangents)
    return g, gx, gt, gw, None, None, gb, *[None] * 7


_NUMBERS = "int activation, int normalization, int weight_use, SymInt m, bool padded, int precision"
_OPERANDS = "Tensor x, Tensor theta, Tensor? weight, Tensor topology, Tensor? windows, Tensor? bias"

_ops.define("layer", f"({_OPERANDS}, Tensor? residual, {_NUMBERS}) -> Tensor", _forward, _fake_forward)
_ops.define(
    "layer_backward",
    f"(Tensor grad, {_OPERANDS}, {_NUMBERS}, bool[4] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)
_ops.autograd("layer", _derivative, _setup)
_ops.autograd("layer_backward", _second_derivative, _setup_backward)


def check_theta(x: Tensor, theta: Tensor) -> None:
    """Whether Θ multiplies the rows of x.

    Raises:
        Error: where not.
    """
    if theta.dim() != 2 or theta.shape[1] != x.shape[-1]:
        raise Error(
            f"theta must have the shape [F_out, {x.shape[-1]}], beside rows of {x.shape[-1]} features, "
            f"and has {tuple(theta.shape)}"
        )
    if theta.dtype not in (x.dtype, _calls.accumulation(x.dtype)) or theta.device != x.device:
        raise Error(
            f"theta must be {x.dtype} or {_calls.accumulation(x.dtype)} on {x.device}, beside features of "
            f"{x.dtype}, and is {theta.dtype} on {theta.device}"
        )
