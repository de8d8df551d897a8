"""The code in MIGRATION.md runs, and the scenario it tells of is so."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import torch

import hyperscatter as hs
import hyperscatter.pyg

pytest.importorskip("torch_geometric")

from torch_geometric.data import Batch, Data
from torch_geometric.nn import HypergraphConv

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from conventions import experiment

GUIDE = Path(__file__).parents[1] / "MIGRATION.md"


def test_the_guide_runs() -> None:
    text = GUIDE.read_text()
    names: dict[str, object] = {}
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(blocks) == text.count("```") // 2 > 10
    for block in blocks:
        above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * above + block[1], str(GUIDE), "exec"), names)  # lines are the guide's


def tokens(n_experts: int, k: int, n: int) -> list[Data]:
    """Experts of each token, and all pairs or triples of them."""
    subsets = list(combinations(range(n_experts), k))
    vertices, owners = [v for s in subsets for v in s], [e for e, s in enumerate(subsets) for _ in s]
    index = torch.tensor([vertices, owners])
    m = len(subsets)
    return [
        Data(x=torch.randn(n_experts, 8), hyperedge_index=index, hyperedge_weight=torch.ones(m), m=m)
        for _ in range(n)
    ]


CASES = [(2, 2), (3, 2), (4, 2), (8, 2), (16, 2), (3, 3), (4, 3), (5, 3), (8, 3), (16, 3)]


@pytest.mark.parametrize(("n_experts", "k"), CASES)
def test_plain_batches_of_pyg(n_experts: int, k: int) -> None:
    """Batches of fewer hyperedges than vertices crash, of more are wrong, of as many are right by chance."""
    given = tokens(n_experts, k, 2 * 6)
    batch = Batch.from_data_list(given)
    layer = HypergraphConv(8, 8)
    m = given[0].m

    def conv(data: Data) -> torch.Tensor:
        return layer(data.x, data.hyperedge_index, data.hyperedge_weight)

    if m < n_experts:
        with pytest.raises(IndexError):
            conv(batch)
    else:
        alone = torch.cat([conv(each) for each in given])
        assert torch.allclose(conv(batch), alone, atol=1e-5) == (m == n_experts)
    if m == n_experts:
        assert hs.pyg.from_pyg(batch, "m").n_hyperedges == 12 * m
    else:
        with pytest.raises(hs.Error, match="number of vertices"):
            hs.pyg.from_pyg(batch, "m")


@pytest.mark.parametrize("use", ["documented", "degree_only"])
@pytest.mark.parametrize(("n_experts", "k"), CASES)
def test_ours_equals_the_loop(n_experts: int, k: int, use: str) -> None:
    """All of B·L tokens at once have the bits of one token after the other, and so have their gradients."""
    topology = hs.Incidence.subsets(n_experts, k)
    x = torch.randn(2, 6, n_experts, 8, requires_grad=True)
    w = torch.rand(topology.n_hyperedges) + 0.5
    upstream = torch.randn(x.shape)
    y = hs.conv(x, topology, w, weight_use=use)
    loop = torch.stack([hs.conv(each, topology, w, weight_use=use) for each in x.flatten(0, 1)])
    assert torch.equal(y, loop.view_as(y))
    (ours,) = torch.autograd.grad(y, x, upstream)
    (theirs,) = torch.autograd.grad(loop, x, upstream.flatten(0, 1))
    assert torch.equal(ours, theirs)
    if use == "degree_only" and k == 2:
        layer = HypergraphConv(8, 8, bias=False)
        with torch.no_grad():
            layer.lin.weight.copy_(torch.eye(8))
        index = tokens(n_experts, k, 1)[0].hyperedge_index
        torch.testing.assert_close(y[1, 3], layer(x[1, 3], index, w))


def test_what_dhg_computes() -> None:
    """Its layers read the weights that the hypergraph was made with; a call may bring others."""
    dhg = pytest.importorskip("dhg")
    hyperedges, w, x = [[0, 1, 2], [1, 2, 3], [0, 4], [2, 3, 4, 5]], torch.rand(4) + 0.5, torch.randn(6, 8)
    topology = hs.Incidence(hyperedges, 6)
    weighted, plain = dhg.Hypergraph(6, hyperedges, e_weight=w.tolist()), dhg.Hypergraph(6, hyperedges)
    layers = {"symmetric": dhg.nn.HGNNConv(8, 8, is_last=True), "row": dhg.nn.HGNNPConv(8, 8, is_last=True)}
    for normalization, layer in layers.items():
        ours = hs.conv(layer.theta(x), topology, w, normalization=normalization)
        torch.testing.assert_close(ours, layer(x, weighted))
    ours = hs.conv(x, topology, w, weight_use="message_only")
    torch.testing.assert_close(ours, plain.v2v(x, "mean", e_weight=w))


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_model_loses_under_another_convention() -> None:
    """The guide tells of 14 points. In these shorter trainings 18 were lost."""
    found = experiment(seeds=2, steps=400)
    mean = {key: sum(of_seeds) / len(of_seeds) for key, of_seeds in found.items()}
    for use in ("documented", "degree_only"):
        assert mean[use, use] > 95
    assert mean["degree_only", "documented"] < mean["degree_only", "degree_only"] - 8
