"""The operators as functions.

Rows of features are `[..., n, F]`: any leading dimensions, then the vertices (or hyperedges) of an instance,
then features. Each instance is a copy of the `Incidence`. With a `Batch` they are `[n_vertices, F]`, the rows
of all instances one behind the other, or `[n_instances, largest_vertices, F]`, padded.

Rows are read where they are, whatever their strides, as long as the F features of a row are contiguous and
one stride leads from each instance to the next; else they are copied. Types: float32, float64, float16,
bfloat16. Weights, scales and biases are float32 (float64 with float64), and those of half the width are
widened.

Under autocast rows of float32 are cast to autocast's type, as those of a matrix product are.

Arrays of other libraries (JAX, CuPy) are taken by DLPack, without gradients, and the result is an array of
the same library. Arrays and tensors are not mixed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from types import NoneType
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from . import _calls, _layers, _ops
from ._library import Error
from .topology import Batch, Incidence, Windows, choice

__all__ = ["conv", "e2v", "explain", "gram", "layer", "operator", "v2e"]

Reduce = Literal["sum", "mean"]
Normalization = Literal["row", "symmetric", "none"]
WeightUse = Literal["documented", "degree_only", "message_only"]
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
Precision = Literal["three_bf16", "tf32"]
Topology = Incidence | Batch

NORMALIZATIONS = ("row", "symmetric", "none")
WEIGHT_USES = ("documented", "degree_only", "message_only")
ACTIVATIONS = ("identity", "relu", "gelu", "gelu_tanh", "silu")

_F = TypeVar("_F", bound=Callable[..., Any])


def eager(function: _F) -> _F:
    """Leaves a function out of compiled graphs."""
    return cast(_F, torch.compiler.disable(function))


def _takes_arrays(function: _F) -> _F:
    """Lets a function take arrays of other libraries."""

    @wraps(function)
    def takes(*arguments: Any, **named: Any) -> Any:
        arrays = [of for of in (*arguments, *named.values()) if _is_array(of)]
        if not arrays:
            return function(*arguments, **named)
        if any(isinstance(of, Tensor) for of in (*arguments, *named.values())):
            raise TypeError("arrays of other libraries and tensors are not mixed in one call")
        namespace = _namespace(arrays[0])
        tensors, by_name = [*map(_tensor, arguments)], {k: _tensor(of) for k, of in named.items()}
        with torch.no_grad():
            result = function(*tensors, **by_name)
        if result.is_cuda:
            # Its owner may write an array's memory again once it is let go of here.
            torch.cuda.current_stream(result.device).synchronize()
        return namespace.from_dlpack(result)

    return cast(_F, takes)


def _namespace(array: Any) -> Any:
    """What has the `from_dlpack` of an array's library."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    library = sys.modules[type(array).__module__.partition(".")[0]]
    if not hasattr(library, "from_dlpack"):
        raise TypeError(f"{library.__name__} has no from_dlpack: give a tensor, torch.from_dlpack(array)")
    return library


def _is_array(of: Any) -> bool:
    return not isinstance(of, (Tensor, str, Incidence, Batch, NoneType)) and hasattr(of, "__dlpack__")


def _tensor(of: Any) -> Any:
    if not _is_array(of):
        return of
    strides = getattr(of, "strides", None)
    if strides and min(strides) < 0:
        of = of.copy()  # which torch.from_dlpack does not survive
    return torch.from_dlpack(of)


@_takes_arrays
def v2e(
    x: Tensor,
    topology: Topology,
    *,
    reduce: Reduce = "sum",
    vertex_scale: Tensor | None = None,
    hyperedge_scale: Tensor | None = None,
) -> Tensor:
    """The step from vertices to hyperedges: `z_e = s_e Σ_{v∈e} r_v x_v`, or the mean.

    Args:
        x: `[..., n, F]`.
        topology: the hypergraph of each instance, or a table of instances.
        reduce: whether the rows of a hyperedge's vertices are summed or averaged.
        vertex_scale: `r`, of the same `[n]` in each instance, or `[..., n]`.
        hyperedge_scale: `s`, `[m]` or `[..., m]`.

    Returns:
        `[..., m, F]`, of the type of x.
    """
    return _step(_ops.ops.v2e, x, topology, reduce, vertex_scale, hyperedge_scale, True)


