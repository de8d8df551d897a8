"""The program runs, its contestants agree, and one that does not makes it fail."""

from __future__ import annotations

import json
import resource
import shutil
import xml.etree.ElementTree as xml
from pathlib import Path
from types import SimpleNamespace

import hyperscatter
import numpy as np
import pytest
import torch
from torch import Tensor

import contestants
import measuring
import peers
import tables
from cases import CASES, DTYPES, Problem, power_law

FAST = ["--scale", "100000", "--seconds", "0.1", "--rounds", "1", "2", "--threads", "1"]


def run(out: Path, *arguments: str) -> tuple[int, list[dict]]:
    code = peers.main([*FAST, "--out", str(out), *arguments])
    xml.parse(out / "peers.svg")
    assert "| copy of x |" in (out / "peers.md").read_text()
    return code, json.loads((out / "peers.json").read_text())["rows"]


def is_there(name: str) -> bool:
    if "torch.compile" in name:
        return any(map(shutil.which, ["c++", "g++", "clang++"]))
    return {"PyG": contestants.geometric, "DHG": contestants.dhg}.get(name.split(" ")[0], True) is not None


def errors_wanted(row: dict) -> set[str]:
    """What has to be compared with float64."""
    name, layer = row["contestant"], row["table"] == "layers"
    if name == "copy of x":
        return {"y"} | ({"last y"} if row["instances"] > 1 else set())
    wanted = {"y", "y, both", "∂x"}
    if layer:
        wanted |= {"∂theta", "∂b"}
    if "CSR" not in name and "alone" not in name:
        wanted.add("∂w")
    if row["instances"] > 1:
        wanted |= {"last y", "last y, both", "last ∂x"}
        if "own w" in name:
            wanted.add("last ∂w")
    return wanted


@pytest.mark.parametrize("case", ["A64", "B", "C", "L8", "D"])
def test_all_contestants_agree(case: str, tmp_path: Path) -> None:
    [made] = [made for made in CASES if made.name == case]
    # Compiling takes long: two cases will do.
    without = [] if case in ("A64", "L8") else ["--without", "compile"]
    everyone = [of.label for of in contestants.contestants_of(made.table, made.instances)]
    everyone = [name for name in everyone if not without or "compile" not in name]
    code, rows = run(tmp_path, "--only", case, "--dtypes", "f32", *without)
    assert code == 0
    assert [row["contestant"] for row in rows] == everyone
    for row in rows:
        name = row["contestant"]
        table = row["hyperedges"] * row["vertices"] * (row["vertices"] + 1)
        if "[graph]" in name or (name == "torch.matmul(M, x)" and table > contestants.MOST_DENSE):
            # What the CPU has not, and what would be too large.
            assert row["status"].startswith("cannot: ") and not row["passes"]
        elif name.startswith("hyperscatter.layer"):
            # On the CPU there is nothing of that kind to measure.
            assert row["status"].startswith("cannot: ") and row["excused"] and not row["passes"]
        elif is_there(name):
            assert row["status"] == "ok", row
            assert set(row["errors"]) == errors_wanted(row)
            assert set(row["passes"]) == ({"forward"} if name == "copy of x" else {"forward", "both"})
            assert all(measured["ms"] > 0 for measured in row["passes"].values())
        else:
            assert row["status"].startswith(("cannot: ", "fails: ")) and not row["passes"]


def test_bf16_agrees(tmp_path: Path) -> None:
    names = ["--contestants", "hyperscatter,matmul,PyG"]
    code, rows = run(tmp_path, "--only", "A64,C", "--dtypes", "bf16", *names)
    assert code == 0
    assert {row["status"] for row in rows if row["contestant"] == "hyperscatter"} == {"ok"}


def test_f16_agrees(tmp_path: Path) -> None:
    names = ["--contestants", "hyperscatter,matmul,alone"]
    code, rows = run(tmp_path, "--only", "A64,L8", "--dtypes", "f16", *names)
    assert code == 0
    assert {row["status"] for row in rows if not row["excused"]} == {"ok"}


def layer_in_two_passes(
    x: Tensor, theta: Tensor, topology, weight: Tensor, *, precision=None, **of
) -> Tensor:
    """In the place of `hyperscatter.layer` of a GPU."""
    assert precision == "three_bf16"
    return hyperscatter.conv(torch.nn.functional.linear(x, theta), topology, weight, **of)


