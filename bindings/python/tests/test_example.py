"""The example `coupled_experts`: it learns, and its loop over tokens agrees with the layer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hyperscatter as hs

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from coupled_experts.compare import compare
from coupled_experts.couplers import PyG, coupler
from coupled_experts.model import Shape
from coupled_experts.text import Text
from coupled_experts.training import new_model, perplexity, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Of small products several make nothing faster, and much slower where processors are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def text() -> Text:
    return Text.read()


def small(experts: int, subsets: int, **others) -> Shape:
    return Shape(experts, subsets, width=16, heads=2, length=32, **others)


@pytest.mark.parametrize("coupling", ["none", "hyperscatter"])
def test_it_learns(text: Text, coupling: str, tmp_path: Path) -> None:
    shape = small(4, 2, coupling=coupling)
    model = new_model(shape, text, CPU)
    before = perplexity(model, text.validation, shape, 8, 2)
    curves = train(model, text, shape, range(30), sequences=16, rate=1e-2, validate_every=15)
    assert sum(curves.losses[-5:]) / 5 < curves.losses[0] - 1
    assert curves.perplexities[30] < before / 2
    rows = curves.write(tmp_path)[0].read_text().splitlines()
    assert len(rows) == 31
    assert rows[15].endswith(str(curves.perplexities[15]))


@pytest.mark.parametrize(("experts", "subsets"), [(2, 2), (8, 2), (8, 3), (16, 2), (16, 3)])
def test_a_loop_over_tokens_agrees(text: Text, experts: int, subsets: int) -> None:
    same_bits, difference = compare(small(experts, subsets), text, steps=3, sequences=2, device=CPU)
    assert same_bits
    assert difference < 1e-5


@pytest.mark.parametrize("use", ["documented", "degree_only"])
def test_a_loop_keeps_the_convention(use: str) -> None:
    loop, ours = (coupler(kind, 8, 4, 3, use) for kind in ("loop", "hyperscatter"))
    with torch.no_grad():
        loop.weight.normal_()
        loop.bias.normal_()
    ours.load_state_dict(loop.state_dict())
    x = torch.randn(9, 4, 8)
    assert torch.equal(loop(x), ours(x))


def test_pyg_is_given_the_right_index() -> None:
    pytest.importorskip("torch_geometric")
    theirs, ours = coupler("pyg", 8, 5, 3), coupler("hyperscatter", 8, 5, 3, "degree_only")
    assert isinstance(theirs, PyG)
    assert isinstance(ours, hs.HypergraphConv)
    with torch.no_grad():
        theirs.weight.normal_()
        ours.weight.copy_(theirs.weight)
        ours.lin.weight.copy_(theirs.conv.lin.weight)
    x = torch.randn(7, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x[:3]), theirs(x[:3]))


def test_all_begin_with_the_same_parameters(text: Text) -> None:
    pytest.importorskip("torch_geometric")
    couplings = ("pyg", "loop", "hyperscatter")
    models = [new_model(small(4, 2, coupling=kind), text, CPU) for kind in couplings]
    parameters = [sorted((p.shape, p.sum().item()) for p in model.parameters()) for model in models]
    assert parameters[0] == parameters[1] == parameters[2]


def test_two_experts_share_one_hyperedge() -> None:
    layer = coupler("hyperscatter", 8, 2, 2)
    x = torch.randn(5, 2, 8)
    coupled = layer(x) - x  # both get the mean of both; the residual keeps them apart
    torch.testing.assert_close(coupled[:, 0], coupled[:, 1])
