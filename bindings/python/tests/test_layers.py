"""`hyperscatter.layer`, and the layers that call it.

PyTorch sees no device here. So some tests take the operator of one pass on the CPU, where it multiplies as
PyTorch does: its derivatives, its fake kernels and what calls it are the same there. `emulated.py` runs the
kernels.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import hyperscatter as hs
import hyperscatter.pyg
from hyperscatter import _layers
from reference import NORMALIZATIONS, USES

TOPOLOGY = hs.Incidence([[0, 1, 2], [1, 2], [0, 2], [2]], 4)  # vertex 3 is in no hyperedge
BATCH = hs.Batch([TOPOLOGY, hs.Incidence.pairs(3)], [0, 1, 0])


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Takes the operator of one pass on the CPU, too; a list of its calls."""
    calls: list[str] = []
    forward, backward = _layers.layer, _layers.layer_backward

    def counted(name: str, function: Any) -> Any:
        return lambda *arguments: (calls.append(name), function(*arguments))[1]

    monkeypatch.setattr(_layers, "is_one_pass", lambda *_: True)
    monkeypatch.setattr(_layers, "layer", counted("forward", forward))
    monkeypatch.setattr(_layers, "layer_backward", counted("backward", backward))
    torch._dynamo.reset()
    yield calls
    torch._dynamo.reset()


def leaf(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64).add(0.5).requires_grad_()


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_a_layer_is_a_product_and_a_convolution(activation: Any) -> None:
    x, theta, w, b = torch.randn(2, 3, 4, 5), torch.randn(7, 5), torch.rand(2, 3, 4), torch.randn(7)
    r = torch.randn(2, 3, 4, 7)
    got = hs.layer(x, theta, TOPOLOGY, w, bias=b, activation=activation, residual=r)
    h = nn.functional.linear(x, theta)
    assert torch.equal(got, hs.conv(h, TOPOLOGY, w, bias=b, activation=activation, residual=r))