@_takes_arrays
def e2v(
    z: Tensor,
    topology: Topology,
    *,
    reduce: Reduce = "sum",
    vertex_scale: Tensor | None = None,
    hyperedge_scale: Tensor | None = None,
) -> Tensor:
    """The step from hyperedges to vertices: `y_v = t_v Σ_{e∋v} u_e z_e`, or the mean.

    Args:
        z: `[..., m, F]`.
        topology: the hypergraph of each instance, or a table of instances.
        reduce: whether the rows of a vertex's hyperedges are summed or averaged.
        vertex_scale: `t`, of the same `[n]` in each instance, or `[..., n]`.
        hyperedge_scale: `u`, `[m]` or `[..., m]`.

    Returns:
        `[..., n, F]`, of the type of z.
    """
    return _step(_ops.ops.e2v, z, topology, reduce, vertex_scale, hyperedge_scale, False)


@_takes_arrays
def conv(
    x: Tensor,
    topology: Topology,
    weight: Tensor | None = None,
    *,
    windows: Windows | None = None,
    normalization: Normalization = "row",
    weight_use: WeightUse = "documented",
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    readout: Literal["mean"] | None = None,
) -> Tensor:
    """The hypergraph convolution `y = act(D⁻¹ H W B⁻¹ Hᵀ x + bias) + residual` (Bai, Zhang and Torr 2019,
    equation 5, without Θ).

    `D` are the degrees of vertices, `D_v = Σ_{e∋v} w_e`, and `B` the numbers of vertices of hyperedges. A
    vertex of degree 0 gets 0, and its gradients are finite.

    Args:
        x: `[..., n, F]`.
        topology: the hypergraph of each instance, or a table of instances.
        weight: of hyperedges: `[m]`, the same in each instance; `[..., m]`, its own in each; of a `Batch`
            `[n_hyperedges]`, those of all instances one behind the other (`[n_instances, m]` where all have
            m), or `[largest_hyperedges]`, the same in each; any number with `windows`. 1 by default.
        windows: where each instance's weights begin.
        normalization: `"row"` divides by D, `"symmetric"` by the roots of both vertices' degrees, `"none"` by
            nothing.
        weight_use: weights are in the message and in the degree (`"documented"`), in the degree alone (what
            PyTorch Geometric 2.8 computes), or in the message alone (DHG 0.9.7's `v2v(x, "mean", e_weight=w)`
            with `"row"`). DHG's `HGNNConv` is `"documented"` with `"symmetric"`, and its `HGNNPConv` is that
            with `"row"`.
        bias: `[F]`.
        activation: of what the convolution gives with the bias.
        residual: `[..., n, F]`, of the type of x, added last.
        readout: `"mean"` for the mean over the vertices of each instance, which is formed in the same pass.

    Returns:
        `[..., n, F]`, of the type of x and in its order of dimensions; with a readout `[..., F]`.
    """
    _check_rows(x, "x")
    _check_topology(topology)
    conventions = _conventions(normalization, weight_use)
    which = 0 if activation is None else choice("activation", activation, ACTIVATIONS)
    x = _autocast(x)
    weight = _weights(weight, x, topology, windows)
    bias, residual = _epilogue(bias, residual, x, x.shape[-1])
    _ops.refuse_tangents(x, weight, bias, residual)
    rows = _rows(x, topology)[1]
    many = 0 if readout is None else -1 if isinstance(topology, Incidence) else topology.n_instances
    if readout not in (None, "mean"):
        raise ValueError(f"readout must be 'mean' or None, and is {readout!r}")
    packed = None if windows is None else windows.packed
    padded = isinstance(topology, Batch) and x.dim() == 3
    return _ops.ops.conv(
        x, weight, topology.packed, packed, bias, residual, which, *conventions, rows, many, padded
    )


