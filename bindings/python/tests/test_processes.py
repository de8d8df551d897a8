"""Processes that are forked, and threads."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

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
        x = torch.randn(200, 6, 32, generator=generator, requires_grad=True)
        w = torch.ones(15, requires_grad=True)
        y = hs.conv(x, TOPOLOGY, w)
        return torch.autograd.grad(y.square().sum(), w)[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_worker_does_not_hang() -> None:
    wanted = [Convolved()[i] for i in range(6)]  # threads of the parent are running now
    loader = DataLoader(Convolved(), num_workers=2, multiprocessing_context="fork", timeout=60)
    for got, want in zip(loader, wanted, strict=True):
        assert torch.equal(got[0], want)
    # And the parent goes on.
    assert torch.equal(Convolved()[0], wanted[0])


def test_the_library_follows_the_number_of_threads() -> None:
    from hyperscatter._library import lib

    threads = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            hs.conv(torch.randn(3, 6, 8), TOPOLOGY)
            assert lib.hs_num_threads() == n
    finally:
        torch.set_num_threads(threads)


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
