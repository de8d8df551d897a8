"""Processes that are forked, and threads."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import hyperscatter as hs

TOPOLOGY = hs.Incidence.pairs(6)


class Convolved(Dataset[Tensor]):
    """Convolves in the worker, forward and backward."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        # So few that PyTorch's own threads, which hang in a forked process, are not asked.
        x = torch.randn(200, 6, 16, generator=generator, requires_grad=True)
        w = torch.ones(15, requires_grad=True)
        y = hs.conv(x, TOPOLOGY, w)
        return torch.autograd.grad(y.square().sum(), w)[0]


def with_two_threads(_worker: int) -> None:
    """With one, which workers have by default, calls start no threads."""
    torch.set_num_threads(2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("threads", ["one", "two"])
def test_a_forked_worker_does_not_hang(threads: str) -> None:
    """In a process of its own: where there were tensors of a device, or fake ones, PyTorch refuses to
    differentiate in a fork."""
    ended = subprocess.run([sys.executable, __file__, threads], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0 and ended.stdout == "forked\n", ended.stdout + ended.stderr


def fork_and_convolve(begin: Callable[[int], None] | None) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        wanted = [Convolved()[i] for i in range(6)]  # threads of the parent are running now
    finally:
        torch.set_num_threads(threads)
    loader = DataLoader(
        Convolved(), num_workers=2, multiprocessing_context="fork", timeout=60, worker_init_fn=begin
    )
    for got, want in zip(loader, wanted, strict=True):
        assert torch.equal(got[0], want)
    # And the parent goes on.
    assert torch.equal(Convolved()[0], wanted[0])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="nothing tells which threads there are")
def test_the_library_follows_the_number_of_threads() -> None:
    """In a process of its own, where nothing has begun threads."""
    program = """
        import time, torch, hyperscatter as hs
        from pathlib import Path
        topology = hs.Incidence.pairs(6)
        for threads, instances in [(1, 3), (1, 3000), (3, 3), (3, 3000), (2, 3000)]:
            torch.set_num_threads(threads)
            hs.conv(torch.randn(instances, 6, 8), topology)
            time.sleep(0.5)  # a thread names itself, once it runs
            names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
            print(sum(name.startswith("hyperscatter-") for name in names))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    # A workspace on several threads starts them; a number is kept for calls to come.
    assert ended.stdout.split() == ["0", "0", "3", "3", "5"]


def test_a_process_ends_quietly() -> None:
    program = """
        import torch, hyperscatter as hs
        x = torch.randn(100, 6, 8, requires_grad=True)
        topology = hs.Incidence.pairs(6)
        y = hs.conv(x, topology)
        y.sum().backward()
        print(tuple(x.grad.shape))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (ended.stdout, ended.stderr) == ("(100, 6, 8)\n", "")


if __name__ == "__main__":
    fork_and_convolve(with_two_threads if sys.argv[1] == "two" else None)
    print("forked")