def test_layers_in_one_pass_take_part_where_there_are_some(tmp_path, monkeypatch) -> None:
    everyone = [contestants.Copy, contestants.OnePass, contestants.OnePassOwnWeights, contestants.Theta]
    monkeypatch.setattr(contestants, "contestants_of", lambda *_: everyone)
    monkeypatch.setattr(hyperscatter, "layer", layer_in_two_passes)
    for of in everyone[1:3]:
        monkeypatch.setattr(of, "refuses", lambda _: None)
    of_widths = ["--only", "L4,L16", "--features", "256,64"]
    code, rows = run(tmp_path, *of_widths, "--dtypes", "f32,bf16,f16", "--scale", "1000")
    assert code == 0, [row["status"] for row in rows]
    sizes = {(row["case"], row["vertices"], row["features"]) for row in rows}
    assert sizes == {("L4", 4, 256), ("L4-64", 4, 64), ("L16", 16, 256), ("L16-64", 16, 64)}
    for row in rows:
        assert row["status"] == "ok" and set(row["errors"]) == errors_wanted(row), row
        assert row["contestant"] == "copy of x" or set(row["passes"]) == {"forward", "both"}

    # What others are allowed is too much for it.
    def inexact(x: Tensor, *operands, **of) -> Tensor:
        return layer_in_two_passes(x, *operands, **of) * (1 + 4e-5)

    monkeypatch.setattr(hyperscatter, "layer", inexact)
    code, rows = run(tmp_path, "--only", "L8", "--dtypes", "f32")
    assert code == 1
    assert rows[1]["status"].startswith("DISAGREES") and not rows[1]["passes"]


class Refused(contestants.Ours):
    label = "hyperscatter, refused"

    @classmethod
    def refuses(cls, p: Problem) -> str:
        return "no"


def test_only_what_may_be_refused_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(contestants, "contestants_of", lambda *_: [contestants.Copy, Refused])
    for may_be_refused in (True, False):
        monkeypatch.setattr(Refused, "may_be_refused", may_be_refused)
        code, rows = run(tmp_path, "--only", "A64", "--dtypes", "f32")
        assert rows[1]["status"] == "cannot: no" and rows[1]["excused"] == may_be_refused
        assert code == (0 if may_be_refused else 1)