@_takes_arrays
def layer(
    x: Tensor,
    theta: Tensor,
    topology: Topology,
    weight: Tensor | None = None,
    *,
    windows: Windows | None = None,
    normalization: Normalization = "row",
    weight_use: WeightUse = "documented",
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    precision: Precision | None = None,
) -> Tensor:
    """A whole layer, `y = act(D⁻¹ H W B⁻¹ Hᵀ x Θᵀ + bias) + residual`: `conv` of `x Θᵀ`.

    On a CUDA device of compute capability 8.0 or newer it is one pass over x and y, and the backward computes
    `x Θᵀ` again instead of keeping it: where no instance has more than 16 vertices, nor a vertex of more than
    512 incidences (`topology.has_layers` tells), of float16 and bfloat16 with up to 512 features on both
    sides, and of float32 with up to 256 if `precision` takes it. Elsewhere it is
    `torch.nn.functional.linear` and `conv`. In one pass x Θᵀ is not rounded to the type of x before the
    convolution, and results have not the bits of the CPU. `explain` tells which of the two a call is, and who
    wants the second one writes it: `conv(linear(x, theta), ...)`.

    Args:
        x: `[..., n, F_in]`.
        theta: `Θ`, `[F_out, F_in]` as of `torch.nn.Linear`, of the type of x, or float32 beside half types:
            it is rounded then, and in one pass its gradient is not.
        topology: as in `conv`, and so are the others that are not named here.
        bias: `[F_out]`.
        residual: `[..., n, F_out]`.
        precision: how one pass multiplies float32: `"three_bf16"` by three products of bfloat16 (relative
            error about 4e-6), `"tf32"` by TF32 (about 4e-4). By default as PyTorch multiplies: by TF32 where
            that is allowed (`torch.set_float32_matmul_precision("high")`,
            `torch.backends.cuda.matmul.fp32_precision = "tf32"`), else not in one pass.

    Returns:
        `[..., n, F_out]`, of the type of x; under autocast of autocast's type.
    """
    _check_rows(x, "x")
    _check_topology(topology)
    _check_tensor(theta, "theta")
    conventions = _conventions(normalization, weight_use)
    which = 0 if activation is None else choice("activation", activation, ACTIVATIONS)
    how = _layers.number_of(precision)
    if _is_autocasting(x) and x.dtype != torch.float64:
        # As for a matrix product of PyTorch, also from one half type to the other.
        x = x.to(torch.get_autocast_dtype(x.device.type))
        theta = theta.to(x.dtype) if theta.dtype in (torch.float16, torch.bfloat16) else theta
    _layers.check_theta(x, theta)
    if not _layers.is_one_pass(x, theta, topology, precision):
        # Autocast keeps what it has cast for other calls.
        h = torch.nn.functional.linear(x, theta if _is_autocasting(x) else theta.to(x.dtype))
        return conv(
            h,
            topology,
            weight,
            windows=windows,
            normalization=normalization,
            weight_use=weight_use,
            bias=bias,
            activation=activation,
            residual=residual,
        )
    weight = _weights(weight, x, topology, windows)
    bias, residual = _epilogue(bias, residual, x, theta.shape[0])
    _ops.refuse_tangents(x, theta, weight, bias, residual)
    m = _rows(x, topology)[1]
    packed = None if windows is None else windows.packed
    padded = isinstance(topology, Batch) and x.dim() == 3
    operands = x, theta, weight, topology.packed, packed, bias, residual
    return _ops.ops.layer(*operands, which, *conventions, m, padded, how)


@_takes_arrays
def operator(
    topology: Topology,
    weight: Tensor,
    *,
    windows: Windows | None = None,
    normalization: Normalization = "row",
    weight_use: WeightUse = "documented",
) -> Tensor:
    """The matrix M of the convolution, `y = M x`, of each instance.

    Args:
        topology: of up to 64 vertices.
        weight: as in `conv`; its type is that of the result, float32 or float64.

    Returns:
        `[n, n]` for an `Incidence` with weights `[m]`, `[..., n, n]` with weights `[..., m]`; `[n_instances,
        n, n]` for a `Batch`, with zeros behind smaller instances' rows and columns.
    """
    _check_topology(topology)
    _check_tensor(weight, "weight")
    if weight.dtype not in (torch.float32, torch.float64):
        raise Error(f"weights must be float32 or float64, and are {weight.dtype}")
    conventions = _conventions(normalization, weight_use)
    _ops.refuse_tangents(weight)
    packed = None if windows is None else windows.packed
    if isinstance(topology, Batch):
        n, instances, lead = topology.largest_vertices, topology.n_instances, (topology.n_instances,)
        if windows is None:
            weight = _lined_up_for_table(weight, topology, topology.n_hyperedges, "weight")
        weight = weight.contiguous()
    else:
        n, lead = topology.n_vertices, tuple(weight.shape[:-1])
        if windows is not None:
            lead = (windows.offsets.numel(),)
        elif weight.dim() == 0 or weight.shape[-1] != topology.n_hyperedges:
            raise Error(
                f"weight must have the shape [..., {topology.n_hyperedges}], a weight for each "
                "hyperedge, and has "
                f"{tuple(weight.shape)}"
            )
        instances = 1
        for size in lead:
            instances = instances * size
        weight = weight.contiguous()
    matrices = _ops.ops.operator(weight, topology.packed, packed, instances, n, *conventions)
    return matrices.reshape(*lead, n, n)


