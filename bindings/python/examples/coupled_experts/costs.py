"""What a step of training costs under each coupling, as a table.

    python -m coupled_experts.costs --experts 2 4 8 16 --subsets 2 3 --threads 1

On the CPU these are milliseconds of processor time, of all threads together, which other programs do not
change much; on a device, milliseconds that went by. A cell is the fastest of the steps that --seconds allow,
behind one that is not counted. Where PyTorch Geometric would need more than --gigabytes, fewer sequences are
measured and multiplied, and the cell is marked.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import date
from math import comb
from pathlib import Path

import torch

from .arguments import add_model, count, new_parser, parse, shape_of
from .couplers import COUPLINGS
from .model import Shape
from .text import Text
from .training import new_model, train

ROWS_OF_A_LAYER, ROWS_OF_A_STEP = 1.4, 3.1
"""How many rows of features PyTorch Geometric holds for each incidence: of each layer, until its backward,
and besides while a layer runs. From the peak of a process with 16 experts and triples, which was 4.5 rows
with one layer and 5.9 with two."""


def processor(device: torch.device) -> str:
    """The name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def gigabytes(shape: Shape, sequences: int) -> float:
    """What a step of PyTorch Geometric takes at most, roughly."""
    incidences = sequences * shape.length * comb(shape.experts, shape.subsets) * shape.subsets
    rows = (ROWS_OF_A_STEP + ROWS_OF_A_LAYER * shape.layers) * incidences
    return rows * shape.width * torch.float32.itemsize / 1e9


def memory(device: torch.device) -> float:
    """Gigabytes that a step may take: what is free on a device, and a quarter of the machine's own."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e9
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4e9


def while_there_is_time(steps: int, seconds: float) -> Iterator[int]:
    """Numbers of steps: one, and more until that time is over."""
    end = time.perf_counter() + seconds
    for step in range(steps):
        yield step
        if time.perf_counter() > end:
            return


def measured(
    shape: Shape, text: Text, device: torch.device, seed: int, sequences: int, steps: int, seconds: float
) -> float:
    """Milliseconds of a step."""
    model = new_model(shape, text, device, seed)
    # What is built once. A loop builds the same for few tokens, and takes long for many.
    train(model, text, shape, range(1), sequences=1 if shape.coupling == "loop" else sequences)
    curves = train(model, text, shape, while_there_is_time(steps, seconds), sequences=sequences)
    return 1000 * min(curves.processor_seconds if device.type == "cpu" else curves.seconds)


def main(given: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--couplings", nargs="+", default=list(COUPLINGS), choices=COUPLINGS)
    parser.add_argument("--steps", type=count, default=5, help="measured of each cell at most")
    parser.add_argument("--seconds", type=float, default=15, help="after which no cell begins another step")
    parser.add_argument(
        "--gigabytes", type=float, help="a quarter of the memory by default, or what a device has free"
    )
    add_model(parser, several=True)
    arguments = parse(parser, given)
    cases = [(e, k) for k in arguments.subsets for e in arguments.experts if e >= k]
    if not cases:
        k = min(arguments.subsets)
        parser.error(f"argument --subsets: {max(arguments.experts)} experts have none of {k}")
    text, device, sequences = Text.read(), torch.device(arguments.device), arguments.sequences
    most = memory(device) if arguments.gigabytes is None else arguments.gigabytes
    command = ["python", "-m", "coupled_experts.costs", *(sys.argv[1:] if given is None else given)]
    print(
        f"{shlex.join(command)}\n{date.today()}, {processor(device)}, threads {arguments.threads}, ", end=""
    )
    print(
        f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}; {sequences * arguments.length:,} tokens"
    )
    print(f"milliseconds of {'processor time' if device.type == 'cpu' else 'a step'}\n")
    print(f"| experts | hyperedges | {' | '.join(f'`{kind}`' for kind in arguments.couplings)} |")
    print("|---|---|" + "---|" * len(arguments.couplings), flush=True)
    notes = []
    for experts, subsets in cases:
        m = comb(experts, subsets)
        cells = []
        for kind in arguments.couplings:
            shape = shape_of(arguments, experts=experts, subsets=subsets, coupling=kind)
            needed = gigabytes(shape, sequences) if kind == "pyg" else 0
            few = sequences if needed <= most else max(1, int(sequences * most / needed))
            taken = measured(shape, text, device, arguments.seed, few, arguments.steps, arguments.seconds)
            cells.append(f"{'' if few == sequences else '~ '}{taken * sequences / few:,.0f}")
            if few < sequences:
                notes.append(f"{few} of {sequences} sequences, multiplied: all need about {needed:.0f} GB")
        name = ("pair" if subsets == 2 else "triple") + "s" * (m > 1)
        print(f"| {experts} | {m} {name} | {' | '.join(cells)} |", flush=True)
    for note in notes:
        print(f"\n~ measured with {note}")
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
