"""What is refused, and what it says."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hyperscatter as hs

PAIRS = hs.Incidence.pairs(4)
X = torch.randn(2, 4, 8)

REFUSED: list[tuple[str, Callable[[], Any], str]] = [
    ("rows", lambda: hs.conv(torch.randn(2, 5, 8), PAIRS), "x has 5 rows, but must have 4"),
    ("no rows", lambda: hs.conv(torch.randn(8), PAIRS), r"\[\.\.\., rows, features\]"),
    ("weights", lambda: hs.conv(X, PAIRS, torch.ones(5)), "weight must have 6 values, and has 5"),
    ("own weights", lambda: hs.conv(X, PAIRS, torch.ones(2, 5)), r"weight must have the shape \[6\]"),
    ("too many dimensions", lambda: hs.conv(X, PAIRS, torch.ones(1, 2, 6)), "weight must have the shape"),
    ("a scalar", lambda: hs.conv(X, PAIRS, torch.tensor(1.0)), "at least one dimension"),
    ("integers", lambda: hs.conv(X.long(), PAIRS), "and are torch.int64"),
    ("narrower weights", lambda: hs.conv(X, PAIRS, torch.ones(6).double()), "weight must be torch.float32"),
    ("bias", lambda: hs.conv(X, PAIRS, bias=torch.ones(7)), r"bias must have the shape \(8,\)"),
    ("residual", lambda: hs.conv(X, PAIRS, residual=X[:1]), "residual must have the shape"),
    (
        "residual's type",
        lambda: hs.conv(X, PAIRS, residual=X.double()),
        "residual must be of the type and on the device of x",
    ),
    ("instances of a Batch", lambda: hs.conv(torch.randn(1, 4, 8), hs.Batch([PAIRS] * 3)), "Batch of 3"),
    ("more of them", lambda: hs.v2e(torch.randn(5, 4, 8), hs.Batch([PAIRS] * 3)), "Batch of 3"),
    ("a Batch's dimensions", lambda: hs.gram(torch.randn(1, 4, 8), hs.Batch([PAIRS] * 3)), "Batch of 3"),
    (
        "a Batch's weights",
        lambda: hs.conv(torch.randn(12, 8), hs.Batch([PAIRS] * 3), torch.ones(9, 1)),
        r"weight must have the shape \[18\]",
    ),
    (
        "windows of a table of weights",
        lambda: hs.conv(X, PAIRS, torch.ones(2, 6), windows=hs.Windows([0, 6])),
        "one dimension",
    ),
    (
        "an operator's weights",
        lambda: torch.ops.hyperscatter.conv(
            X, torch.ones(6).double(), PAIRS.packed, None, None, None, 0, 0, 0, 6, 0, False
        ),
        "weight must be torch.float32 on cpu",
    ),
    (
        "an operator's residual",
        lambda: torch.ops.hyperscatter.conv(
            X, torch.ones(6), PAIRS.packed, None, None, X[:1], 0, 0, 0, 6, 0, False
        ),
        "residual must have the shape",
    ),
    (
        "an operator's gradient",
        lambda: torch.ops.hyperscatter.conv_backward(
            X[:1],
            X,
            torch.ones(6),
            PAIRS.packed,
            None,
            None,
            0,
            0,
            0,
            6,
            0,
            False,
            [True, False, False, False],
        ),
        "the gradient must have the shape",
    ),
    ("rows of nothing", lambda: hs.conv(X[:0, :3], PAIRS), "x has 3 rows, but must have 4"),
    ("hyperedges of nothing", lambda: hs.e2v(X[:0], PAIRS), "z has 4 rows, but must have 6"),
    (
        "transposed weights of a table",
        lambda: hs.conv(X, hs.Batch([PAIRS, PAIRS]), torch.rand(6, 2)),
        "weight must have the shape",
    ),
    ("an operator's weights", lambda: hs.operator(hs.Batch([PAIRS]), torch.rand(5)), "weight must have"),
    (
        "more windows than instances",
        lambda: hs.conv(X, PAIRS, torch.rand(9), windows=hs.Windows([0, 1, 2])),
        "each of the 2 instances, and have 3",
    ),
    ("windows of nothing", lambda: hs.conv(X, PAIRS, windows=hs.Windows([0, 1])), "there are none"),
    (
        "a topology in the place of windows",
        lambda: torch.ops.hyperscatter.conv(
            X, torch.ones(12), PAIRS.packed, PAIRS.packed, None, None, 0, 0, 0, 6, 0, False
        ),
        "Windows.packed",
    ),
    ("vertex", lambda: hs.Incidence([[0, 4]], 4), "4"),
    ("negative vertex", lambda: hs.Incidence([[0, -1]], 4), "-1"),
    ("repeat", lambda: hs.Incidence([[0, 0]], 4, repeats="reject"), "twice|repeat|more than once"),
    ("pointers", lambda: hs.Incidence.from_csr([0, 2, 1], [0, 1], 4), "edge_ptr"),
    ("index", lambda: hs.Incidence.from_hyperedge_index(torch.zeros(3, 4).long()), "n_incidences"),
    ("topology", lambda: hs.Batch([PAIRS], [1]), "topology"),
    ("matrix", lambda: hs.operator(hs.Incidence.pairs(65), torch.ones(65 * 32)), "64"),
    ("gram", lambda: hs.gram(torch.randn(65, 4)), "64"),
    ("packed", lambda: torch.ops.hyperscatter.v2e(X, torch.zeros(9).long(), None, None, False, 6), "packed"),
    (
        "negative degree",
        lambda: hs.conv(X, PAIRS, -torch.ones(6), normalization="symmetric"),
        "degree",
    ),
]


@pytest.mark.parametrize(("call", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_it_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(hs.Error, match=message):
        call()
    # Whatever failed, the next call works.
    assert hs.conv(X, PAIRS).isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("normalization", "col"), ("weight_use", "none"), ("activation", "tanh"), ("readout", "sum")],
)
def test_choices_are_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        hs.conv(X, PAIRS, **{name: value})  # pyright: ignore[reportArgumentType]


def test_an_error_has_its_facts_and_can_be_sent() -> None:
    with pytest.raises(hs.Error) as caught:
        hs.conv(torch.randn(2, 5, 8), PAIRS)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, hs.Error) and isinstance(error, ValueError)
        assert (error.status, error.what, error.value, error.bound, error.degree) == (
            "HS_ERROR_ROWS_MISMATCH",
            "x",
            5,
            4,
            None,
        )


def test_arrays_and_tensors_are_not_mixed() -> None:
    with pytest.raises(TypeError, match="not mixed"):
        hs.conv(X, PAIRS, torch.ones(6).numpy())  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="tensor"):
        hs.conv("x", PAIRS)  # pyright: ignore[reportArgumentType]


def test_a_device_that_is_not_there_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    from hyperscatter import _devices

    with pytest.raises(hs.DeviceError, match=r"driver|device"):
        _devices.Cuda(0)
    with pytest.raises(hs.Error, match="CPU or a CUDA device"):
        _devices.of(torch.empty(1, device="meta"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hs.conv(X, torch.zeros(2, 3).long()), "topology must be an Incidence or a Batch"),
        (lambda: hs.v2e(X, torch.zeros(2, 3).long()), "topology must be an Incidence or a Batch"),
        (lambda: hs.operator(torch.ones(6), PAIRS), "topology must be an Incidence or a Batch"),
        (lambda: hs.explain(None, 3), "topology must be an Incidence or a Batch"),
        (lambda: hs.gram(X, PAIRS), "a Batch or None"),
        (lambda: hs.conv(X, PAIRS, [1.0] * 6), "weight must be a tensor"),
        (lambda: hs.Incidence([[0, 1]], 2.9), "integer"),
    ],
)
def test_other_types_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()
