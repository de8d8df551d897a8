"""The program runs, its contestants agree, and one that does not makes it fail."""

from __future__ import annotations

import json
import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import contestants
import peers
from cases import CASES, power_law

FAST = ["--scale", "100000", "--seconds", "0.1", "--rounds", "1", "2", "--threads", "1"]


def run(out: Path, *arguments: str) -> tuple[int, list[dict]]:
    code = peers.main([*FAST, "--out", str(out), *arguments])
    xml.parse(out / "peers.svg")
    assert "| copy of x |" in (out / "peers.md").read_text()
    return code, json.loads((out / "peers.json").read_text())["rows"]


def is_there(name: str) -> bool:
    return {"PyG": contestants.geometric, "DHG": contestants.dhg}.get(name.split(" ")[0], True) is not None


@pytest.mark.parametrize("case", ["A64", "B", "C", "L8", "D"])
def test_all_contestants_agree(case: str, tmp_path: Path) -> None:
    [made] = [made for made in CASES if made.name == case]
    # Compiling takes long: two cases will do.
    without = "nothing" if case in ("A64", "L8") else "compile"
    everyone = [of.label for of in contestants.contestants_of(made.table, made.instances)]
    everyone = [name for name in everyone if without not in name]
    code, rows = run(tmp_path, "--only", case, "--dtypes", "f32", "--without", without)
    assert code == 0
    assert [row["contestant"] for row in rows] == everyone
    for row in rows:
        # What the CPU has not, what is not installed, and what would be too large.
        may_miss = "[graph]" in row["contestant"] or not is_there(row["contestant"])
        may_miss |= made.instances == 1 and row["contestant"] == "torch.matmul(M, x)"
        may_miss |= "torch.compile" in row["contestant"]  # where there is no compiler
        if not may_miss or row["status"] == "ok":
            assert row["status"] == "ok", row
            assert all(measured["ms"] > 0 for measured in row["passes"].values())
            gradients = {"copy of x": set()}.get(row["contestant"], {"∂x"})
            assert gradients <= set(row["errors"])
        else:
            assert row["status"].startswith(("cannot: ", "fails: ")) and not row["passes"]


def test_bf16_agrees(tmp_path: Path) -> None:
    names = ["--contestants", "hyperscatter,matmul,PyG"]
    code, rows = run(tmp_path, "--only", "A64,C", "--dtypes", "bf16", *names)
    assert code == 0
    assert {row["status"] for row in rows if row["contestant"] == "hyperscatter"} == {"ok"}


class Wrong(contestants.Ours):
    label = "wrong"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.001


class WrongGradient(contestants.Ours):
    label = "wrong gradient"

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.detach() + 1.001 * (y - y.detach())


class WrongInTheEnd(contestants.Ours):
    """Where offsets of many instances overflow, say."""

    label = "wrong in the end"

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.cat([y[:-1], y[-1:] * 1.001]) if len(x) > 16 else y


@pytest.mark.parametrize("of", [Wrong, WrongGradient, WrongInTheEnd])
def test_what_disagrees_fails_the_run_and_has_no_times(of, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(contestants, "contestants_of", lambda *_: [contestants.Copy, of, contestants.Ours])
    code, rows = run(tmp_path, "--only", "A64", "--dtypes", "f32", "--scale", "1000")
    assert code == 1
    assert rows[1]["status"].startswith("DISAGREES") and not any(rows[1]["passes"].values())
    assert rows[2]["status"] == "ok"
    assert f"!!! A64 f32 {of.label} DISAGREES" in capsys.readouterr().out


def test_a_failing_contestant_is_named_and_costs_nothing_else(tmp_path, monkeypatch) -> None:
    class Failing(contestants.Ours):
        label = "failing"

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    monkeypatch.setattr(
        contestants, "contestants_of", lambda *_: [contestants.Copy, Failing, contestants.Ours]
    )
    code, rows = run(tmp_path, "--only", "A64", "--dtypes", "f32")
    assert code == 0
    assert [row["status"] for row in rows] == ["ok", "fails: RuntimeError: no (in the check)", "ok"]


def test_a_file_is_a_case(tmp_path: Path) -> None:
    arrays = {
        "n_vertices": np.array([5]),
        "edge_ptr": np.array([0, 2, 2, 5, 7]),
        # An empty hyperedge, a repeated vertex, a hyperedge twice, and a vertex in none.
        "edge_vertices": np.array([0, 1, 1, 2, 2, 1, 0], dtype=np.int32),
    }
    header, data = {}, b""
    for name, array in arrays.items():
        dtype = {"int64": "I64", "int32": "I32"}[array.dtype.name]
        ends = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": ends}
        data += array.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "small.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    names = ["--contestants", "hyperscatter,dense,CSR,PyG,DHG"]
    code, rows = run(tmp_path / "out", str(tmp_path / "small.safetensors"), "--dtypes", "f32", *names)
    assert code == 0
    assert {(row["case"], row["vertices"], row["hyperedges"], row["incidences"]) for row in rows} == {
        ("small", 5, 4, 7)
    }


def test_the_power_law_is_that_of_the_other_benchmark() -> None:
    """Its generator, one state after another."""
    n, m, nnz = 200, 100, 400
    state, vertices = 1, []
    for _ in range(nnz):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        u = (state >> 11) / 2**53
        vertices.append(min(int(n * (u * u * u)), n - 1) * 611_953 % n)
    made = power_law(n, m, nnz)
    assert made.vertices.tolist() == vertices
    assert made.pointers[0] == 0 and made.pointers[-1] == nnz and (made.pointers.diff() >= 0).all()
