"""What a call costs on the host: the forward of a tiny hypergraph on the CPU, where there is hardly any work.

    python host_cost.py

Medians of many calls on one thread, in microseconds, without and with a graph for gradients. Beside them
stand an operator that PyTorch has itself, and one of Python that does nothing but allocate its result,
registered with torch.library: the least that any such package pays. All take turns. The last line says how
often a call of `hs.conv` waited for another thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from datetime import date
from statistics import median, quantiles
from typing import Any

import torch
from coupled_experts.costs import processor
from torch import Tensor

import hyperscatter as hs

TURNS = 20
OURS = "`hs.conv`"

_LIBRARY = torch.library.Library("host_cost", "DEF")
_LIBRARY.define("empty(Tensor x, Tensor w) -> Tensor")


def _empty(x: Tensor, w: Tensor) -> Tensor:
    return torch.empty_like(x)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> Any:
    x, w = ctx.saved_tensors
    return torch.empty_like(x), torch.empty_like(w)


_LIBRARY.impl("empty", _empty, "CPU")
torch.library.register_autograd("host_cost::empty", _backward, setup_context=_setup, lib=_LIBRARY)


def microseconds(function: Callable[[], object], calls: int) -> list[float]:
    """What each call took, behind a few that are not counted."""
    for _ in range(3 + calls // 10):
        function()
    times = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        function()
        times.append((time.perf_counter_ns() - start) / 1000)
    return times


def functions(experts: int, features: int, gradients: bool) -> dict[str, Callable[[], object]]:
    """What is called, by its name in the table."""
    pairs = hs.Incidence.pairs(experts)
    x = torch.randn(1, experts, features, requires_grad=gradients)
    w = torch.ones(pairs.n_hyperedges, requires_grad=gradients)
    m = hs.operator(pairs, w.detach()).requires_grad_(gradients)
    return {
        OURS: lambda: hs.conv(x, pairs, w),
        "an empty operator of Python": lambda: torch.ops.host_cost.empty(x, w),
        "`torch.matmul`": lambda: torch.matmul(m, x),
    }


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--features", type=int, default=4)
    arguments = parser.parse_args(given)
    if arguments.calls < TURNS:
        parser.error(f"argument --calls: {arguments.calls} are fewer than the {TURNS} turns")
    torch.set_num_threads(1)
    print(
        f"{date.today()}, {processor(torch.device('cpu'))}, one thread, load {os.getloadavg()[0]:.1f}, ",
        end="",
    )
    print(f"torch {torch.__version__}, Python {platform.python_version()}")
    print(
        f"{arguments.experts} experts, {arguments.features} features; us, the median of {arguments.calls:,}"
    )
    print("calls, and a tenth and nine tenths of them\n")
    print("| | without a graph | with one |\n|---|---|---|")
    both = [functions(arguments.experts, arguments.features, gradients) for gradients in (False, True)]
    times: dict[str, list[list[float]]] = {name: [[], []] for name in both[0]}
    switches = 0
    for _ in range(TURNS):
        for name, of_name in times.items():
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            for kept, of_kind in zip(of_name, both, strict=True):
                kept += microseconds(of_kind[name], arguments.calls // TURNS)
            if name == OURS:
                switches += resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
    for name, of_name in times.items():
        tenths = [quantiles(kept, n=10) for kept in of_name]
        cells = [
            f"{median(kept):.0f} ({t[0]:.0f} to {t[-1]:.0f})" for kept, t in zip(of_name, tenths, strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    # A tenth of the calls, and three a turn, were not counted above.
    calls = 2 * TURNS * (3 + arguments.calls // TURNS // 10 + arguments.calls // TURNS)
    print(f"\n{switches / calls:.1f} voluntary context switches in a call of {OURS}")


if __name__ == "__main__":
    main()
