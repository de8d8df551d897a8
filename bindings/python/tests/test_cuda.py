"""CUDA: calls with the emulated driver, and with the real one where there is a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hyperscatter as hs

EMULATOR = "HYPERSCATTER_EMULATOR"


def test_calls_on_the_emulated_device_have_the_bits_of_the_cpu(tmp_path: Path) -> None:
    if EMULATOR not in os.environ:
        pytest.skip(f"{EMULATOR} is not set: the path of libhyperscatter_emulator.so, which cargo builds")
    (tmp_path / "libcuda.so").symlink_to(Path(os.environ[EMULATOR]).resolve(strict=True))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "HYPERSCATTER_EMULATOR_DEVICES": "1"}
    program = Path(__file__).with_name("emulated.py")
    command = [sys.executable, str(program)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540)
    assert ended.returncode == 0 and ended.stdout.endswith("done\n"), ended.stdout + ended.stderr


needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_a_device_has_the_bits_of_the_cpu(dtype: torch.dtype) -> None:
    topology = hs.Incidence.subsets(8, 3)
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        x = torch.randn(64, 8, 32).to(dtype).to(device).requires_grad_()
        w = torch.rand(56, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        w = w.to(device).requires_grad_()
        y = hs.conv(x, topology, w, activation="gelu")
        results.append([t.cpu() for t in (y, *torch.autograd.grad(y.square().sum(), [x, w]))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_layers_in_one_pass_are_near_those_of_the_cpu(dtype: torch.dtype) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs compute capability 8.0")
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        layer = hs.HypergraphConv(
            32, 64, hs.Incidence.subsets(8, 3), "softplus", activation="relu", precision="three_bf16"
        )
        layer, x = layer.to(device), torch.randn(64, 8, 32).to(device).requires_grad_()
        names = []
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            y = layer(x)
            of = y.grad_fn
            while of is not None and not names:
                names = [of.name()] if "layer" in of.name() else []
                of = of.next_functions[0][0] if of.next_functions else None
        assert bool(names) == (device == "cuda"), "in one pass, or not"
        gradients = torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])
        results.append([t.float().cpu() for t in (y, *gradients)])
    bound = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    for on_cpu, on_device in zip(*results, strict=True):
        assert (on_cpu - on_device).abs().max() <= bound * on_cpu.abs().max()


@needs_device
def test_a_graph_replays_a_training_step() -> None:
    layer = hs.HypergraphConv(32, 32, hs.Incidence.pairs(8), "softplus", activation="relu").cuda()
    x = torch.randn(64, 8, 32, device="cuda")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = layer(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    state = {name: t.clone() for name, t in layer.named_parameters()}
    graph.replay()
    replayed = loss.item(), {name: t.clone() for name, t in layer.named_parameters()}
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(state[name])
    wanted = step().item()
    assert replayed[0] == wanted
    assert all(torch.equal(t, replayed[1][name]) for name, t in layer.named_parameters())


@needs_device
def test_streams_and_threads_of_autograd() -> None:
    topology = hs.Incidence.pairs(8)
    x = torch.randn(512, 8, 64, device="cuda", requires_grad=True)
    wanted = torch.autograd.grad(hs.conv(x, topology).square().sum(), x)[0]
    streams = [torch.cuda.Stream() for _ in range(3)]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            got = torch.autograd.grad(hs.conv(x, topology).square().sum(), x)[0]
        torch.cuda.current_stream().wait_stream(stream)
        assert torch.equal(got, wanted)
