"""Derivatives, and what trains with them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import hyperscatter as hs
from reference import NORMALIZATIONS, USES, drawn

TOPOLOGY = hs.Incidence([[0, 1, 2], [1, 2], [0, 2], [2]], 4)  # vertex 3 is in no hyperedge


def leaf(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64).add(0.5).requires_grad_()


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_steps(reduce: Any, own: bool) -> None:
    r, s = leaf(2, 4) if own else leaf(4), leaf(2, 4) if own else leaf(4)
    for step in (hs.v2e, hs.e2v):

        def scaled(x: Tensor, r: Tensor, s: Tensor, step: Any = step) -> Tensor:
            return step(x, TOPOLOGY, reduce=reduce, vertex_scale=r, hyperedge_scale=s)

        x = leaf(2, 4, 3)
        for check in (gradcheck, gradgradcheck):
            assert check(scaled, (x, r, s))
            assert check(lambda x, step=step: step(x, TOPOLOGY, reduce=reduce), (x,))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_convolutions(use: Any, normalization: Any, own: bool) -> None:
    def conv(x: Tensor, w: Tensor) -> Tensor:
        return hs.conv(x, TOPOLOGY, w, weight_use=use, normalization=normalization)

    inputs = leaf(2, 4, 3), leaf(2, 4) if own else leaf(4)
    assert gradcheck(conv, inputs)
    assert gradgradcheck(conv, inputs)


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("readout", [None, "mean"])
def test_epilogues(activation: Any, readout: Any) -> None:
    def conv(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        return hs.conv(x, TOPOLOGY, w, bias=b, activation=activation, residual=r, readout=readout)

    inputs = leaf(2, 4, 3), leaf(4), leaf(3), leaf(2, 4, 3)
    assert gradcheck(conv, inputs)
    assert gradgradcheck(conv, inputs)


def test_a_table() -> None:
    batch = hs.Batch([TOPOLOGY, hs.Incidence.pairs(3)], [1, 0, 1])
    inputs = leaf(batch.n_vertices, 3), leaf(batch.n_hyperedges)
    for normalization in NORMALIZATIONS:

        def conv(x: Tensor, w: Tensor, normalization: Any = normalization) -> Tensor:
            return hs.conv(x, batch, w, normalization=normalization)

        assert gradcheck(conv, inputs)
        assert gradgradcheck(conv, inputs)
    assert gradgradcheck(lambda x: hs.v2e(x, batch, reduce="mean"), (inputs[0],))
    # Padded, with the same weights for each.
    padded = leaf(3, 4, 3), leaf(4)
    assert gradcheck(lambda x, w: hs.conv(x, batch, w), padded)
    assert gradgradcheck(lambda x, w: hs.conv(x, batch, w), padded)
    assert gradcheck(lambda x, w: hs.conv(x, batch, w, readout="mean", activation="silu"), inputs)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("readout", [None, "mean"])
def test_a_padded_table(activation: Any, readout: Any) -> None:
    batch = hs.Batch([TOPOLOGY, hs.Incidence.pairs(3), TOPOLOGY])
    real = torch.zeros(3, 4, 1, dtype=torch.bool)
    for of, n in zip(real, (4, 3, 4), strict=True):
        of[:n] = True

    def conv(x: Tensor, *rest: Tensor) -> Tensor:
        b, r, *w = rest
        return hs.conv(x, batch, *w, bias=b, activation=activation, residual=r, readout=readout)

    for weights in ((), (leaf(4),)):
        inputs = leaf(3, 4, 2), leaf(2), leaf(3, 4, 2), *weights
        assert gradcheck(conv, inputs)
        assert gradgradcheck(conv, inputs)
    x, b, r = leaf(3, 4, 2), leaf(2), leaf(3, 4, 2)
    of_x, of_r = torch.autograd.grad(conv(x, b, r).sum(), (x, r))
    assert not of_x.masked_select(~real).any()
    assert torch.equal(of_r != 0, real.expand_as(of_r))


def test_matrices() -> None:
    for normalization in NORMALIZATIONS:
        for w in (leaf(4), leaf(2, 4)):
            assert gradcheck(lambda w, norm=normalization: hs.operator(TOPOLOGY, w, normalization=norm), (w,))
            assert gradgradcheck(
                lambda w, norm=normalization: hs.operator(TOPOLOGY, w, normalization=norm), (w,)
            )
    batch = hs.Batch([TOPOLOGY, hs.Incidence.pairs(3)])
    assert gradgradcheck(lambda x: hs.gram(x, batch), (leaf(2, 4, 3),))
    with pytest.raises(NotImplementedError, match="operator of a Batch"):
        gradgradcheck(lambda w: hs.operator(batch, w), (leaf(7),))
    assert gradcheck(hs.gram, (leaf(2, 4, 3),))
    assert gradgradcheck(hs.gram, (leaf(2, 4, 3),))


def test_only_what_is_wanted_is_computed() -> None:
    x, w = torch.randn(3, 4, 8), torch.rand(4)
    for parts in ((True, False), (False, True)):
        inputs = [t.clone().requires_grad_(want) for t, want in zip((x, w), parts, strict=True)]
        y = hs.conv(inputs[0], TOPOLOGY, inputs[1])
        y.sum().backward()
        assert [t.grad is not None for t in inputs] == list(parts)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("readout", [None, "mean"])
def test_a_gradient_does_not_depend_on_what_else_is_wanted(activation: Any, readout: Any) -> None:
    x, w, b, r = torch.randn(3, 4, 8), torch.rand(4), torch.randn(8), torch.randn(3, 4, 8)

    def gradients(*wanted: bool) -> list[Tensor]:
        leaves = [t.clone().requires_grad_(want) for t, want in zip((x, w, b, r), wanted, strict=True)]
        y = hs.conv(
            leaves[0],
            TOPOLOGY,
            leaves[1],
            bias=leaves[2],
            residual=leaves[3],
            activation=activation,
            readout=readout,
        )
        return list(torch.autograd.grad(y.square().sum(), [t for t in leaves if t.requires_grad]))

    whole = gradients(True, True, True, True)
    for i in range(4):
        (alone,) = gradients(*(j == i for j in range(4)))
        assert torch.equal(alone, whole[i])


def test_what_no_gradient_needs_may_be_written() -> None:
    x, w = torch.randn(3, 4, 8, requires_grad=True), torch.rand(4)
    h = x * 1
    y = hs.conv(h, TOPOLOGY, w)
    h.zero_()
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    fresh = x.detach().requires_grad_()
    assert torch.equal(gradient, torch.autograd.grad(hs.conv(fresh, TOPOLOGY, w).square().sum(), fresh)[0])
    z = hs.v2e(x, TOPOLOGY, reduce="mean")
    (first,) = torch.autograd.grad(z.square().sum(), x)
    assert first.grad_fn is None


def test_a_vertex_of_degree_zero_has_finite_gradients() -> None:
    x, w = torch.randn(2, 4, 8, requires_grad=True), torch.zeros(4, requires_grad=True)
    y = hs.conv(x, TOPOLOGY, w)
    assert torch.equal(y, torch.zeros_like(y))
    for of in torch.autograd.grad(y.sum(), [x, w]):
        assert of.isfinite().all()


def test_opcheck() -> None:
    ops = torch.ops.hyperscatter
    x, w, b = (torch.randn(*s, requires_grad=True) for s in ((2, 4, 8), (4,), (8,)))
    own = torch.rand(2, 4, requires_grad=True)
    packed, checks = TOPOLOGY.packed, []
    for weight in (w.detach().abs().requires_grad_(), own):
        checks += [
            (ops.conv, (x, weight, packed, None, b, x.detach(), 2, 0, 0, 4, 0, False)),
            (ops.conv, (x, weight, packed, None, None, None, 0, 1, 0, 4, -1, False)),
            (
                ops.conv_backward,
                (x, x, weight, packed, None, b, 2, 0, 0, 4, 0, False, [True, True, True, False]),
            ),
            (ops.operator, (weight, packed, None, weight.numel() // 4, 4, 0, 0)),
        ]
    checks += [
        (ops.v2e, (x, packed, None, own, False, 4)),
        (ops.e2v, (x, packed, w, None, True, 4)),
        (ops.v2e_backward, (x, x, packed, None, own, False, [True, False, True])),
        (ops.gram, (x, packed)),
        (ops.gram_backward, (torch.randn(2, 4, 4, requires_grad=True), x, packed)),
        (
            ops.conv,
            (
                x.detach().transpose(0, 1).contiguous().transpose(0, 1),
                w,
                packed,
                None,
                None,
                None,
                0,
                0,
                0,
                4,
                0,
                False,
            ),
        ),
    ]
    for op, arguments in checks:
        torch.library.opcheck(op.default, arguments)


def test_forward_mode_says_that_it_is_not_there() -> None:
    x = torch.randn(2, 4, 8)
    for function in (
        lambda x: hs.conv(x, TOPOLOGY),
        lambda x: hs.v2e(x, TOPOLOGY),
        hs.gram,
        lambda x: hs.operator(TOPOLOGY, x[0, :, 0].abs()),
    ):
        with pytest.raises(NotImplementedError, match="forward mode"):
            torch.func.jvp(function, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        assert hs.conv(x, TOPOLOGY).shape == x.shape  # nothing has a tangent


def test_gradients_of_torch_func_say_that_they_are_not_there() -> None:
    with pytest.raises(NotImplementedError, match=r"torch\.func\.grad.* torch\.autograd\.grad"):
        torch.func.grad(lambda x: hs.conv(x, TOPOLOGY).sum())(torch.randn(4, 8))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_is_a_loop() -> None:
    x, w = torch.randn(5, 4, 8), torch.rand(5, 4)
    got = torch.func.vmap(lambda x, w: hs.conv(x, TOPOLOGY, w))(x, w)
    assert torch.equal(got, hs.conv(x, TOPOLOGY, w))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, 8, requires_grad=True)
    w, b = torch.rand(4, requires_grad=True), torch.randn(8, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y = hs.conv(x, TOPOLOGY, w, bias=b, activation="gelu", residual=x)
        assert hs.v2e(x, TOPOLOGY).dtype == dtype and hs.gram(x).dtype == torch.float32
    assert y.dtype == dtype
    wanted = hs.conv(x.to(dtype), TOPOLOGY, w, bias=b, activation="gelu", residual=x.to(dtype))
    assert torch.equal(y, wanted)
    y.float().sum().backward()
    assert (x.grad.dtype, w.grad.dtype, b.grad.dtype) == (torch.float32,) * 3  # pyright: ignore
    double = x.detach().double()
    with torch.autocast("cpu", dtype=dtype):
        assert hs.conv(double, TOPOLOGY).dtype == torch.float64


def test_infinities_reach_the_scaler() -> None:
    layer = hs.HypergraphConv(8, 8, TOPOLOGY, "learned")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [p.detach().clone() for p in layer.parameters()]
    with torch.autocast("cpu", dtype=torch.float16):
        loss = layer(torch.randn(16, 4, 8)).float().square().sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**40
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_checkpoints_and_accumulation() -> None:
    layer = hs.HypergraphConv(8, 8, TOPOLOGY, "softplus", activation="silu", residual=True)
    x = torch.randn(6, 4, 8)

    def gradients(run: Any) -> list[Tensor]:
        layer.zero_grad()
        run()
        return [p.grad.clone() for p in layer.parameters() if p.grad is not None]

    whole = gradients(lambda: layer(x).square().sum().backward())
    again = gradients(
        lambda: checkpoint(layer, x, use_reentrant=False).square().sum().backward()  # pyright: ignore
    )
    assert len(whole) == 3 and all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    parts = gradients(lambda: [layer(part).square().sum().backward() for part in x.split(2)])
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(whole, parts, strict=True))


def test_threads_at_the_same_time() -> None:
    topology = drawn(12, 9, 40)
    xs = [torch.randn(20, 12, 16, requires_grad=True) for _ in range(4)]
    w = torch.rand(9, requires_grad=True)

    def step(x: Tensor) -> tuple[Tensor, ...]:
        y = hs.conv(x, topology, w)
        return y.detach(), *torch.autograd.grad(y.square().sum(), [x, w])

    wanted = [step(x) for x in xs]
    failures: list[Any] = []

    def work(i: int) -> None:
        try:
            for _ in range(20):
                if not all(torch.equal(a, b) for a, b in zip(step(xs[i]), wanted[i], strict=True)):
                    failures.append(i)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