@_takes_arrays
def gram(x: Tensor, topology: Batch | None = None) -> Tensor:
    """The inner products `⟨x_u, x_v⟩` of the rows of each instance.

    Args:
        x: `[..., n, F]` with up to 64 rows; with a `Batch` `[n_instances, largest_vertices, F]`.
        topology: where instances differ in their number of rows.

    Returns:
        `[..., n, n]`, float32 (float64 of float64).
    """
    _check_rows(x, "x")
    x = _autocast(x)
    _ops.refuse_tangents(x)
    if topology is not None:
        if not isinstance(topology, Batch):
            raise TypeError(f"the topology of gram is a Batch or None, and is {type(topology).__name__}")
        if x.dim() != 3:
            raise Error(
                "with a Batch x must have the shape [n_instances, largest_vertices, F], and has "
                f"{tuple(x.shape)}"
            )
        return _ops.ops.gram(x, topology.packed)
    return _ops.ops.gram(x, None)


def explain(
    topology: Topology,
    features: int,
    *,
    instances: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    normalization: Normalization = "row",
    weight_use: WeightUse = "documented",
    inputs: int | None = None,
    precision: Precision | None = None,
) -> str:
    """What calls do, in English: how each hypergraph is computed, launches, kernels and bytes.

    Args:
        topology: the hypergraph of each instance, or a table of instances.
        features: F.
        instances: how many instances a call has; a `Batch` knows.
        dtype: the type of the features.
        device: where they are.
        normalization: as in `conv`.
        weight_use: as in `conv`.
        inputs: the features of a `layer`'s x, where they are others.
        precision: as in `layer`.

    Returns:
        the explanation, and in its last line how a `layer` is computed.
    """
    _check_topology(topology)
    like = torch.empty(1, features, dtype=dtype, device=device)
    _calls.check_element(like)
    conventions = _conventions(normalization, weight_use)
    how = _layers.number_of(precision)
    plan = topology._structure.plan(like, *conventions, inputs=inputs or 0, precision=how)
    text = plan.explain(topology.n_instances if isinstance(topology, Batch) else instances)
    theta = like.new_empty(features, inputs or features)
    one_pass = _layers.is_one_pass(like, theta, topology, precision)
    return (
        f"{text}hyperscatter.layer: {'in one pass' if one_pass else 'torch.nn.functional.linear and conv'}\n"
    )


def _step(
    op: Any,
    x: Tensor,
    topology: Topology,
    reduce: str,
    vertex_scale: Tensor | None,
    hyperedge_scale: Tensor | None,
    to_hyperedges: bool,
) -> Tensor:
    _check_rows(x, "x" if to_hyperedges else "z")
    _check_topology(topology)
    mean = choice("reduce", reduce, ("sum", "mean")) == 1
    x = _autocast(x)
    n, m = _rows(x, topology)
    if vertex_scale is not None:
        vertex_scale = _lined_up(vertex_scale, x, topology, topology.n_vertices, "vertex_scale")
        vertex_scale = _widened(vertex_scale, x, "vertex_scale")
    if hyperedge_scale is not None:
        hyperedge_scale = _lined_up(hyperedge_scale, x, topology, topology.n_hyperedges, "hyperedge_scale")
        hyperedge_scale = _widened(hyperedge_scale, x, "hyperedge_scale")
    _ops.refuse_tangents(x, vertex_scale, hyperedge_scale)
    rows = m if to_hyperedges else n
    return op(x, topology.packed, vertex_scale, hyperedge_scale, mean, rows)


def _weights(weight: Tensor | None, x: Tensor, topology: Topology, windows: Windows | None) -> Tensor | None:
    """Weights of a convolution, lined up and as wide as they have to be."""
    if weight is None:
        return None
    _check_tensor(weight, "weight")
    if windows is None:
        weight = _lined_up(weight, x, topology, topology.n_hyperedges, "weight")
    elif weight.dim() != 1:
        raise Error(f"with windows weight must have one dimension, and has the shape {tuple(weight.shape)}")
    return _widened(weight, x, "weight")


