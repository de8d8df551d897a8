"""Compiled graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import hyperscatter as hs


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def test_one_graph_serves_all_numbers_of_instances() -> None:
    topology = hs.Incidence.subsets(6, 3)

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        z = hs.v2e(x.sin(), topology, reduce="mean", hyperedge_scale=w)
        y = hs.e2v(z, topology) + hs.conv(x, topology, w, bias=b, activation="gelu", residual=x)
        return y + hs.gram(x).mean() + hs.operator(topology, w).mean()

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    plans = None
    for lead in ((2, 4), (3, 5), (7, 2), (11, 9)):
        inputs = [torch.randn(*lead, 6, 8), torch.rand(20), torch.randn(8)]
        for each in inputs:
            each.requires_grad_()
        got, wanted = compiled(*inputs), function(*inputs)
        assert torch.equal(got, wanted)
        gradients = zip(
            torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(wanted.sum(), inputs), strict=True
        )
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in gradients)
        if plans is not None:
            assert hs.cache_info().plans_built == plans
        plans = hs.cache_info().plans_built
    assert counter.frame_count == 1


def test_inductor_compiles_a_layer_with_its_gradients() -> None:
    layer = hs.HypergraphConv(8, 8, hs.Incidence.pairs(4), "softplus", activation="relu", residual=True)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for tokens in (3, 8):
        x = torch.randn(2, tokens, 4, 8)
        wanted, got = layer(x), compiled(x)
        assert torch.allclose(got, wanted, atol=1e-6)
        gradients = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in (wanted, got)]
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_vertex_major_rows_are_compiled_in_place() -> None:
    topology = hs.Incidence.pairs(4)

    def function(x: Tensor) -> Tensor:
        return hs.conv(x.transpose(0, 1), topology)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (5, 9):
        x = torch.randn(4, tokens, 8)
        assert torch.equal(compiled(x), function(x)) and compiled(x).stride() == function(x).stride()


def test_a_graph_can_be_exported_and_run_without_the_object() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.topology = hs.Incidence.pairs(4)

        def forward(self, x: Tensor) -> Tensor:
            return hs.conv(x, self.topology)

    x = torch.randn(3, 4, 8)
    layer = Layer()
    wanted = layer(x)
    dynamic = {"x": {0: torch.export.Dim("tokens", min=2)}}
    program = torch.export.export(layer, (x,), dynamic_shapes=dynamic)
    del layer
    run = program.module()
    assert torch.equal(run(x), wanted)
    more = torch.randn(7, 4, 8)
    assert torch.equal(run(more), hs.conv(more, hs.Incidence.pairs(4)))