def test_in_one_pass_it_is_the_same(one_pass: list[str]) -> None:
    theta, b = torch.randn(7, 5), torch.randn(7)
    vertex_major = torch.randn(4, 6, 5).transpose(0, 1)
    for topology, x, m in (
        (TOPOLOGY, vertex_major, 4),
        (BATCH, torch.randn(BATCH.n_vertices, 5), BATCH.n_hyperedges),
        (BATCH, torch.randn(3, 4, 5), BATCH.n_hyperedges),
    ):
        w = torch.rand(m)
        got = hs.layer(x, theta, topology, w, bias=b, activation="silu", normalization="symmetric")
        h = nn.functional.linear(x, theta)
        wanted = hs.conv(h, topology, w, bias=b, activation="silu", normalization="symmetric")
        assert torch.allclose(got, wanted, atol=1e-6)
    assert one_pass == ["forward"] * 3


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_derivatives(one_pass: list[str], use: Any, normalization: Any, own: bool) -> None:
    def layer(x: Tensor, theta: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        conventions: Any = {"weight_use": use, "normalization": normalization}
        return hs.layer(x, theta, TOPOLOGY, w, bias=b, activation="gelu", residual=r, **conventions)

    inputs = leaf(2, 4, 3), leaf(2, 3), leaf(2, 4) if own else leaf(4), leaf(2), leaf(2, 4, 2)
    assert gradcheck(layer, inputs)
    assert gradgradcheck(layer, inputs)
    assert {"forward", "backward"} == set(one_pass)


def test_derivatives_of_a_padded_batch_are_zero_in_its_padding(one_pass: list[str]) -> None:
    x, theta, r = leaf(3, 4, 3), leaf(2, 3), leaf(3, 4, 2)
    w = leaf(BATCH.n_hyperedges)

    def layer(x: Tensor, theta: Tensor, w: Tensor, r: Tensor) -> Tensor:
        return hs.layer(x, theta, BATCH, w, activation="silu", residual=r)

    assert gradcheck(layer, (x, theta, w, r))
    y = layer(x, theta, w, r)
    gradients = torch.autograd.grad(y.sum(), (x, r))
    assert y[1, 3].abs().sum() == 0 and all(g[1, 3].abs().sum() == 0 for g in gradients)
    assert gradients[0][1, :3].abs().min() > 0 and one_pass


def test_only_what_is_wanted_is_computed(one_pass: list[str]) -> None:
    x, theta, w = torch.randn(2, 4, 3), torch.randn(2, 3), torch.rand(4)
    r = torch.randn(2, 4, 2).requires_grad_()
    y = hs.layer(x, theta, TOPOLOGY, w, residual=r)
    assert torch.equal(torch.autograd.grad(y.sum(), r)[0], torch.ones_like(r))
    assert "backward" not in one_pass
    for i in range(3):
        operands = [x, theta, w]
        operands[i] = operands[i].clone().requires_grad_()
        hs.layer(operands[0], operands[1], TOPOLOGY, operands[2]).sum().backward()
        assert operands[i].grad is not None and operands[i].grad.shape == operands[i].shape


def test_under_autocast_types_are_those_of_a_product(one_pass: list[str]) -> None:
    layer = hs.HypergraphConv(8, 8, hs.Incidence.pairs(4), "softplus", activation="relu", residual=True)
    x = torch.randn(3, 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16 and torch.allclose(y.float(), layer(x), atol=0.1)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
    assert one_pass == ["forward"] * 2 + ["backward"]
    # In bfloat16 itself Θ may be either.
    of_half = x.bfloat16()
    for theta in (layer.lin.weight, layer.lin.weight.bfloat16()):
        assert hs.layer(of_half, theta, hs.Incidence.pairs(4)).dtype == torch.bfloat16
    # Autocast casts from one half type to the other, too.
    with torch.autocast("cpu", torch.bfloat16):
        for theta in (layer.lin.weight.half(), layer.lin.weight):
            y = hs.layer(x.half(), theta, hs.Incidence.pairs(4), residual=x)
            assert y.dtype == torch.bfloat16
    # A backward within autocast of a forward outside of it.
    x.requires_grad_()
    y = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


def test_one_graph_holds_a_layer(one_pass: list[str]) -> None:
    layer = hs.HypergraphConv(8, 8, hs.Incidence.pairs(4), "softplus", activation="relu", residual=True)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (3, 8, 11):
        x = torch.randn(2, tokens, 4, 8, requires_grad=True)
        wanted, got = layer(x), compiled(x)
        assert torch.allclose(got, wanted, atol=1e-6)
        inputs = [x, *layer.parameters()]
        for a, b in zip(
            torch.autograd.grad(got.square().sum(), inputs),
            torch.autograd.grad(wanted.square().sum(), inputs),
            strict=True,
        ):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert "backward" in one_pass


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_what_is_hung_on_the_product_runs(one_pass: list[str]) -> None:
    x = torch.randn(3, 4, 5)
    for of in (hs.HypergraphConv(5, 7, TOPOLOGY), hs.pyg.HypergraphConv(5, 7)):
        index = torch.tensor([[0, 1, 2, 1, 2], [0, 0, 0, 1, 1]])
        arguments = (x,) if of.__class__ is hs.HypergraphConv else (x[0], index)
        plain = of(*arguments)
        assert one_pass.pop() == "forward"
        seen: list[Any] = []
        handle = of.lin.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        assert torch.allclose(of(*arguments), plain, atol=1e-6) and len(seen) == 1 and not one_pass
        handle.remove()
        of(*arguments)
        assert one_pass.pop() == "forward"
        nn.utils.parametrize.register_parametrization(of.lin, "weight", Doubled())
        assert torch.allclose(of(*arguments), 2 * plain, atol=1e-5) and not one_pass
        of.lin = nn.Sequential(nn.Linear(5, 7), nn.ReLU())  # pyright: ignore[reportAttributeAccessIssue]
        assert of(*arguments).shape == plain.shape and not one_pass


class Wrapped(Tensor):
    """A weight that multiplies in its own way, as quantized ones do."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.linear:
            return super().__torch_function__(func, types, args, kwargs)
        return func(*(of if of is None else of.as_subclass(Tensor) for of in args), **(kwargs or {}))


def test_a_product_of_another_kind_is_called(one_pass: list[str]) -> None:
    x, layer = torch.randn(3, 4, 5), hs.HypergraphConv(5, 7, TOPOLOGY, bias=False)
    plain = layer(x)
    assert one_pass.pop() == "forward"
    # As accelerate does.
    product = layer.lin.forward
    layer.lin.forward = lambda input: 3 * product(input)
    assert torch.allclose(layer(x), 3 * plain, atol=1e-5) and not one_pass
    del layer.lin.forward
    seen: list[Any] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    assert torch.allclose(layer(x), plain, atol=1e-6) and seen[0] is layer.lin and not one_pass
    handle.remove()
    weight = layer.lin.weight.detach().as_subclass(Wrapped)
    layer.lin.weight = nn.Parameter(weight, requires_grad=False)
    assert type(layer.lin.weight) is Wrapped
    assert torch.allclose(layer(x), plain, atol=1e-6) and not one_pass
    layer.lin.weight = nn.Parameter(weight.as_subclass(Tensor))
    layer(x)
    assert one_pass == ["forward"]


def test_the_drop_in_calls_it_with_its_convention(one_pass: list[str]) -> None:
    conv = hs.pyg.HypergraphConv(5, 7)
    x, w = torch.randn(4, 5), torch.rand(2)
    index = torch.tensor([[0, 1, 2, 1, 2], [0, 0, 0, 1, 1]])
    y = conv(x, index, w)
    assert one_pass == ["forward"]
    topology = hs.Incidence.from_hyperedge_index(index, 4, 2)
    wanted = hs.conv(conv.lin(x), topology, w, weight_use="degree_only", bias=conv.bias)
    assert torch.allclose(y, wanted, atol=1e-6)


@pytest.mark.parametrize("of", ["rule", "compiled", "legacy", "precision", "fakes"])
def test_when_it_is_one_pass(of: str) -> None:
    """In processes of their own: tensors that say that they are on a device, and PyTorch's ways of allowing
    TF32, which it refuses to mix, change what comes after them."""
    program = Path(__file__).with_name("one_pass.py")
    ended = subprocess.run([sys.executable, str(program), of], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0 and ended.stdout == f"{of}: done\n", ended.stdout + ended.stderr


def test_which_hypergraphs_have_layers() -> None:
    assert hs.Incidence.subsets(16, 3).has_layers and hs.Incidence([], 1).has_layers
    assert not hs.Incidence.pairs(17).has_layers
    assert not hs.Incidence.subsets(16, 5).has_layers  # a vertex has too many incidences
    assert BATCH.has_layers and not hs.Batch([TOPOLOGY, hs.Incidence.pairs(17)]).has_layers
    restored = pickle.loads(pickle.dumps((BATCH, hs.Incidence.pairs(17))))
    assert [of.has_layers for of in restored] == [True, False]


def test_a_module_that_was_pickled_before_there_was_a_precision_runs() -> None:
    layer = hs.HypergraphConv(5, 7, TOPOLOGY)
    del layer.__dict__["precision"]
    assert layer(torch.randn(3, 4, 5)).shape == (3, 4, 7) and "precision" not in repr(layer)


def test_an_explanation_says_how_a_layer_is_computed() -> None:
    lines = hs.explain(TOPOLOGY, 16, inputs=8, precision="tf32").splitlines()
    assert lines[-1] == "hyperscatter.layer: torch.nn.functional.linear and conv"


def test_errors() -> None:
    x, theta = torch.randn(2, 4, 5), torch.randn(7, 5)
    with pytest.raises(hs.Error, match=r"theta must have the shape \[F_out, 5\]"):
        hs.layer(x, theta.T, TOPOLOGY)
    with pytest.raises(hs.Error, match=r"theta must be torch\.float32 or torch\.float32"):
        hs.layer(x, theta.double(), TOPOLOGY)
    with pytest.raises(hs.Error, match=r"bias must have the shape \(7,\)"):
        hs.layer(x, theta, TOPOLOGY, bias=torch.randn(5))
    with pytest.raises(ValueError, match="precision"):
        hs.layer(x, theta, TOPOLOGY, precision="bf16")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="precision"):
        hs.HypergraphConv(5, 7, precision="highest")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="theta must be a tensor"):
        hs.layer(x, [[1.0]], TOPOLOGY)  # pyright: ignore[reportArgumentType]


def test_nothing_is_nothing(one_pass: list[str]) -> None:
    w = torch.rand(4, requires_grad=True)
    for x, theta in (
        (torch.empty(0, 4, 5), torch.randn(7, 5)),
        (torch.randn(2, 4, 0), torch.empty(7, 0)),
        (torch.randn(2, 4, 5), torch.empty(0, 5)),
    ):
        x.requires_grad_()
        theta.requires_grad_()
        y = hs.layer(x, theta, TOPOLOGY, w)
        assert y.shape == (*x.shape[:-1], theta.shape[0])
        gradients = torch.autograd.grad(y.sum(), (x, theta, w))
        assert [g.shape for g in gradients] == [x.shape, theta.shape, w.shape]
        assert gradients[2].abs().sum() == 0
    assert one_pass