def _epilogue(
    bias: Tensor | None, residual: Tensor | None, x: Tensor, features: int
) -> tuple[Tensor | None, Tensor | None]:
    """Bias and residual of rows of so many features, checked."""
    if bias is not None:
        _check_shape(bias, (features,), "bias")
        bias = _widened(bias, x, "bias")
    if residual is not None:
        residual = residual.to(x.dtype) if _is_autocasting(x) else residual
        _check_shape(residual, (*x.shape[:-1], features), "residual")
        if residual.dtype != x.dtype or residual.device != x.device:
            raise Error(
                f"residual must be of the type and on the device of x, {x.dtype} on {x.device}, and is "
                f"{residual.dtype} on {residual.device}"
            )
    return bias, residual


def _rows(x: Tensor, topology: Topology) -> tuple[int, int]:
    """How many rows along vertices and hyperedges there are beside each other."""
    if isinstance(topology, Incidence) or x.dim() == 2:
        return topology.n_vertices, topology.n_hyperedges
    return topology.largest_vertices, topology.largest_hyperedges


def _conventions(normalization: str, weight_use: str) -> tuple[int, int]:
    return (
        choice("normalization", normalization, NORMALIZATIONS),
        choice("weight_use", weight_use, WEIGHT_USES),
    )


def _is_autocasting(x: Tensor) -> bool:
    kind = x.device.type
    return kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)


def _autocast(x: Tensor) -> Tensor:
    if x.dtype == torch.float32 and _is_autocasting(x):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def _check_topology(topology: Topology) -> None:
    if not isinstance(topology, (Incidence, Batch)):
        raise TypeError(
            f"topology must be an Incidence or a Batch, and is {type(topology).__name__}; of an index "
            "Incidence.from_hyperedge_index makes one"
        )


def _check_tensor(of: Tensor, what: str) -> None:
    if not isinstance(of, Tensor):
        raise TypeError(
            f"{what} must be a tensor, or an array that has __dlpack__, and is {type(of).__name__}"
        )


def _check_rows(x: Tensor, what: str) -> None:
    _check_tensor(x, what)
    if x.dim() < 2:
        raise Error(f"{what} must have the shape [..., rows, features], and has {tuple(x.shape)}")
    _calls.check_element(x)


def _check_shape(tensor: Tensor, shape: tuple[int, ...], what: str) -> None:
    if tuple(tensor.shape) != shape:
        raise Error(f"{what} must have the shape {shape}, and has {tuple(tensor.shape)}")


def _lined_up(weight: Tensor, x: Tensor, topology: Topology, each: int, what: str) -> Tensor:
    """Weights that are shared, or one behind the other in the order of instances."""
    if weight.dim() == 0:
        raise Error(f"{what} must have at least one dimension")
    if isinstance(topology, Batch):
        return _lined_up_for_table(weight, topology, each, what)
    if weight.dim() == 1:
        if weight.shape[0] != each:
            raise Error(f"{what} must have {each} values, and has {weight.shape[0]}")
        return weight.contiguous()
    lead = x.shape[:-2]
    if weight.shape[-1] != each or weight.dim() != len(lead) + 1:
        raise Error(
            f"{what} must have the shape [{each}], or {(*lead, each)} for each instance's own, and has "
            f"{tuple(weight.shape)}"
        )
    return weight.expand(*lead, each).contiguous()


def _lined_up_for_table(weight: Tensor, batch: Batch, total: int, what: str) -> Tensor:
    """Those of all instances of a Batch, or shared ones, which are as many as the largest reads."""
    is_of_vertices = what == "vertex_scale"
    largest = batch.largest_vertices if is_of_vertices else batch.largest_hyperedges
    shape = tuple(weight.shape)
    own = (batch.n_instances, largest)
    if shape in ((total,), (largest,)) or (shape == own and own[0] * own[1] == total):
        return weight.reshape(-1)
    raise Error(
        f"{what} must have the shape [{total}], those of all instances of the Batch, or [{largest}], the "
        f"same for each, and has {shape}"
    )


def _widened(values: Tensor, x: Tensor, what: str) -> Tensor:
    dtype = _calls.accumulation(x.dtype)
    if values.device != x.device:
        raise Error(f"{what} must be on the device of the features, {x.device}, and is on {values.device}")
    if values.dtype == dtype:
        return values
    if values.dtype in (torch.float16, torch.bfloat16) or (values.dtype == torch.float32):
        return values.to(dtype)
    raise Error(f"{what} must be {dtype} with features of {x.dtype}, and is {values.dtype}")
