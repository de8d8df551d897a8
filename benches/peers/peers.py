#!/usr/bin/env python3
"""The hypergraph convolution y = D⁻¹ H W B⁻¹ Hᵀ x, beside what PyTorch users have.

    python3 benches/peers/peers.py                              # on the CPU, sizes for it
    python3 benches/peers/peers.py --device cuda --out FOLDER   # on a GPU
    python3 benches/peers/peers.py --only A,L8 FILE...          # some cases, and hypergraphs of files

Needs the Python package (bindings/python) and torch. PyTorch Geometric and DHG take part where they are
installed; what cannot take part stays in the tables, with the reason.

Operators: A, 24,576 x (8 vertices, 28 pairs), 256 features (A64: 64). B, 24,576 x (16 vertices, 560 triples),
256. C, one hypergraph of Cora's size, a power law, 256. D, 10⁶ x 10⁶ with 10⁸ incidences, a power law, 64.
Files: safetensors with the integers n_vertices, edge_ptr, edge_vertices; 256. Layers, relu(conv(x Θ) + b),
with a step of plain gradient descent: L8, 24,576 x (8, 28 pairs), L16, 12,288 x (16, 120 pairs), 256.
`--scale` divides copies, and D's size.

All contestants get the same numbers. Each is compared with its own convention in float64, y and all
gradients, in the very calls that are timed, on few instances; then y of the last instance of all. One that
disagrees is not timed, and fails the run. Those that agree take turns, round after round; times are medians.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
# A few small kernels: starting processes that compile them takes longer than compiling.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch  # noqa: E402

import contestants  # noqa: E402
import tables  # noqa: E402
from cases import CASES, Case, case_of_file  # noqa: E402
from measuring import Effort, Measurement, Row, release  # noqa: E402

DTYPES = {"cpu": ["f32", "bf16"], "cuda": ["f32", "tf32", "bf16"]}


def arguments_of(argv: list[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("files", nargs="*", type=Path, help="hypergraphs, safetensors")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", help="cases, such as A,B; none with files alone")
    parser.add_argument(
        "--contestants", help="only those whose names have one of these words, such as PyG,CSR"
    )
    parser.add_argument("--without", help="those whose names have one of these words, such as compile")
    parser.add_argument("--dtypes", help="of f32, tf32 (CUDA) and bf16; all by default")
    parser.add_argument("--scale", type=int, help="1 on CUDA, and a case's own on the CPU")
    parser.add_argument("--seconds", type=float, default=15, help="of turns for each case and type, about")
    parser.add_argument("--rounds", type=int, nargs=2, default=[3, 25], help="at least and at most")
    parser.add_argument("--budget", type=float, help="seconds behind which no case is begun")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--out", type=Path, help="a folder for peers.json, peers.md and peers.svg")
    return parser.parse_args(argv)


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    cases = list(CASES)
    if arguments.only or arguments.files:
        names = (arguments.only or "").split(",")
        unknown = set(names) - {case.name for case in CASES} - {""}
        if unknown:
            raise SystemExit(f"no cases {unknown}, but {', '.join(case.name for case in CASES)}")
        cases = [case for case in CASES if case.name in names]
    return cases + [case_of_file(path) for path in arguments.files]


def has_one(text: str, words: list[str]) -> bool:
    return any(word in text for word in words)


def version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Of the repository, or of the packed folder, that this program is in."""
    folder = Path(__file__).resolve().parent
    packed = folder.parent / "COMMIT"
    if packed.exists():
        return packed.read_text().strip()
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty"]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return told.stdout.strip() or None


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.machine()


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where this runs."""
    names = ["torch", "torch_geometric", "dhg", "hyperscatter"]
    asked = {name: value for name, value in vars(arguments).items() if value is not None and name != "out"}
    asked["files"] = [path.name for path in arguments.files]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if arguments.device == "cuda" else None,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
        "load_before": os.getloadavg(),
        "arguments": asked,
    }


def limit_memory() -> None:
    """Lets an allocation fail that would end this process."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (int(available * 1024 * 0.9), hard))
    except (OSError, StopIteration, ValueError):
        pass


def is_wrong(row: Row) -> bool:
    """A peer may fail, the package may not; neither may disagree."""
    ours = row["contestant"].startswith("hyperscatter")
    return row["status"].startswith(("DISAGREES", "fails") if ours else "DISAGREES")


def main(argv: list[str] | None = None) -> int:
    arguments = arguments_of(argv)
    begin = time.monotonic()
    cuda = arguments.device == "cuda"
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if not cuda:
        limit_memory()
    gc.freeze()  # what was imported stays, and need not be looked at again
    told = about(arguments)
    print(told, flush=True)
    effort = Effort(arguments.seconds, *arguments.rounds, patience=8)
    dtypes = arguments.dtypes.split(",") if arguments.dtypes else DTYPES[arguments.device]
    rows: list[Row] = []
    notes: list[str] = []
    for case in cases_of(arguments):
        scale = arguments.scale or (1 if cuda else case.cpu_scale)
        for dtype in dtypes:
            if arguments.budget and time.monotonic() - begin > arguments.budget:
                notes.append(f"LEFT OUT for want of time: {case.name}, {dtype}")
                continue
            measurement = Measurement(case, scale, dtype, arguments.device, effort)
            everyone = contestants.contestants_of(case.table, measurement.instances)
            if arguments.contestants:
                words = arguments.contestants.split(",")
                everyone = [of for of in everyone if of.is_copy or has_one(of.label, words)]
            if arguments.without:
                words = arguments.without.split(",")
                everyone = [of for of in everyone if of.is_copy or not has_one(of.label, words)]
            new = measurement.run(everyone)
            del measurement
            release()
            rows += new
            print("\n".join(tables.case_table(new)), flush=True)
            print(f"({time.monotonic() - begin:.0f} s since the start)\n", flush=True)
            told["load_after"] = os.getloadavg()
            tables.save(arguments.out, told, rows, notes)
    print("\n".join([*tables.summaries(rows), *notes]))
    wrong = [row for row in rows if is_wrong(row)]
    for row in wrong:
        print(f"!!! {row['case']} {row['dtype']} {row['contestant']} {row['status']}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
