"""The example `coupled_experts`: it learns, and its loop over tokens agrees with the layer."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import hyperscatter as hs

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from coupled_experts.__main__ import main as training_main
from coupled_experts.compare import compare
from coupled_experts.compare import main as compare_main
from coupled_experts.costs import gigabytes, while_there_is_time
from coupled_experts.costs import main as costs_main
from coupled_experts.couplers import Loop, PyG, coupler
from coupled_experts.model import Shape
from coupled_experts.text import Text
from coupled_experts.training import new_model, perplexity, train
from host_cost import main as host_cost_main

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


OPTIONS = "--experts 4 --width 16 --length 32 --sequences 2 --layers 1 --threads 1 --device cpu --steps 2"
SMALL = OPTIONS.split()


@pytest.mark.parametrize("use", ["documented", "degree_only"])
def test_the_comparison_passes(use: str) -> None:
    compare_main([*SMALL, "--weight-use", use])


def another_convention(loop: Loop) -> None:
    loop.weight_use = "message_only"


def no_bias(loop: Loop) -> None:
    loop.bias = None


@pytest.mark.parametrize("fault", [another_convention, no_bias])
def test_the_comparison_fails_where_weights_are_used_otherwise(
    fault: Callable[[Loop], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Loop.forward

    def wrong(self: Loop, x: torch.Tensor) -> torch.Tensor:
        kept = self.weight_use, self.bias
        fault(self)
        y = right(self, x)
        self.weight_use, self.bias = kept
        return y

    monkeypatch.setattr(Loop, "forward", wrong)
    with pytest.raises(SystemExit) as end:
        compare_main(SMALL)
    assert end.value.code == 1
    assert "other bits" in capsys.readouterr().out


@pytest.mark.parametrize("difference", [1.1e-5, float("nan")])
def test_the_comparison_fails_where_losses_differ(difference: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coupled_experts.compare.compare", lambda *_: (True, difference))
    with pytest.raises(SystemExit) as end:
        compare_main(SMALL)
    assert end.value.code == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--experts 1", "argument --experts: 1 is not from 2 to 16"),
        ("--experts 17", "argument --experts: 17 is not from 2 to 16"),
        ("--experts 2 --subsets 3", "argument --subsets: 2 experts have none of 3"),
        ("--width 30", "argument --width: 30 is no multiple of 4, the heads"),
        ("--steps 0", "argument --steps: 0 is less than 1"),
        ("--layers 0", "argument --layers: 0 is less than 1"),
        ("--sequences -1", "argument --sequences: -1 is less than 1"),
    ],
)
@pytest.mark.parametrize("program", [training_main, compare_main, costs_main])
def test_arguments_that_make_no_model_are_refused(
    program: Callable[[list[str]], None], given: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        program(given.split())
    assert end.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("use", ["documented", "degree_only"])
def test_a_loop_keeps_the_convention(use: str) -> None:
    loop, ours = (coupler(kind, 8, 4, 3, use) for kind in ("loop", "hyperscatter"))
    with torch.no_grad():
        loop.weight.normal_()
        loop.bias.normal_()
    ours.load_state_dict(loop.state_dict())
    x, upstream = torch.randn(9, 4, 8, requires_grad=True), torch.randn(9, 4, 8)
    theirs, y = loop(x), ours(x)
    assert torch.equal(theirs, y)
    (expected,) = torch.autograd.grad(theirs, x, upstream, retain_graph=True)
    (got,) = torch.autograd.grad(y, x, upstream, retain_graph=True)
    assert torch.equal(expected, got)
    theirs.backward(upstream)
    y.backward(upstream)
    for name, parameter in loop.named_parameters():  # sums over tokens, in another order
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad)
        assert parameter.grad.abs().max() > 0


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


def test_costs_fill_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch_geometric")
    # Enough for one of two sequences.
    needed = gigabytes(Shape(4, 2, width=16, layers=1, length=32), 2)
    costs_main([*SMALL, "--experts", "2", "4", "--gigabytes", str(0.6 * needed)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python -m coupled_experts.costs --experts 4")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
    assert [row[:2] for row in rows] == [["2", "1 pair"], ["4", "6 pairs"], ["4", "4 triples"]]
    numbers = [re.fullmatch(r"(~ )?[0-9,]+", cell) for row in rows for cell in row[2:]]
    assert len(numbers) == 12
    assert all(numbers)
    assert [bool(number[1]) for number in numbers if number] == 6 * [False] + [True] + 3 * [False] + [
        True,
        False,
    ]
    assert sum("1 of 2 sequences, multiplied" in line for line in lines) == 2


def test_the_host_cost_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    host_cost_main(["--calls", "40"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert ["hs.conv" in rows[0], "empty" in rows[1], "matmul" in rows[2]] == [True] * 3
    for row in rows:
        assert len(re.findall(r"[0-9]+ \([0-9]+ to [0-9]+\)", row)) == 2


def test_a_cell_of_the_costs_takes_bounded_time() -> None:
    assert list(while_there_is_time(3, 60)) == [0, 1, 2]
    assert list(while_there_is_time(3, 0)) == [0]


def test_two_experts_share_one_hyperedge() -> None:
    layer = coupler("hyperscatter", 8, 2, 2)
    x = torch.randn(5, 2, 8)
    coupled = layer(x) - x  # both get the mean of both; the residual keeps them apart
    torch.testing.assert_close(coupled[:, 0], coupled[:, 1])
