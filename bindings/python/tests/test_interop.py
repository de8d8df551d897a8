"""Arrays of other libraries, by DLPack."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hyperscatter as hs

TOPOLOGY = hs.Incidence.subsets(6, 3)


def test_jax_arrays_come_in_and_go_out() -> None:
    jax = pytest.importorskip("jax")
    x = jax.random.normal(jax.random.key(0), (3, 6, 8))
    w = jax.random.uniform(jax.random.key(1), (20,)) + 0.5
    y = hs.conv(x, TOPOLOGY, w, activation="relu")
    assert isinstance(y, jax.Array)
    wanted = hs.conv(torch.tensor(np.asarray(x)), TOPOLOGY, torch.tensor(np.asarray(w)), activation="relu")
    assert np.array_equal(np.asarray(y), wanted.numpy())
    assert isinstance(hs.v2e(x, TOPOLOGY, hyperedge_scale=w), jax.Array)
    assert isinstance(hs.gram(x), jax.Array)
    with pytest.raises(hs.Error, match="x has 6 rows"):
        hs.conv(x, hs.Incidence.pairs(5))


def test_numpy_arrays_come_in_and_go_out() -> None:
    x = np.random.default_rng(0).normal(size=(3, 6, 8))
    y = hs.conv(x, TOPOLOGY)  # pyright: ignore[reportArgumentType]
    assert np.array_equal(np.asarray(y), hs.conv(torch.tensor(x), TOPOLOGY).numpy())


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="__dlpack__"):
        hs.conv([[1.0]], TOPOLOGY)  # pyright: ignore[reportArgumentType]
