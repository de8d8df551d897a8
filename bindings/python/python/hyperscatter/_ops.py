"""The operators of `torch.ops.hyperscatter`: schemas, kernels, fake kernels and derivatives.

They take tensors and numbers alone. `topology` and `windows` are packed tensors (see `_packed`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _calls

_LIBRARY = torch.library.Library("hyperscatter", "DEF")
_DEVICES = ("CPU", "CUDA")
_FUNCTORCH: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]

ops: Any = torch.ops.hyperscatter


def refuse_transforms(inputs: Any) -> None:
    """`torch.func`'s gradients need a derivative of another form.

    Raises:
        NotImplementedError: within them.
    """
    if any(isinstance(of, Tensor) and _FUNCTORCH.is_gradtrackingtensor(of) for of in inputs):
        raise NotImplementedError(
            "torch.func.grad, vjp, jacrev and hessian are not there: use torch.autograd.grad, or "
            "torch.autograd.functional"
        )


def refuse_tangents(*inputs: Any) -> None:
    """An operator of `torch.library` without a derivative in forward mode drops tangents silently.

    Raises:
        NotImplementedError: where a tensor has one.
    """
    if forward_ad._current_level >= 0:
        for of in inputs:
            if isinstance(of, Tensor) and forward_ad.unpack_dual(of).tangent is not None:
                raise NotImplementedError(
                    "there are no derivatives in forward mode (jvp, jacfwd): use torch.autograd.grad"
                )


def define(name: str, schema: str, function: Any, fake: Any) -> None:
    """Registers an operator."""
    torch.library.define(f"hyperscatter::{name}", schema, lib=_LIBRARY, tags=(torch.Tag.pt2_compliant_tag,))
    for device in _DEVICES:
        _LIBRARY.impl(name, function, device)
    torch.library.register_fake(f"hyperscatter::{name}", fake, lib=_LIBRARY)


def autograd(name: str, backward: Any, setup: Any) -> None:
    """Registers a derivative.

    As `torch.library.register_autograd` does, but for filling in the defaults of arguments, which these
    operators do not have: that took 40 of 80 us of a forward call.
    """
    op = getattr(ops, name).default
    below, after = torch._C._AutoDispatchBelowAutograd, torch._C._after_autograd_keyset

    def forward(ctx: Any, keyset: Any, *inputs: Any) -> Any:
        with below():
            output = op.redispatch(keyset & after, *inputs)
        setup(ctx, ctx.needs_input_grad[1:], inputs, output)
        return output

    def derivative(ctx: Any, *gradients: Any) -> Any:
        return None, *backward(ctx, ctx.needs_input_grad[1:], *gradients)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(derivative)}
    function: Any = type(f"Derivative_{name}", (torch.autograd.Function,), methods)

    def kernel(keyset: Any, *inputs: Any) -> Any:
        refuse_tangents(*inputs)
        if torch.is_grad_enabled() and any(isinstance(of, Tensor) and of.requires_grad for of in inputs):
            refuse_transforms(inputs)
            return function.apply(keyset, *inputs)
        with below():
            return op.redispatch(keyset & after, *inputs)

    _LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)


# ---- steps ----

_SCALES = "Tensor topology, Tensor? vertex_scale, Tensor? hyperedge_scale, bool mean"


def _fake_step(x: Tensor, topology: Tensor, vs: Any, hs: Any, mean: bool, rows: int) -> Tensor:
    return x.new_empty((*x.shape[:-2], rows, x.shape[-1]))


def _fake_step_backward(
    grad: Tensor, x: Tensor, topology: Tensor, vs: Any, hs: Any, mean: bool, wanted: list[bool]
) -> Any:
    nothing = x.new_empty(0)
    return (
        _calls.empty_like(x) if wanted[0] else nothing,
        vs.new_empty(vs.shape) if wanted[1] and vs is not None else x.new_empty(0),
        hs.new_empty(hs.shape) if wanted[2] and hs is not None else x.new_empty(0),
    )


def _register_step(name: str, to_hyperedges: bool) -> None:
    def forward(x: Tensor, topology: Tensor, vs: Any, hs: Any, mean: bool, rows: int) -> Tensor:
        return _calls.step(x, topology, vs, hs, mean, rows, to_hyperedges)

    def backward(
        grad: Tensor, x: Tensor, topology: Tensor, vs: Any, hs: Any, mean: bool, wanted: list[bool]
    ) -> Any:
        return _calls.step_backward(grad, x, topology, vs, hs, mean, wanted, to_hyperedges)

    def setup(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
        x, topology, vs, hs, ctx.mean, ctx.rows = inputs
        # Without scales no gradient needs x: it may be freed, or written.
        ctx.rows_in = x.shape[-2]
        ctx.save_for_backward(x if vs is not None or hs is not None else None, topology, vs, hs)

    def derivative(ctx: Any, needs: Any, grad: Tensor) -> Any:
        x, topology, vs, hs = ctx.saved_tensors
        wanted = [needs[i] for i in (0, 2, 3)]
        if x is None and not ctx.mean:
            # The transpose is the other step.
            other = ops.e2v if to_hyperedges else ops.v2e
            return other(grad, topology, None, None, False, ctx.rows_in), None, None, None, None, None
        if x is None:
            # Not looked at.
            x = grad.new_zeros(grad.shape[-1]).expand(*grad.shape[:-2], ctx.rows_in, grad.shape[-1])
        gradients = getattr(ops, f"{name}_backward")(grad, x, topology, vs, hs, ctx.mean, wanted)
        gx, gvs, ghs = (g if want else None for g, want in zip(gradients, wanted, strict=True))
        return gx, None, gvs, ghs, None, None

    def composite(x: Tensor, topology: Tensor, vs: Any, hs: Any, mean: bool, rows: int) -> Tensor:
        return _step_from_sums(x, topology, vs, hs, mean, rows, to_hyperedges)

    def setup_backward(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
        grad, x, topology, vs, hs, ctx.mean, ctx.wanted = inputs
        ctx.save_for_backward(grad, x, topology, vs, hs)

    def second_derivative(ctx: Any, needs: Any, *cotangents: Any) -> Any:
        grad, x, topology, vs, hs = ctx.saved_tensors
        rows = grad.shape[-2]
        g, x, vs, hs = second_order(
            lambda x, vs, hs: composite(x, topology, vs, hs, ctx.mean, rows),
            grad,
            [x, vs, hs],
            ctx.wanted,
            cotangents,
        )
        return g, x, None, vs, hs, None, None

    define(name, f"(Tensor x, {_SCALES}, SymInt rows) -> Tensor", forward, _fake_step)
    define(
        f"{name}_backward",
        f"(Tensor grad, Tensor x, {_SCALES}, bool[3] wanted) -> (Tensor, Tensor, Tensor)",
        backward,
        _fake_step_backward,
    )
    autograd(name, derivative, setup)
    autograd(f"{name}_backward", second_derivative, setup_backward)


def second_order(function: Any, grad: Tensor, operands: list[Any], wanted: Any, cotangents: Any) -> list[Any]:
    """The gradients of a backward operator, by its `grad` and its operands.

    `function` is the forward operator made of operators that can be differentiated any number of times. Its
    gradients are formed in a graph, and differentiated in turn.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [grad, *operands]
        aliases = [None if leaf is None else _alias(leaf) for leaf in leaves]
        g, *inputs = aliases
        y = function(*inputs)
        pairs = [
            (of, ct)
            for of, want, ct in zip(inputs, wanted, cotangents, strict=False)
            if want and of is not None and ct is not None
        ]
        if not pairs:
            return [None] * len(leaves)
        gradients = torch.autograd.grad(
            y, [of for of, _ in pairs], g, create_graph=True, allow_unused=True, materialize_grads=True
        )
        products = [(gradient * ct).sum() for gradient, (_, ct) in zip(gradients, pairs, strict=True)]
        total = torch.stack(products).sum()
        present = [alias for alias in aliases if alias is not None]
        found = iter(
            torch.autograd.grad(
                total,
                present,
                create_graph=again,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        return [None if alias is None else next(found) for alias in aliases]


def _alias(leaf: Tensor) -> Tensor:
    """The same, as something that can be differentiated by, and through."""
    return leaf.view_as(leaf) if leaf.requires_grad else leaf.detach().requires_grad_()


def _beside(scale: Tensor, rows: int) -> Tensor:
    """A scale, shared or each instance's own, beside the rows that it scales."""
    if scale.shape[-1] != rows:
        raise NotImplementedError(
            "second derivatives of a Batch are there for packed rows with weights or scales of all "
            "instances, and for padded rows with shared ones"
        )
    return scale.unsqueeze(-1)


def _step_from_sums(
    x: Tensor, topology: Tensor, vs: Any, hs: Any, mean: bool, rows: int, to_hyperedges: bool
) -> Tensor:
    first, last = (vs, hs) if to_hyperedges else (hs, vs)
    if first is not None:
        x = x * _beside(first, x.shape[-2]).to(x.dtype)
    sums = ops.v2e if to_hyperedges else ops.e2v
    y = sums(x, topology, None, None, False, rows)
    if mean:
        ones = x.new_ones(*x.shape[:-1], 1)
        counts = sums(ones, topology, None, None, False, rows)
        y = y / counts.clamp(min=1)
    if last is not None:
        y = y * _beside(last, rows).to(y.dtype)
    return y


_register_step("v2e", True)
_register_step("e2v", False)

# ---- convolution ----

_CONVENTIONS = "int normalization, int weight_use"


def _fake_conv(
    x: Tensor,
    weight: Any,
    topology: Tensor,
    windows: Any,
    bias: Any,
    residual: Any,
    activation: int,
    normalization: int,
    weight_use: int,
    m: int,
    readout: int,
    padded: bool,
) -> Tensor:
    if readout == 0:
        return _calls.empty_like(x)
    lead = x.shape[:-2] if readout < 0 else (readout,)
    return x.new_empty((*lead, x.shape[-1]))


def _conv(
    x: Tensor,
    weight: Any,
    topology: Tensor,
    windows: Any,
    bias: Any,
    residual: Any,
    activation: int,
    normalization: int,
    weight_use: int,
    m: int,
    readout: int,
    padded: bool,
) -> Tensor:
    conventions = normalization, weight_use
    return _calls.conv(x, weight, topology, windows, bias, residual, activation, *conventions, readout != 0)


def _conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Any,
    topology: Tensor,
    windows: Any,
    bias: Any,
    activation: int,
    normalization: int,
    weight_use: int,
    m: int,
    readout: int,
    padded: bool,
    wanted: list[bool],
) -> Any:
    conventions = normalization, weight_use
    return _calls.conv_backward(
        grad, x, weight, topology, windows, bias, activation, *conventions, readout != 0, wanted
    )


def _fake_conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Any,
    topology: Tensor,
    windows: Any,
    bias: Any,
    activation: int,
    normalization: int,
    weight_use: int,
    m: int,
    readout: int,
    padded: bool,
    wanted: list[bool],
) -> Any:
    return (
        _calls.empty_like(x) if wanted[0] else x.new_empty(0),
        weight.new_empty(weight.shape) if wanted[1] and weight is not None else x.new_empty(0),
        bias.new_empty(bias.shape) if wanted[2] and bias is not None else x.new_empty(0),
        x.new_empty(x.shape) if wanted[3] else x.new_empty(0),
    )


