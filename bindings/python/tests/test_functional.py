"""Values: against dense matrices in float64, in all layouts, types and conventions."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import hyperscatter as hs
from hyperscatter import _calls
from reference import NORMALIZATIONS, USES, drawn, incidence_matrix, operator

TYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
TOPOLOGIES = {
    "pairs": lambda: hs.Incidence.pairs(8),
    "triples": lambda: hs.Incidence.subsets(6, 3),
    "one hyperedge": lambda: hs.Incidence.pairs(2),
    "drawn": lambda: drawn(9, 7, 20),
    "gathers": lambda: drawn(70, 50, 200),
}


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_convolution_is_the_dense_operator(name: str, dtype: torch.dtype) -> None:
    topology = TOPOLOGIES[name]()
    x = torch.randn(2, 3, topology.n_vertices, 8).to(dtype)
    m = topology.n_hyperedges
    for shape in ((m,), (2, 3, m), (1, 3, m)):
        w = (torch.rand(shape, dtype=torch.float64) + 0.5).to(wide(dtype))
        for use in USES:
            for normalization in NORMALIZATIONS:
                y = hs.conv(x, topology, w, weight_use=use, normalization=normalization)
                wanted = operator(topology, w.double(), use, normalization) @ x.double()
                scale = wanted.abs().max().clamp(min=1)
                assert y.dtype == dtype and y.shape == x.shape
                assert (y.double() - wanted).abs().max() <= TYPES[dtype] * scale


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_steps_are_products_with_the_incidence_matrix(reduce: str) -> None:
    topology = drawn(9, 7, 20)
    h = incidence_matrix(topology)
    x, z = torch.randn(4, 9, 5, dtype=torch.float64), torch.randn(4, 7, 5, dtype=torch.float64)
    r, s = torch.rand(9, dtype=torch.float64), torch.rand(4, 7, dtype=torch.float64)
    sizes, degrees = h.sum(0).clamp(min=1), h.sum(1).clamp(min=1)
    to_edges = h.T / sizes[:, None] if reduce == "mean" else h.T
    to_vertices = h / degrees[:, None] if reduce == "mean" else h
    assert torch.allclose(hs.v2e(x, topology, reduce=reduce), to_edges @ x)
    assert torch.allclose(hs.e2v(z, topology, reduce=reduce), to_vertices @ z)
    scaled = s[..., None] * (to_edges @ (r[:, None] * x))
    assert torch.allclose(hs.v2e(x, topology, reduce=reduce, vertex_scale=r, hyperedge_scale=s), scaled)
    scaled = r[:, None] * (to_vertices @ (s[..., None] * z))
    assert torch.allclose(hs.e2v(z, topology, reduce=reduce, vertex_scale=r, hyperedge_scale=s), scaled)


LAYOUTS = {
    "contiguous": lambda x: x,
    "vertex-major": lambda x: x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3),
    "wider rows": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "more rows": lambda x: torch.cat([x, x], -2)[..., : x.shape[-2], :],
    "features first": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "strewn instances": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "the same row": lambda x: x[..., :1, :].expand(x.shape),
    "the same instance": lambda x: x[:1, :1].expand(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(layout: str) -> None:
    topology = hs.Incidence.subsets(6, 3)
    x = LAYOUTS[layout](torch.randn(2, 3, 6, 8))
    w = torch.rand(2, 3, 20) + 0.5
    assert torch.equal(hs.conv(x, topology, w), hs.conv(x.contiguous(), topology, w))
    assert torch.equal(hs.v2e(x, topology), hs.v2e(x.contiguous(), topology))
    assert torch.equal(hs.gram(x), hs.gram(x.contiguous()))
    results = []
    for each in (x, x.contiguous()):
        leaf, weight = each.detach().requires_grad_(), w.clone().requires_grad_()
        y = hs.conv(leaf, topology, weight, activation="silu", bias=torch.ones(8))
        results.append(torch.autograd.grad(y, [leaf, weight], LAYOUTS[layout](torch.ones(y.shape))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_an_output_has_the_order_of_dimensions_of_x() -> None:
    topology = hs.Incidence.pairs(4)
    x = torch.randn(4, 10, 16).transpose(0, 1)  # vertex-major
    assert hs.conv(x, topology).stride() == x.stride()
    assert hs.conv(x.contiguous(), topology).is_contiguous()


def test_rows_are_read_in_place() -> None:
    topology = hs.Incidence.pairs(4)
    x = torch.randn(4, 512, 16).transpose(0, 1)
    hs.conv(x, topology)
    with torch.profiler.profile() as profile:
        hs.conv(x, topology)
    names = {event.key for event in profile.key_averages()}
    assert not names & {"aten::copy_", "aten::clone", "aten::contiguous"}, names


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "gelu_tanh", "silu"])
def test_an_epilogue_is_what_follows(activation: str | None) -> None:
    act = {
        None: lambda u: u,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda u: torch.nn.functional.gelu(u, approximate="tanh"),
        "silu": torch.nn.functional.silu,
    }[activation]
    topology = hs.Incidence.pairs(5)
    x, bias = torch.randn(3, 5, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    residual = torch.randn(3, 5, 8, dtype=torch.float64)
    wanted = act(hs.conv(x, topology) + bias) + residual
    given = {"bias": bias, "activation": activation, "residual": residual}
    assert torch.allclose(hs.conv(x, topology, **given), wanted)
    assert torch.allclose(hs.conv(x, topology, **given, readout="mean"), wanted.mean(-2))


def tables() -> tuple[list[hs.Incidence], hs.Batch]:
    kinds = [hs.Incidence.pairs(4), drawn(9, 7, 20), hs.Incidence.subsets(6, 3)]
    ids = [0, 2, 1, 0, 2]
    return [kinds[i] for i in ids], hs.Batch(kinds, ids)


def padded(parts: list[Tensor], rows: int) -> Tensor:
    return torch.stack([torch.nn.functional.pad(p, (0, 0, 0, rows - p.shape[0]), value=7.0) for p in parts])


def test_a_table_is_its_instances() -> None:
    instances, batch = tables()
    xs = [torch.randn(t.n_vertices, 8, dtype=torch.float64) for t in instances]
    ws = [torch.rand(t.n_hyperedges, dtype=torch.float64) + 0.5 for t in instances]
    wanted = [hs.conv(x, t, w) for x, t, w in zip(xs, instances, ws, strict=True)]
    y = hs.conv(torch.cat(xs), batch, torch.cat(ws))
    assert torch.equal(y, torch.cat(wanted))
    rows = batch.largest_vertices
    y = hs.conv(padded(xs, rows), batch, torch.cat(ws))
    for of, want in zip(y, wanted, strict=True):
        assert torch.equal(of[: want.shape[0]], want)
    wide = padded(xs, rows)
    for got in (hs.conv(wide, batch, torch.cat(ws)), hs.e2v(hs.v2e(wide, batch), batch), hs.v2e(wide, batch)):
        starts = batch.vertex_starts() if got.shape[1] == rows else batch.hyperedge_starts()
        for g, of in enumerate(got):
            assert torch.equal(
                of[starts[g + 1] - starts[g] :], torch.zeros_like(of[starts[g + 1] - starts[g] :])
            )
    shared = torch.rand(batch.largest_hyperedges, dtype=torch.float64)
    wanted = [hs.conv(x, t, shared[: t.n_hyperedges]) for x, t in zip(xs, instances, strict=True)]
    assert torch.equal(hs.conv(torch.cat(xs), batch, shared), torch.cat(wanted))
    z = hs.v2e(torch.cat(xs), batch)
    assert torch.equal(z, torch.cat([hs.v2e(x, t) for x, t in zip(xs, instances, strict=True)]))
    back = hs.e2v(z, batch)
    assert torch.equal(back, torch.cat([hs.e2v(hs.v2e(x, t), t) for x, t in zip(xs, instances, strict=True)]))
    means = hs.conv(torch.cat(xs), batch, torch.cat(ws), readout="mean")
    wanted = [hs.conv(x, t, w, readout="mean") for x, t, w in zip(xs, instances, ws, strict=True)]
    assert torch.equal(means, torch.stack(wanted))
    assert batch.vertex_starts()[-1] == batch.n_vertices == sum(t.n_vertices for t in instances)
    assert batch.hyperedge_starts()[-1] == batch.n_hyperedges == sum(t.n_hyperedges for t in instances)


def test_gradients_of_a_table_are_those_of_its_instances() -> None:
    instances, batch = tables()
    xs = [torch.randn(t.n_vertices, 8, dtype=torch.float64, requires_grad=True) for t in instances]
    ws = [torch.rand(t.n_hyperedges, dtype=torch.float64, requires_grad=True) for t in instances]
    g = torch.randn(batch.n_vertices, 8, dtype=torch.float64)
    got = torch.autograd.grad(hs.conv(torch.cat(xs), batch, torch.cat(ws)), [*xs, *ws], g)
    y = torch.cat([hs.conv(x, t, w) for x, t, w in zip(xs, instances, ws, strict=True)])
    for a, b in zip(got, torch.autograd.grad(y, [*xs, *ws], g), strict=True):
        assert torch.equal(a, b)


def test_windows_begin_where_they_say_and_may_overlap() -> None:
    topology = hs.Incidence.subsets(5, 3)
    offsets = [3, 0, 5, 3]
    x = torch.randn(2, 2, 5, 8, dtype=torch.float64)
    w = (torch.rand(15, dtype=torch.float64) + 0.5).requires_grad_()
    y = hs.conv(x, topology, w, windows=hs.Windows(offsets))
    own = torch.stack([w[o : o + 10] for o in offsets]).reshape(2, 2, 10)
    wanted = hs.conv(x, topology, own)
    assert torch.equal(y, wanted)
    g = torch.randn_like(y)
    assert torch.allclose(torch.autograd.grad(y, w, g)[0], torch.autograd.grad(wanted, w, g)[0])
    matrices = hs.operator(topology, w, windows=hs.Windows(offsets))
    assert torch.equal(matrices.reshape(2, 2, 5, 5), hs.operator(topology, own))
    with pytest.raises(hs.Error, match="window"):
        hs.conv(x, topology, w, windows=hs.Windows([0, 0, 0, 6]))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_operator_is_the_matrix(use: str, normalization: str) -> None:
    topology = drawn(9, 7, 20)
    for shape in ((7,), (2, 3, 7)):
        w = torch.rand(shape, dtype=torch.float64) + 0.5
        got = hs.operator(topology, w, weight_use=use, normalization=normalization)
        assert torch.allclose(got, operator(topology, w, use, normalization))


def test_gram_is_inner_products() -> None:
    x = torch.randn(2, 3, 6, 8)
    assert torch.allclose(hs.gram(x), x @ x.transpose(-1, -2), atol=1e-5)
    _, batch = tables()
    x = torch.randn(5, 9, 8)
    got = hs.gram(x, batch)
    for g, (of, n) in enumerate(zip(x, [4, 6, 9, 4, 6], strict=True)):
        assert torch.allclose(got[g, :n, :n], of[:n] @ of[:n].T, atol=1e-5)


def test_nothing_is_nothing() -> None:
    topology = hs.Incidence.pairs(4)
    for shape in ((0, 4, 8), (3, 4, 0), (2, 0, 4, 8)):
        x = torch.randn(shape, requires_grad=True)
        w = torch.rand(6, requires_grad=True)
        y = hs.conv(x, topology, w)
        assert y.shape == x.shape
        gx, gw = torch.autograd.grad(y.sum(), [x, w])
        assert gx.shape == x.shape and torch.equal(gw, torch.zeros(6))
        assert hs.v2e(x, topology).shape == (*shape[:-2], 6, shape[-1])
    alone = hs.Incidence([], 3)
    assert torch.equal(hs.conv(torch.randn(2, 3, 4), alone), torch.zeros(2, 3, 4))
    assert hs.v2e(torch.randn(2, 3, 4), alone).shape == (2, 0, 4)
    assert torch.equal(hs.e2v(torch.randn(2, 0, 4), alone), torch.zeros(2, 3, 4))


def test_a_padded_batch_of_no_instances_has_any_rows() -> None:
    batch = hs.Batch([hs.Incidence.pairs(4)], [])
    assert hs.conv(torch.randn(0, 3, 4), batch).shape == (0, 3, 4)


def test_more_instances_need_no_new_plan() -> None:
    topology = hs.Incidence.subsets(7, 3)
    w = torch.rand(35)
    hs.conv(torch.randn(3, 7, 24), topology, w)
    before = hs.cache_info()
    for lead in ((1,), (5,), (17, 3), (2, 2, 16)):
        hs.conv(torch.randn(*lead, 7, 24), topology, w)
    after = hs.cache_info()
    assert after.plans_built == before.plans_built and after.workspaces_built == before.workspaces_built
    hs.conv(torch.randn(1000, 7, 24), topology, w)
    hs.conv(torch.randn(900, 7, 24), topology, w)
    grown = hs.cache_info()
    assert grown.plans_built == before.plans_built
    assert grown.workspaces_built == before.workspaces_built + 1
    hs.conv(torch.randn(3, 7, 25), topology, w)
    assert hs.cache_info().plans_built == before.plans_built + 1


def test_the_same_structure_is_kept_once_and_as_long_as_somebody_has_it() -> None:
    gc.collect()
    before = hs.cache_info().structures
    a, b = hs.Incidence([[0, 1, 4], [2, 3]], 5), hs.Incidence.from_csr([0, 3, 5], [0, 1, 4, 2, 3], 5)
    assert a == b and hash(a) == hash(b) and a.fingerprint == b.fingerprint
    assert hs.cache_info().structures == before + 1
    c = pickle.loads(pickle.dumps(a))
    assert c == a and c.hyperedges() == [[0, 1, 4], [2, 3]] and hs.cache_info().structures == before + 1
    hs.conv(torch.randn(2, 5, 3), c)
    del a, b, c
    assert hs.cache_info().structures == before


def test_a_packed_tensor_of_another_process_works() -> None:
    x = torch.randn(2, 6, 4)
    topology = hs.Incidence([[0, 5], [1, 2, 3]], 6)
    wanted = hs.conv(x, topology)
    packed = topology.packed.clone()
    ones = torch.ones(2)
    del topology
    y = torch.ops.hyperscatter.conv(x, ones, packed, None, None, None, 0, 0, 0, 2, 0, False)
    assert torch.equal(y, wanted)
    _, batch = tables()
    again = pickle.loads(pickle.dumps(batch))
    assert again == batch and again.vertex_starts() == batch.vertex_starts()


def test_threads_have_no_part_in_results() -> None:
    topology = hs.Incidence.subsets(8, 3)
    x, w = torch.randn(300, 8, 64), (torch.rand(56) + 0.5).requires_grad_()
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            y = hs.conv(x, topology, w)
            results.append((y.detach(), torch.autograd.grad(y, w, x)[0]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for of in results[1:] for a, b in zip(results[0], of, strict=True))


def test_an_explanation_names_the_path() -> None:
    assert "dense" in hs.explain(hs.Incidence.pairs(8), 64, instances=100)
    assert "gather" in hs.explain(drawn(200, 90, 400), 64).lower()
    assert hs.explain(tables()[1], 16, dtype=torch.bfloat16)
    hs.check()


def test_gradients_are_zero_in_the_padding() -> None:
    instances, batch = tables()
    rows = batch.largest_vertices
    x = torch.randn(5, rows, 8, requires_grad=True)
    w = torch.rand(batch.n_hyperedges, requires_grad=True)
    residual = torch.randn(5, rows, 8, requires_grad=True)
    leaves = x, residual
    calls = [
        lambda: hs.conv(x, batch, w, residual=residual),
        lambda: hs.conv(x, batch, w, residual=residual, activation="silu", readout="mean"),
        lambda: hs.v2e(x, batch) + 0 * residual.sum(),
        lambda: hs.gram(x, batch) + 0 * residual.sum(),
    ]
    for call in calls:
        for _ in range(3):
            y = call()
            # What memory that is used again holds.
            torch.full((5, rows, 8), float("nan"))
            for gradient in torch.autograd.grad(y.square().sum(), leaves):
                for of, topology in zip(gradient, instances, strict=True):
                    padding = of[topology.n_vertices :]
                    assert torch.equal(padding, torch.zeros_like(padding))


def test_weights_and_biases_may_have_any_strides() -> None:
    topology = hs.Incidence.subsets(5, 3)
    x, two = torch.randn(3, 5, 8), torch.rand(20) + 0.5
    bias = torch.randn(16)
    for given in (bias[::2], bias[:1].expand(8)):
        leaf = given.detach().requires_grad_()
        y = hs.conv(x, topology, two[::2], bias=leaf)
        assert torch.equal(y, hs.conv(x, topology, two[::2].clone(), bias=given.clone()))
        (gradient,) = torch.autograd.grad(y.sum(), leaf)
        assert torch.allclose(gradient, torch.full((8,), 15.0))
    windows = hs.Windows([0, 2, 4])
    strided = (torch.rand(28) + 0.5)[::2]
    assert torch.equal(
        hs.conv(x, topology, strided, windows=windows), hs.conv(x, topology, strided.clone(), windows=windows)
    )
    own = (torch.rand(10, 3) + 0.5).t().requires_grad_()
    (gradient,) = torch.autograd.grad(hs.conv(x, topology, own).square().sum(), own)
    same = own.detach().contiguous().requires_grad_()
    assert torch.equal(gradient, torch.autograd.grad(hs.conv(x, topology, same).square().sum(), same)[0])


def test_tables_of_windows_live_as_long_as_calls() -> None:
    topology = hs.Incidence.pairs(4)
    x, w = torch.randn(500, 4, 32), torch.rand(100)
    fixed = hs.Windows([3] * 500)
    wanted = hs.conv(x, topology, w, windows=fixed)
    failures: list[object] = []

    def work(make: bool) -> None:
        try:
            for i in range(150):
                windows = hs.Windows([i % 90] * 500) if make else fixed
                y = hs.conv(x, topology, w, windows=windows)
                if not make and not torch.equal(y, wanted):
                    failures.append(i)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(make,)) for make in (True, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_structure_belongs_to_no_mode() -> None:
    with torch.inference_mode():
        topology, windows = hs.Incidence([[0, 1], [1, 2]], 3), hs.Windows([0, 1])
    x, w = torch.randn(2, 3, 4, requires_grad=True), torch.rand(3, requires_grad=True)
    hs.conv(x, topology, w, windows=windows).sum().backward()
    with torch.inference_mode():
        hs.conv(x, topology)
    hs.conv(x, topology).sum().backward()
    with torch.device("meta"):
        assert hs.Incidence.pairs(5).packed.device.type == "cpu"
        assert pickle.loads(pickle.dumps(topology)) == topology
    ours = topology.edge_vertices
    ours[0] = 2
    assert hs.Incidence([[0, 1], [1, 2]], 3).hyperedges() == [[0, 1], [1, 2]]


def test_arguments_may_be_named() -> None:
    topology = hs.Incidence.pairs(4)
    x = torch.randn(2, 4, 8)
    assert torch.equal(hs.conv(x=x, topology=topology), hs.conv(x, topology))


def test_nothing_of_a_mode_stays() -> None:
    topology, x = hs.Incidence([[0, 1], [1, 2, 3]], 4), torch.randn(2, 4, 5)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = hs.conv(mode.from_tensor(x), topology)
        assert isinstance(y, FakeTensor) and y.shape == x.shape
        index = torch.tensor([[0, 1, 1, 2, 3], [0, 0, 1, 1, 1]])
        with pytest.raises(hs.Error, match="FakeTensor has no values"):
            hs.Incidence.from_hyperedge_index(index)
        inside = hs.Incidence(topology.hyperedges(), 4)
        batch, windows = hs.Batch([inside, topology], [0, 1]), hs.Windows([0, 2])
        assert type(inside.edge_ptr) is type(inside.edge_vertices) is type(windows.offsets) is Tensor
        for pickled in map(pickle.dumps, (topology, batch, windows)):
            with pytest.raises(hs.Error, match="FakeTensor has no values"):
                pickle.loads(pickled)
    assert inside.fingerprint == topology.fingerprint
    index = torch.stack([topology.edge_vertices, torch.tensor([0, 0, 1, 1, 1])])
    with FakeTensorMode():
        assert hs.Incidence.from_hyperedge_index(index).fingerprint == topology.fingerprint
    y = hs.conv(x, topology)
    assert type(y) is Tensor and torch.equal(y, hs.conv(x, topology, torch.ones(2)))
    assert torch.equal(y.flatten(0, 1), hs.conv(x.flatten(0, 1), batch, torch.ones(4), windows=windows))
    with torch.inference_mode():
        copies = (
            copy.deepcopy(topology),
            copy.deepcopy(hs.Batch([topology] * 2)),
            copy.deepcopy(hs.Windows([0, 1])),
        )
    leaf, w = x.clone().requires_grad_(), torch.rand(3)
    hs.conv(leaf, copies[0], w[:2]).sum().backward()
    hs.conv(leaf, copies[1], w[:2]).sum().backward()
    hs.conv(leaf, copies[0], w, windows=copies[2]).sum().backward()


def test_a_structure_is_not_written() -> None:
    topology = hs.Incidence([[0, 1], [4, 2, 3]], 5)
    topology.edge_vertices[0] = 3
    topology.edge_ptr[1] = 5
    assert topology.hyperedges() == [[0, 1], [4, 2, 3]]
    packed = topology.packed.clone()
    packed[-1] = 0
    del topology
    with pytest.raises(hs.Error, match="fingerprint"):
        torch.ops.hyperscatter.v2e(torch.randn(2, 5, 3), packed, None, None, False, 2)


def test_a_workspace_that_panicked_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    topology, x = hs.Incidence([[0, 1], [0, 2, 3]], 4), torch.randn(2, 4, 3)
    hs.conv(x, topology)
    before = hs.cache_info().workspaces_built
    real = _calls.lib
    for status, built in ((real.HS_ERROR_NEGATIVE_DEGREE, 0), (real.HS_ERROR_PANIC, 1)):
        planted = MagicMock(wraps=real, HS_CONV=real.HS_CONV, HS_IDENTITY=real.HS_IDENTITY)
        planted.HS_WINDOWS_SHARED, planted.HS_OVERWRITE = real.HS_WINDOWS_SHARED, real.HS_OVERWRITE
        planted.hs_conv = lambda *_, status=status: status
        with monkeypatch.context() as patch, pytest.raises(hs.Error):
            patch.setattr(_calls, "lib", planted)
            hs.conv(x, topology)
        hs.conv(x, topology)
        assert hs.cache_info().workspaces_built == before + built


def test_shapes_of_a_meta_tensor() -> None:
    x = torch.empty(2, 4, 3, device="meta")
    assert hs.conv(x, hs.Incidence.pairs(4), residual=x).shape == x.shape
    layer = hs.HypergraphConv(3, 3, hs.Incidence.pairs(4), "learned", residual=True, device="meta")
    assert layer(x).shape == x.shape
