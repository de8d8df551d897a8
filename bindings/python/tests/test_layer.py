"""`hyperscatter.HypergraphConv`."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import hyperscatter as hs
from reference import NORMALIZATIONS, USES, operator

TOPOLOGY = hs.Incidence([[0, 1, 2], [1, 2], [0, 2]], 4)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_it_is_the_formula(use: str, normalization: str) -> None:
    layer = hs.HypergraphConv(
        5, 7, TOPOLOGY, "learned", weight_use=use, normalization=normalization, dtype=torch.float64
    )
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    m = operator(TOPOLOGY, layer.weight, use, normalization)
    assert torch.allclose(layer(x), m @ (x @ layer.lin.weight.T) + layer.bias)


def test_weights_begin_as_one() -> None:
    x = torch.randn(3, 4, 5)
    layers = [hs.HypergraphConv(5, 7, TOPOLOGY, kind) for kind in (None, "learned", "softplus")]
    for layer in layers[1:]:
        layer.lin.load_state_dict(layers[0].lin.state_dict())
        assert torch.allclose(layer.hyperedge_weight(), torch.ones(3))
        assert torch.allclose(layer(x), layers[0](x), atol=1e-6)
    assert math.isclose(layers[2].weight[0].item(), math.log(math.e - 1), rel_tol=1e-6)


def test_loops_and_isolated_vertices() -> None:
    x = torch.randn(3, 4, 5)
    zero = hs.HypergraphConv(5, 5, TOPOLOGY, "learned", bias=False)
    assert torch.equal(zero(x)[:, 3], torch.zeros(3, 5))
    keep = hs.HypergraphConv(5, 5, TOPOLOGY, "learned", bias=False, isolated="keep")
    keep.lin.load_state_dict(zero.lin.state_dict())
    with torch.no_grad():
        keep.weight.fill_(3)
    assert keep.weight.shape == (3,)
    assert torch.allclose(keep(x)[:, 3], keep.lin(x)[:, 3])
    assert torch.allclose(keep(x)[:, :3], zero(x)[:, :3], atol=1e-6)
    assert hs.HypergraphConv(5, 5, TOPOLOGY, "learned", self_loops="all").weight.shape == (7,)
    assert hs.HypergraphConv(5, 5, TOPOLOGY, "learned", self_loops="isolated").weight.shape == (4,)
    # Where each call brings the topology, that is looped once.
    brought = hs.HypergraphConv(5, 5, isolated="keep", bias=False)
    brought.lin.load_state_dict(zero.lin.state_dict())
    assert torch.allclose(brought(x, TOPOLOGY, torch.full((3,), 3.0)), keep(x), atol=1e-6)
    plans = hs.cache_info().plans_built
    for _ in range(3):
        brought(x, TOPOLOGY)
    assert hs.cache_info().plans_built == plans


def test_a_layer_takes_tables_and_windows() -> None:
    layer = hs.HypergraphConv(5, 5, activation="relu")
    batch = hs.Batch([TOPOLOGY, hs.Incidence.pairs(3)], [1, 0])
    x = torch.randn(7, 5)
    parts = [layer(x[:3], hs.Incidence.pairs(3)), layer(x[3:], TOPOLOGY)]
    assert torch.allclose(layer(x, batch), torch.cat(parts), atol=1e-6)
    w = torch.rand(5)
    windows = hs.Windows([0, 2])
    got = layer(torch.stack([x[:4], x[3:]]), TOPOLOGY, w, windows)
    assert torch.allclose(got[1], layer(x[3:], TOPOLOGY, w[2:]), atol=1e-6)


def test_a_state_knows_its_topology_and_convention() -> None:
    layer = hs.HypergraphConv(5, 5, TOPOLOGY, "learned")
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    hs.HypergraphConv(5, 5, TOPOLOGY, "learned").load_state_dict(state)
    other = hs.Incidence([[0, 1, 3], [1, 2], [0, 2]], 4)
    refusing = hs.HypergraphConv(5, 5, other, "learned")
    before = {name: of.clone() for name, of in refusing.named_parameters()}
    with pytest.raises(hs.Error, match="weights belong to other hyperedges"):
        refusing.load_state_dict(state)
    assert all(torch.equal(of, before[name]) for name, of in refusing.named_parameters())
    for named in ({"weight_use": "degree_only"}, {"normalization": "symmetric"}):
        with pytest.raises(hs.Error, match=next(iter(named))):
            hs.HypergraphConv(5, 5, TOPOLOGY, "learned", **named).load_state_dict(state)
    with pytest.raises(hs.Error, match="isolated"):
        hs.HypergraphConv(5, 5, TOPOLOGY, "learned", isolated="keep").load_state_dict(state)
    with pytest.raises(hs.Error, match="softplus"):
        hs.HypergraphConv(5, 5, TOPOLOGY, "softplus").load_state_dict(state)
    assert all(
        isinstance(of, torch.Tensor) for of in state.values()
    )  # others than torch's save tensors alone
    layers = torch.nn.Sequential(hs.HypergraphConv(5, 5), hs.HypergraphConv(5, 5, TOPOLOGY, "learned"))
    state = {f"1.{name}": of for name, of in state.items()}
    layers[1].weight_use = "degree_only"
    with pytest.raises(hs.Error, match="the state of 1 was saved"):
        layers.load_state_dict(state, strict=False)
    state = hs.HypergraphConv(5, 5, TOPOLOGY).state_dict()
    with pytest.warns(UserWarning, match="saved for the topology"):
        hs.HypergraphConv(5, 5, other).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": "learned"}, "needs a topology"),
        ({"weight": "fixed"}, "fixed"),
        ({"residual": True, "out_channels": 6}, "residual"),
        ({"activation": "tanh"}, "tanh"),
        ({"isolated": "drop"}, "drop"),
        ({"self_loops": "some"}, "some"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hs.HypergraphConv(**{"in_channels": 5, "out_channels": 5, **arguments})


def test_calls_that_do_not_fit_are_refused() -> None:
    x = torch.randn(3, 4, 5)
    with pytest.raises(ValueError, match="needs one in each call"):
        hs.HypergraphConv(5, 5)(x)
    with pytest.raises(ValueError, match="of its own"):
        hs.HypergraphConv(5, 5, TOPOLOGY)(x, TOPOLOGY)
    with pytest.raises(ValueError, match="weights of its own"):
        hs.HypergraphConv(5, 5, TOPOLOGY, "learned")(x, weight=torch.ones(3))
    with pytest.raises(ValueError, match="before the Batch is made"):
        hs.HypergraphConv(5, 5, self_loops="all")(x[0], hs.Batch([TOPOLOGY]))


def test_copies_of_a_layer_work() -> None:
    layer = hs.HypergraphConv(5, 5, TOPOLOGY, "softplus", activation="gelu", residual=True)
    x = torch.randn(3, 4, 5)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert "softplus" in repr(layer) and "Incidence(4 vertices" in repr(layer)
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    twice = copy.deepcopy(layer).double()
    assert twice(x.double()).dtype == torch.float64


def test_a_state_may_be_cast_and_without_data() -> None:
    layer = hs.HypergraphConv(5, 5, TOPOLOGY, "learned")
    state = layer.state_dict()
    layer.load_state_dict({name: of.half() for name, of in state.items()})
    layer.load_state_dict({**state, "_extra_state": layer._conventions()})
    layer.load_state_dict({name: of.to("meta") for name, of in state.items()}, assign=True)
    mode = FakeTensorMode()
    layer.load_state_dict({name: mode.from_tensor(of) for name, of in state.items()}, assign=True)
    with pytest.raises(hs.Error, match="extra state of the layer"):
        layer.load_state_dict({**state, "_extra_state": torch.ones(3)})


def test_a_topology_is_that_of_the_weights() -> None:
    layer = hs.HypergraphConv(5, 5, TOPOLOGY, "learned")
    with pytest.raises(AttributeError):
        layer.topology = hs.Incidence.pairs(4)  # pyright: ignore[reportAttributeAccessIssue]
    assert layer.topology == TOPOLOGY


def test_the_default_type_is_that_of_weights() -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        layer = hs.HypergraphConv(5, 5, TOPOLOGY, "learned")
    finally:
        torch.set_default_dtype(before)
    assert {of.dtype for of in layer.parameters()} == {torch.float64}
    assert torch.autograd.gradcheck(layer, torch.randn(2, 4, 5, dtype=torch.float64).requires_grad_())