def _setup_conv(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
    x, weight, topology, windows, bias, residual, *ctx.numbers = inputs
    activation, _, _, _, readout, _ = ctx.numbers
    # Without an activation the gradient of x alone needs no x: it may be freed, or written.
    ctx.needs_x = needs[1] or activation != 0 or readout != 0
    ctx.save_for_backward(x if ctx.needs_x else None, weight, topology, windows, bias)
    ctx.has_residual = residual is not None


def _conv_derivative(ctx: Any, needs: Any, grad: Tensor) -> Any:
    x, weight, topology, windows, bias = ctx.saved_tensors
    x = grad if x is None else x
    m, readout, padded = ctx.numbers[3:]
    wants_residual = ctx.has_residual and needs[5]
    wanted = [needs[0], needs[1], bias is not None and needs[4], wants_residual and readout != 0]
    outputs = ops.conv_backward(grad, x, weight, topology, windows, bias, *ctx.numbers, wanted)
    gx, gw, gb, gr = (g if want else None for g, want in zip(outputs, wanted, strict=True))
    if wants_residual and readout == 0:
        gr = only_rows(grad, topology, m) if padded else grad
    return gx, gw, None, None, gb, gr, *[None] * 6


def _is_row(x: Tensor, topology: Tensor, m: int) -> Tensor:
    """Which rows of a padded Batch are of an instance: those that a bias is added to."""
    zeros, one = x.new_zeros(*x.shape[:-1], 1), x.new_ones(1, dtype=_calls.accumulation(x.dtype))
    return ops.conv(zeros, None, topology, None, one, None, 0, 0, 0, m, 0, True) != 0


def only_rows(x: Tensor, topology: Tensor, m: int) -> Tensor:
    """The rows of a padded Batch, with zeros in its padding."""
    return torch.where(_is_row(x, topology, m), x, 0)


def with_epilogue(y: Tensor, bias: Any, activation: int) -> Tensor:
    """What follows the convolution, as operators of PyTorch."""
    return _ACTIVATIONS[activation](y if bias is None else y + bias.to(y.dtype))


def _setup_conv_backward(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
    grad, x, weight, topology, windows, bias, *ctx.numbers, ctx.wanted = inputs
    ctx.save_for_backward(grad, x, weight, topology, windows, bias)


def _conv_second_derivative(ctx: Any, needs: Any, *cotangents: Any) -> Any:
    grad, x, weight, topology, windows, bias = ctx.saved_tensors
    activation, normalization, weight_use, m, readout, padded = ctx.numbers
    if readout > 0 and not padded:
        raise NotImplementedError("second derivatives of a readout of a Batch with packed rows")
    is_row = _is_row(x, topology, m) if padded else None

    def function(x: Tensor, weight: Any, bias: Any, residual: Any) -> Tensor:
        y = conv_from_sums(x, weight, topology, windows, normalization, weight_use, m)
        y = with_epilogue(y, bias, activation)
        if residual is not None:
            y = y + residual
        if is_row is None:
            return y.mean(-2) if readout else y
        y = torch.where(is_row, y, 0)
        return y.sum(-2) / is_row.sum(-2).clamp(min=1) if readout else y

    residual = torch.zeros_like(x) if ctx.wanted[3] else None
    operands = [x, weight, bias, residual]
    g, gx, gw, gb, _ = second_order(function, grad, operands, ctx.wanted, cotangents)
    return g, gx, gw, None, None, gb, *[None] * 7


_ACTIVATIONS = (
    lambda u: u,
    torch.relu,
    torch.nn.functional.gelu,
    lambda u: torch.nn.functional.gelu(u, approximate="tanh"),
    torch.nn.functional.silu,
)


def conv_from_sums(
    x: Tensor, weight: Any, topology: Tensor, windows: Any, normalization: int, weight_use: int, m: int
) -> Tensor:
    """The convolution from the two steps, each of which can be differentiated any number of times."""
    if windows is not None:
        raise NotImplementedError("second derivatives with a table of windows")
    w = x.new_ones(m, 1) if weight is None else _beside(weight, m).to(x.dtype)
    one = torch.ones_like(w)
    in_degree = one if weight_use == 2 else w
    in_message = one if weight_use == 1 else w
    rows = x.shape[-2]
    left = right = None
    if normalization != 2:
        # Of each instance, also where they share weights: those of a Batch differ in their degrees.
        in_degree = in_degree.expand(*x.shape[:-2], m, 1)
        degree = ops.e2v(in_degree, topology, None, None, False, rows)
        zero = degree == 0
        safe = degree.masked_fill(zero, 1)
        inverse = (1 / safe if normalization == 0 else safe.rsqrt()).masked_fill(zero, 0)
        left = inverse
        right = inverse if normalization == 1 else None
    if right is not None:
        x = x * right
    z = ops.v2e(x, topology, None, None, True, m) * in_message
    y = ops.e2v(z, topology, None, None, False, rows)
    return y if left is None else y * left


define(
    "conv",
    "(Tensor x, Tensor? weight, Tensor topology, Tensor? windows, Tensor? bias, "
    "Tensor? residual, int activation, "
    f"{_CONVENTIONS}, SymInt m, SymInt readout, bool padded) -> Tensor",
    _conv,
    _fake_conv,
)
define(
    "conv_backward",
    "(Tensor grad, Tensor x, Tensor? weight, Tensor topology, Tensor? windows, Tensor? bias, "
    f"int activation, {_CONVENTIONS}, SymInt m, SymInt readout, bool padded, bool[4] wanted) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _conv_backward,
    _fake_conv_backward,
)
autograd("conv", _conv_derivative, _setup_conv)
autograd("conv_backward", _conv_second_derivative, _setup_conv_backward)

# ---- matrices ----


def _setup_operator(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
    weight, topology, windows, _instances, _n, *ctx.numbers = inputs
    ctx.save_for_backward(weight, topology, windows)


def _operator_derivative(ctx: Any, needs: Any, grad: Tensor) -> Any:
    gradient = ops.operator_backward(grad, *ctx.saved_tensors, *ctx.numbers)
    return gradient, None, None, None, None, None, None


define(
    "operator",
    "(Tensor weight, Tensor topology, Tensor? windows, SymInt instances, SymInt n, "
    f"{_CONVENTIONS}) -> Tensor",
    _calls.operator,
    lambda weight, topology, windows, instances, n, *_: weight.new_empty((instances, n, n)),
)
define(
    "operator_backward",
    f"(Tensor grad, Tensor weight, Tensor topology, Tensor? windows, {_CONVENTIONS}) -> Tensor",
    _calls.operator_backward,
    lambda grad, weight, *_: weight.new_empty(weight.shape),
)
autograd("operator", _operator_derivative, _setup_operator)


def _setup_operator_backward(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
    grad, weight, topology, windows, *ctx.numbers = inputs
    ctx.save_for_backward(grad, weight, topology, windows)


def _operator_second_derivative(ctx: Any, needs: Any, cotangent: Tensor) -> Any:
    grad, weight, topology, windows = ctx.saved_tensors
    instances, n, _ = grad.shape
    if weight.dim() == 1 and instances != 1:
        raise NotImplementedError("second derivatives of the operator of a Batch, or with a table of windows")
    m = weight.shape[-1]

    def function(weight: Tensor) -> Tensor:
        # A matrix is what it makes of the unit vectors.
        units = torch.eye(n, dtype=grad.dtype, device=grad.device).expand(instances, n, n)
        w = weight.reshape(instances, m)
        normalization, weight_use = ctx.numbers
        return conv_from_sums(units, w, topology, windows, normalization, weight_use, m)

    g, w = second_order(function, grad, [weight], [True], [cotangent])
    return g, w, None, None, None, None


autograd("operator_backward", _operator_second_derivative, _setup_operator_backward)


def _setup_gram(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gram_derivative(ctx: Any, needs: Any, grad: Tensor) -> Any:
    return ops.gram_backward(grad, *ctx.saved_tensors), None


def _setup_gram_backward(ctx: Any, needs: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gram_second_derivative(ctx: Any, needs: Any, cotangent: Tensor) -> Any:
    """Of (S + S^T) x, with S the gradient of the inner products."""
    grad, x, topology = ctx.saved_tensors
    c, wide = cotangent.to(grad.dtype), x.to(grad.dtype)
    outer = c @ wide.transpose(-1, -2)
    outer = outer + outer.transpose(-1, -2)
    if topology is not None:
        # Only where an instance has rows.
        is_there = ops.gram(grad.new_ones(*x.shape[:-1], 1), topology) > 0
        outer = torch.where(is_there, outer, 0)
    return outer, ops.gram_backward(grad, cotangent, topology), None


define(
    "gram",
    "(Tensor x, Tensor? topology) -> Tensor",
    _calls.gram,
    lambda x, topology: x.new_empty(
        (*x.shape[:-2], x.shape[-2], x.shape[-2]), dtype=_calls.accumulation(x.dtype)
    ),
)
define(
    "gram_backward",
    "(Tensor grad, Tensor x, Tensor? topology) -> Tensor",
    _calls.gram_backward,
    lambda grad, x, topology: _calls.empty_like(x),
)
autograd("gram", _gram_derivative, _setup_gram)
autograd("gram_backward", _gram_second_derivative, _setup_gram_backward)
