"""The drop-in: PyTorch Geometric's interface and numbers, and its batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import hyperscatter as hs
from hyperscatter.pyg import HypergraphConv, from_pyg

torch_geometric = pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data  # noqa: E402
from torch_geometric.nn import HypergraphConv as Original  # noqa: E402


def index_of(n: int, m: int, nnz: int) -> Tensor:
    return torch.stack([torch.randint(0, n, (nnz,)), torch.randint(0, m, (nnz,))])


@pytest.mark.parametrize("seed", range(20))
def test_numbers_and_gradients_are_the_original_s(seed: int) -> None:
    torch.manual_seed(seed)
    n, m, nnz = (int(torch.randint(1, k, (1,))) for k in (12, 9, 40))
    index = index_of(n, m, nnz)
    x, w = torch.randn(n, 5, dtype=torch.float64), torch.rand(m, dtype=torch.float64) + 0.1
    results = []
    for kind in (Original, HypergraphConv):
        torch.manual_seed(seed)
        conv = kind(5, 7).double()
        leaves = [t.clone().requires_grad_() for t in (x, w)]
        y = conv(leaves[0], index, leaves[1], num_edges=m)
        g = torch.arange(y.numel(), dtype=torch.float64).reshape(y.shape).cos()
        results.append([y, *torch.autograd.grad(y, [*leaves, conv.lin.weight, conv.bias], g)])
    original, ours = results
    for a, b in zip(original, ours, strict=True):
        # NaN where the degree of a vertex is 0: its weights have no gradient, which is finite here.
        assert b.isfinite().all()
        known = a.isfinite()
        assert torch.allclose(a[known], b[known])


def test_a_state_of_the_original_loads_both_ways() -> None:
    a, b = Original(5, 7), HypergraphConv(5, 7)
    assert list(a.state_dict()) == list(b.state_dict()) or set(a.state_dict()) == set(b.state_dict())
    b.load_state_dict(a.state_dict())
    a.load_state_dict(b.state_dict())
    x, index = torch.randn(4, 5), index_of(4, 3, 9)
    assert torch.allclose(a(x, index), b(x, index), atol=1e-6)


# What PyTorch Geometric's own tests of the layer hold, in our words.


def test_shapes_and_printing() -> None:
    conv = HypergraphConv(16, 32)
    assert str(conv) == "HypergraphConv(16, 32)"
    x, index = torch.randn(4, 16), torch.tensor([[0, 0, 1, 1, 2, 3], [0, 1, 0, 1, 0, 1]])
    assert conv(x, index).shape == (4, 32)
    assert conv(x, index, hyperedge_weight=torch.rand(2)).shape == (4, 32)
    assert conv(x, index, num_edges=2).shape == (4, 32)


def test_more_or_fewer_hyperedges_than_vertices() -> None:
    conv = HypergraphConv(16, 32)
    fewer = torch.tensor([[0, 0, 1, 1, 2, 3, 3], [0, 1, 0, 1, 0, 1, 0]])
    assert conv(torch.randn(8, 16), fewer).shape == (8, 32)
    more = torch.tensor([[0, 1, 0, 1, 0, 1, 1], [0, 1, 2, 3, 4, 5, 6]])
    assert conv(torch.randn(2, 16), more, torch.rand(7)).shape == (2, 32)


def test_the_first_call_tells_the_number_of_inputs() -> None:
    conv = HypergraphConv(-1, 32)
    x, index = torch.randn(4, 16), index_of(4, 3, 9)
    assert conv(x, index).shape == (4, 32) and conv.lin.weight.shape == (32, 16)
    torch.manual_seed(1)
    lazy, original = HypergraphConv(-1, 3), Original(-1, 3)
    for of in (lazy, original):
        torch.manual_seed(2)
        of(x, index)
    assert torch.equal(lazy.lin.weight, original.lin.weight)
    lazy.reset_parameters()
    assert not torch.equal(lazy.lin.weight, original.lin.weight)


def test_no_incidences_and_no_bias() -> None:
    conv = HypergraphConv(4, 4, bias=False)
    nothing = torch.empty(2, 0, dtype=torch.int64)
    assert torch.equal(conv(torch.randn(3, 4), nothing), torch.zeros(3, 4))
    assert "bias" not in conv.state_dict()


def test_a_structure_is_built_once() -> None:
    conv, index, w = HypergraphConv(4, 4), index_of(6, 5, 20), torch.rand(5)
    for _ in range(3):
        conv(torch.randn(6, 4), index, w)
    assert conv.rebuilds == 1
    other = index.clone()
    conv(torch.randn(6, 4), other, w)
    conv(torch.randn(6, 4), index, w)
    assert conv.rebuilds == 2
    before = conv(torch.ones(6, 4), index, w)
    index[0] = (index[0] + 1) % 6
    after = conv(torch.ones(6, 4), index, w)
    assert conv.rebuilds == 3
    assert torch.equal(after, HypergraphConv.forward(conv, torch.ones(6, 4), index.clone(), w))
    del before
    with torch.inference_mode():
        fresh = index_of(6, 5, 20)
        a = conv(torch.ones(6, 4), fresh, w)
        fresh[0] = (fresh[0] + 1) % 6
        b = conv(torch.ones(6, 4), fresh, w)
        assert torch.equal(b, conv(torch.ones(6, 4), fresh.clone(), w)) and a.shape == b.shape


def test_one_index_in_two_uses_is_built_twice() -> None:
    layer, x = hs.pyg.HypergraphConv(3, 3), torch.randn(5, 3)
    index = torch.tensor([[0, 1, 2], [0, 0, 1]])
    for _ in range(3):
        layer(x, index)
        layer(x, index, torch.ones(4))
    assert layer.rebuilds == 2
    index[0, 0] = 3
    layer(x, index)
    assert layer.rebuilds == 3 and len(layer._structures) == 1
    with pytest.raises(hs.Error, match="in_channels"):
        layer(torch.randn(5, 5, 3), index)


def test_weights_of_other_types_and_lengths() -> None:
    index, x = torch.tensor([[0, 1, 2, 2], [0, 0, 1, 1]]), torch.randn(3, 4)
    a, b = Original(4, 4), HypergraphConv(4, 4)
    b.load_state_dict(a.state_dict())
    for w, m in (
        (torch.tensor([1, 2]), None),
        (torch.rand(2), 5),
        (torch.rand(5), 2),
        (torch.rand(2).double(), None),
    ):
        assert torch.allclose(a(x, index, w, num_edges=m).float(), b(x, index, w, num_edges=m), atol=1e-5)
    with torch.inference_mode():
        b(x, index)
    b(x, index).sum().backward()


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(NotImplementedError, match="attention"):
        HypergraphConv(4, 4, use_attention=True)
    with pytest.raises(ValueError, match="vertex"):
        HypergraphConv(4, 4, attention_mode="vertex")
    with pytest.raises(NotImplementedError, match="aggr"):
        HypergraphConv(4, 4, aggr="max")
    with pytest.raises(TypeError, match="headz"):
        HypergraphConv(4, 4, headz=3)
    with pytest.raises(hs.Error, match="hyperedge"):
        HypergraphConv(4, 4)(torch.randn(3, 4), torch.tensor([[0, 1], [0, 4]]), num_edges=2)


# Batches: `E` experts, a hypergraph over them for each token.


class Right(Data):
    """Shifts hyperedges by the number of hyperedges."""

    def __inc__(self, key: str, value: Any, *arguments: Any, **named: Any) -> Any:
        if key == "hyperedge_index":
            return torch.tensor([[self.num_nodes], [self.num_hyperedges]])
        return super().__inc__(key, value, *arguments, **named)


def tokens(kind: type[Data], topology: hs.Incidence, count: int) -> list[Data]:
    sizes = topology.edge_ptr.diff()
    edges = torch.repeat_interleave(torch.arange(topology.n_hyperedges), sizes)
    index = torch.stack([topology.edge_vertices, edges])
    return [
        kind(
            x=torch.randn(topology.n_vertices, 8),
            hyperedge_index=index,
            num_hyperedges=topology.n_hyperedges,
            num_nodes=topology.n_vertices,
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("experts", [2, 3, 4, 8])
@pytest.mark.parametrize("members", [2, 3])
def test_a_batch_is_the_loop_over_its_tokens_or_is_refused(experts: int, members: int) -> None:
    if members > experts:
        pytest.skip("no hyperedges")
    topology = hs.Incidence.subsets(experts, members)
    weights = torch.rand(6, topology.n_hyperedges) + 0.5
    batch: Any = Batch.from_data_list(tokens(Right, topology, 6))
    packed = from_pyg(batch, "num_hyperedges")
    y = hs.conv(batch.x, packed, weights.flatten())
    xs = batch.x.reshape(6, experts, 8)
    loop = torch.stack([hs.conv(x, topology, w) for x, w in zip(xs, weights, strict=True)])
    assert torch.equal(y.reshape(loop.shape), loop)
    assert torch.equal(hs.conv(xs, topology, weights), loop)
    # PyTorch Geometric gives the same numbers of it, by its convention.
    original = Original(8, 8)
    ours = HypergraphConv(8, 8)
    ours.load_state_dict(original.state_dict())
    index = batch.hyperedge_index
    assert torch.allclose(
        original(batch.x, index, weights.flatten()), ours(batch.x, index, weights.flatten()), atol=1e-5
    )
    # A plain batch shifts hyperedges by the number of vertices: the original merges or crashes.
    plain: Any = Batch.from_data_list(tokens(Data, topology, 6))
    if topology.n_hyperedges == experts:
        return  # both shifts are the same
    with pytest.raises(hs.Error, match="graph"):
        from_pyg(plain, "num_hyperedges")
    if topology.n_hyperedges < experts:
        with pytest.raises((IndexError, RuntimeError)):
            original(plain.x, plain.hyperedge_index, weights.flatten())
    else:
        wrong = original(plain.x, plain.hyperedge_index, weights.flatten())
        right = original(plain.x, index, weights.flatten())
        assert not torch.allclose(wrong, right, atol=1e-3)


def test_one_graph_is_no_batch() -> None:
    with pytest.raises(hs.Error, match="ptr"):
        from_pyg(tokens(Right, hs.Incidence.pairs(3), 1)[0], [3])
