"""Arrays of other libraries, by DLPack."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

import hyperscatter as hs

TOPOLOGY = hs.Incidence.subsets(6, 3)


JAX = """
    import jax, numpy as np, torch, hyperscatter as hs
    topology = hs.Incidence.subsets(6, 3)
    x = jax.random.normal(jax.random.key(0), (3, 6, 8))
    w = jax.random.uniform(jax.random.key(1), (20,)) + 0.5
    y = hs.conv(x, topology, w, activation="relu")
    assert isinstance(y, jax.Array)
    of_torch = torch.tensor(np.asarray(x)), topology, torch.tensor(np.asarray(w))
    assert np.array_equal(np.asarray(y), hs.conv(*of_torch, activation="relu").numpy())
    assert isinstance(hs.v2e(x, topology, hyperedge_scale=w), jax.Array)
    assert isinstance(hs.gram(x), jax.Array)
    try:
        hs.conv(x, hs.Incidence.pairs(5))
    except hs.Error as error:
        assert "x has 6 rows" in str(error)
    else:
        raise AssertionError("no error")
    print("done")
"""


def test_jax_arrays_come_in_and_go_out() -> None:
    pytest.importorskip("jax")
    # In a process of its own: others of these tests fork, which jax's threads do not survive.
    command = [sys.executable, "-c", textwrap.dedent(JAX)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and ended.stdout == "done\n", ended.stderr


def test_numpy_arrays_come_in_and_go_out() -> None:
    x = np.random.default_rng(0).normal(size=(3, 6, 8))
    y = hs.conv(x, TOPOLOGY)  # pyright: ignore[reportArgumentType]
    assert np.array_equal(np.asarray(y), hs.conv(torch.tensor(x), TOPOLOGY).numpy())


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="__dlpack__"):
        hs.conv([[1.0]], TOPOLOGY)  # pyright: ignore[reportArgumentType]


def test_a_library_without_a_namespace_gets_its_own_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Array:  # as NumPy's before 2.1
        def __init__(self, of: torch.Tensor) -> None:
            self.of = of

        def __dlpack__(self, **named: object) -> object:
            return self.of.__dlpack__(**named)  # pyright: ignore[reportArgumentType]

        def __dlpack_device__(self) -> object:
            return self.of.__dlpack_device__()

    x, module = torch.randn(3, 6, 8), sys.modules[__name__]
    with pytest.raises(TypeError, match="no from_dlpack"):
        hs.conv(Array(x), TOPOLOGY)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(module, "from_dlpack", lambda of: Array(torch.from_dlpack(of)), raising=False)
    y = hs.conv(Array(x), TOPOLOGY)  # pyright: ignore[reportArgumentType]
    assert isinstance(y, Array) and torch.equal(y.of, hs.conv(x, TOPOLOGY))