def test_layers_in_one_pass_say_why_there_are_none(monkeypatch) -> None:
    def refused(device: str, n: int, features: int, dtype: str) -> str | None:
        of = {"device": device, "n": n, "F": features, "dtype": dtype, "element": DTYPES[dtype]}
        return contestants.OnePass.refuses(SimpleNamespace(**of))

    assert "on the CPU" in refused("cpu", 8, 256, "f32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "compute capability" in refused("cuda", 8, 256, "f32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert "17 vertices" in refused("cuda", 17, 256, "f32")
    assert "512 features" in refused("cuda", 8, 512, "f32")
    assert "512 features" in refused("cuda", 8, 512, "tf32")
    assert "513 features" in refused("cuda", 8, 513, "bf16")
    assert refused("cuda", 16, 256, "tf32") is None
    assert refused("cuda", 4, 512, "f16") is None


class Sevens(contestants.Scatter):
    label = "sevens"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0 + 7


class Nan(contestants.Scatter):
    label = "NaN"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.nan


def test_sums_of_bf16_that_are_far_off_are_marked_beside_their_times(tmp_path, monkeypatch, capsys) -> None:
    everyone = [contestants.Copy, contestants.Ours, contestants.Scatter, Sevens, Nan]
    monkeypatch.setattr(contestants, "contestants_of", lambda *_: everyone)
    code, rows = run(tmp_path, "--only", "A64", "--dtypes", "bf16")
    assert code == 1
    status = {row["contestant"]: row["status"].split(" ")[0] for row in rows}
    wanted = {"hyperscatter": "ok", "index_add": "ok", "sevens": "inexact", "NaN": "DISAGREES"}
    assert status == {"copy of x": "ok"} | wanted
    assert "INEXACT: A64 bf16 sevens" in capsys.readouterr().out
    marked = [line for line in (tmp_path / "peers.md").read_text().splitlines() if "(inexact: " in line]
    assert len(marked) == 2 and all(line.startswith("| sevens ") for line in marked)


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


class WrongGradientInTheEnd(contestants.Ours):
    label = "wrong gradient in the end"

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        wrong = torch.cat([y[:-1], y[-1:] * 1.001])
        return y.detach() + wrong - wrong.detach() if len(x) > 16 else y


class WrongOwnWeightInTheEnd(contestants.OursOwnWeights):
    label = "wrong gradient of w in the end"

    def forward(self, x: Tensor) -> Tensor:
        w = self.parameters["w"]
        wrong = torch.cat([w[:-1], w[-1:] * 1.001])
        w = w.detach() + wrong - wrong.detach() if len(x) > 16 else w
        return hyperscatter.conv(x, self.topology, w)


FAULTS = [Wrong, WrongGradient, WrongInTheEnd, WrongGradientInTheEnd, WrongOwnWeightInTheEnd]


@pytest.mark.parametrize("of", FAULTS)
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


class OutOfMemory(contestants.Ours):
    """In all calls, or where there is a gradient."""

    label, forward_too = "out of memory", True

    def forward(self, x: Tensor) -> Tensor:
        if self.forward_too or torch.is_grad_enabled():
            raise MemoryError("out of memory")
        return super().forward(x)


def test_what_has_no_memory_for_a_backward_keeps_its_forward(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(OutOfMemory, "forward_too", False)
    monkeypatch.setattr(contestants, "contestants_of", lambda *_: [contestants.Copy, OutOfMemory])
    code, rows = run(tmp_path, "--only", "C", "--dtypes", "f32")
    assert code == 0 and rows[1]["status"] == "ok"
    assert rows[1]["passes"]["forward"]["ms"] > 0
    assert rows[1]["passes"]["both"] == {"status": "out of memory"}


@pytest.mark.parametrize("of", [OutOfMemory, contestants.Ours])
def test_without_times_of_the_package_the_run_fails(of, tmp_path, monkeypatch) -> None:
    if of is OutOfMemory:
        monkeypatch.setattr(of, "label", "hyperscatter")
    else:
        monkeypatch.setattr(contestants, "hyperscatter", None)
        monkeypatch.setattr(contestants, "no_hyperscatter", "none", raising=False)
    monkeypatch.setattr(contestants, "contestants_of", lambda *_: [contestants.Copy, of])
    code, rows = run(tmp_path, "--only", "A64", "--dtypes", "f32")
    assert code == 1
    assert rows[1]["status"].startswith(("out of memory", "cannot: no package")) and not rows[1]["passes"]


def test_a_copy_that_fails_costs_ratios_only(tmp_path, monkeypatch) -> None:
    class NoCopy(contestants.Copy):
        def bind(self, xs: list[Tensor], gs: list[Tensor]) -> dict:
            raise RuntimeError("no")

    monkeypatch.setattr(contestants, "contestants_of", lambda *_: [NoCopy, contestants.Ours])
    code, rows = run(tmp_path, "--only", "A64", "--dtypes", "f32")
    assert code == 1
    assert rows[1]["status"] == "ok" and "copies" not in rows[1]["passes"]["forward"]


def test_behind_a_broken_device_all_is_named_and_saved(tmp_path, monkeypatch) -> None:
    def broken(device: str) -> None:
        raise RuntimeError("an illegal memory access")

    class Breaking(contestants.Scatter):
        label = "breaking"

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 16:
                monkeypatch.setattr(measuring, "synchronize", broken)
            return super().forward(x)

    everyone = [contestants.Copy, Breaking, contestants.Scatter]
    monkeypatch.setattr(contestants, "contestants_of", lambda *_: everyone)
    code, rows = run(tmp_path, "--only", "A64,B", "--dtypes", "f32,bf16", "--scale", "1000")
    assert code == 1
    assert {row["case"] for row in rows} == {"A64"} and len(rows) == 3
    assert rows[2]["status"] == "not run: RuntimeError: an illegal memory access"
    notes = json.loads((tmp_path / "peers.json").read_text())["notes"]
    assert [note.split(": ")[0] for note in notes] == ["BROKE OFF", "NOT RUN", "NOT RUN", "NOT RUN"]
    assert [note.split(": ")[1].split(", after")[0] for note in notes[1:]] == [
        "A64, bf16",
        "B, f32",
        "B, bf16",
    ]


def test_limits_of_memory_end_with_the_run(tmp_path) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    run(tmp_path, "--only", "A64", "--dtypes", "f32", "--contestants", "matmul")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_forward_of_csr_keeps_no_transposes() -> None:
    csr = contestants.Csr(Problem(power_law(64, 64, 1_000), 1, 8, "f32", "cpu"))
    x = torch.ones(1, 64, 8, requires_grad=True)
    calls = csr.bind([x], [torch.ones_like(x)])
    calls["forward"](0)
    assert "back" not in vars(csr)
    calls["both"](0)
    assert "back" in vars(csr)


def hypergraph_file(path: Path, n: int, pointers: list[int], vertices: list[int]) -> str:
    """Safetensors, as serialised by hand."""
    arrays = {
        "n_vertices": np.array([n]),
        "edge_ptr": np.array(pointers),
        "edge_vertices": np.array(vertices, dtype=np.int32),
    }
    header, data = {}, b""
    for name, array in arrays.items():
        dtype = {"int64": "I64", "int32": "I32"}[array.dtype.name]
        ends = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": ends}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return str(path)


IN_FILES = ["--contestants", "hyperscatter,index_add,dense,CSR,PyG,DHG", "--without", "compile"]


def test_a_file_is_a_case(tmp_path: Path) -> None:
    # An empty hyperedge, a repeated vertex, a hyperedge twice, and a vertex in none.
    small = hypergraph_file(tmp_path / "small.safetensors", 5, [0, 2, 2, 5, 7], [0, 1, 1, 2, 2, 1, 0])
    # Gradients of w are exactly 0.
    disjoint = hypergraph_file(tmp_path / "disjoint.safetensors", 4, [0, 2, 4], [0, 1, 2, 3])
    code, rows = run(tmp_path / "out", small, disjoint, "--dtypes", "f32,bf16", *IN_FILES)
    assert code == 0, [row["status"] for row in rows]
    sizes = {(row["case"], row["vertices"], row["hyperedges"], row["incidences"]) for row in rows}
    assert sizes == {("small", 5, 4, 7), ("disjoint", 4, 2, 4)}
    assert {row["status"] for row in rows if row["contestant"] == "index_add"} == {"ok"}


def test_arguments_that_cannot_be_meant_are_refused(tmp_path: Path, capsys) -> None:
    def file(name: str, n: int, pointers: list[int], vertices: list[int]) -> str:
        return hypergraph_file(tmp_path / f"{name}.safetensors", n, pointers, vertices)

    (tmp_path / "text.safetensors").write_text("what is this")
    fine, other = file("fine", 2, [0, 2], [0, 1]), file("other/fine", 2, [0, 2], [0, 1])
    for arguments, why in [
        ([str(tmp_path / "none.safetensors")], "No such file"),
        ([str(tmp_path / "text.safetensors")], "is no safetensors file"),
        ([file("past", 2, [0, 3], [0, 1])], "edge_ptr does not rise"),
        ([file("falls", 2, [0, 2, 1, 2], [0, 1])], "edge_ptr does not rise"),
        ([file("beyond", 2, [0, 2], [0, 2])], "other numbers than those of 2 vertices"),
        ([file("nothing", 2, [0, 0], [])], "nothing to measure"),
        ([file("A64", 2, [0, 2], [0, 1])], "there is a case of that name, A64"),
        ([fine, other], "there is a case of that name, fine"),
        (["--only", "Z"], "no cases {'Z'}"),
        (["--features", "64,0"], "0 is not positive"),
        (["--dtypes", "foo"], "no types {'foo'} on cpu"),
        (["--dtypes", "f32,tf32"], "no types {'tf32'} on cpu"),
        (["--rounds", "0", "0"], "0 is not positive"),
        (["--rounds", "3", "2"], "more rounds at least"),
        (["--scale", "-5"], "-5 is not positive"),
        (["--contestants", "nonsense"], "no contestant's name has nonsense in it"),
    ]:
        with pytest.raises(SystemExit) as refused:
            peers.main(arguments)
        assert refused.value.code == 2, arguments
        assert why in capsys.readouterr().err, arguments


def test_tables_say_what_part_was_computed_and_what_is_another_convolution() -> None:
    row = {"instances": 9, "measured_instances": 4, "contestant": "PyG", "convention": "degree_only"}
    assert tables.share(row) == " (4 of 9)"
    assert tables.marked(row | {"lacks": ""}) == "PyG (degree_only)"
    csr = {"contestant": "CSR", "convention": "documented", "lacks": "no ∂w"}
    assert tables.marked(csr) == "CSR (no ∂w)"


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
