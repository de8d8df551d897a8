#!/usr/bin/env python3
"""The hypergraph convolution y = D⁻¹ H W B⁻¹ Hᵀ x, beside what PyTorch users have.

    python3 benches/peers/peers.py                              # on the CPU, sizes for it
    python3 benches/peers/peers.py --device cuda --out FOLDER   # on a GPU
    python3 benches/peers/peers.py --only A,L8 FILE...          # some cases, and hypergraphs of files
    python3 benches/peers/peers.py --device cuda --only L4,L8,L16 --features 64,128,256,512

Needs the Python package (bindings/python) and torch. PyTorch Geometric and DHG take part where they are
installed; what cannot take part stays in the tables, with the reason.

Operators: A, 24,576 x (8 vertices, 28 pairs), 256 features (A64: 64). B, 24,576 x (16 vertices, 560 triples),
256. C, one hypergraph of Cora's size, a power law, 256. D, 10⁶ x 10⁶ with 10⁸ incidences, a power law, 64.
Files: safetensors with the integers n_vertices, edge_ptr, edge_vertices; 256. Layers, relu(conv(x Θ) + b),
with a step of plain gradient descent behind the backward: L8, 24,576 x (8, 28 pairs), L16, 12,288 x (16, 120
pairs), and where it is asked for L4, 49,152 x (4, 6 pairs). They have 256 inputs and outputs, or each number
of `--features`, which names them: L8-64. Beside them is torch's Linear with its bias and ReLU alone.
`--scale` divides copies, and D's size.

Layers in one pass (`hyperscatter.layer`) take part on GPUs of compute capability 8.0 and newer, with up to
256 features of f32, multiplied as three products of bf16 or, in tf32, by TF32, and up to 512 of bf16 and f16.

All contestants get the same numbers. Each is compared with its own convention in float64, y and all
gradients, in the very calls that are timed, on few instances; then the last instance of all, y and the
gradients that it has to itself. One that disagrees is not timed, and fails the run. Only sums of bf16 in bf16
(or f16 in f16) may be inexact: they are timed, and marked. Then all take turns, round after round; times are
medians.

The exit code is 1 where a contestant disagrees, where hyperscatter has no time (but for layers in one pass
where there are none), and where the device failed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
# A few small kernels: starting processes that compile them takes longer than compiling.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch  # noqa: E402

import contestants  # noqa: E402
import tables  # noqa: E402
from cases import CASES, LAYER_FEATURES, Case, case_of_file  # noqa: E402
from contestants import Contestant  # noqa: E402
from measuring import Effort, Measurement, Row, first_line, keep_heap, release  # noqa: E402

DTYPES = {"cpu": ["f32", "bf16"], "cuda": ["f32", "tf32", "bf16"]}
# Besides, where they are asked for.
OTHER_DTYPES = ["f16"]


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return int(text)


def widths_of(text: str) -> list[int]:
    return list(dict.fromkeys(positive(width) for width in text.split(",")))


def words_of(text: str) -> list[str]:
    words = [word for word in text.split(",") if word]
    for word in words:
        if not any(word in label for label in contestants.labels()):
            raise argparse.ArgumentTypeError(f"no contestant's name has {word} in it")
    return words


def arguments_of(argv: list[str] | None) -> tuple[argparse.Namespace, list[Case]]:
    """And the cases that are asked for."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("files", nargs="*", type=Path, help="hypergraphs, safetensors")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", help="cases, such as A,B; none with files alone")
    parser.add_argument(
        "--contestants", type=words_of, help="only those whose names have one of these words, such as PyG,CSR"
    )
    parser.add_argument(
        "--without", type=words_of, default=[], help="those whose names have one of these words: compile"
    )
    parser.add_argument(
        "--features", type=widths_of, default=[LAYER_FEATURES], help="of layers, such as 64,128,256,512"
    )
    parser.add_argument("--dtypes", help="of f32, tf32 (CUDA), bf16 and f16; all but f16 by default")
    parser.add_argument("--scale", type=positive, help="1 on CUDA, and a case's own on the CPU")
    parser.add_argument("--seconds", type=float, default=15, help="of turns for each case and type, about")
    parser.add_argument("--rounds", type=positive, nargs=2, default=[3, 25], help="at least and at most")
    parser.add_argument("--budget", type=float, help="seconds behind which no case is begun")
    parser.add_argument("--threads", type=positive, help="of torch on the CPU")
    parser.add_argument("--out", type=Path, help="a folder for peers.json, peers.md and peers.svg")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device")
    there = [*DTYPES[arguments.device], *OTHER_DTYPES]
    arguments.dtypes = arguments.dtypes.split(",") if arguments.dtypes else DTYPES[arguments.device]
    if unknown := set(arguments.dtypes) - set(there):
        parser.error(f"no types {unknown} on {arguments.device}, but {', '.join(there)}")
    if arguments.rounds[0] > arguments.rounds[1]:
        parser.error("there are more rounds at least than at most")
    try:
        return arguments, cases_of(arguments)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    cases, names = [case for case in CASES if case.by_default], [case.name for case in CASES]
    if arguments.only or arguments.files:
        asked = {name for name in (arguments.only or "").split(",") if name}
        if unknown := asked - set(names):
            raise ValueError(f"no cases {unknown}, but {', '.join(names)}")
        cases = [case for case in CASES if case.name in asked]
    cases = [of for case in cases for of in of_widths(case, arguments.features)]
    names += [case.name for case in cases]
    for path in arguments.files:
        if path.stem in names:
            raise ValueError(f"{path}: there is a case of that name, {path.stem}")
        names.append(path.stem)
        cases.append(case_of_file(path))
    return cases


def of_widths(case: Case, features: list[int]) -> list[Case]:
    return [case.of_features(width) for width in features] if case.table == "layers" else [case]


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
        "load_after": os.getloadavg(),
        "arguments": asked,
    }


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Lets an allocation fail that would end this process."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        resource.setrlimit(resource.RLIMIT_DATA, (int(available * 1024 * 0.9), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def is_wrong(row: Row) -> bool:
    """A peer may fail; the package, and the copy that all are measured by, may not, but where what may be
    refused was. None may disagree."""
    name, status = row["contestant"], row["status"]
    if row["excused"]:
        return False
    if name.startswith(("hyperscatter", "copy")) and "[graph]" not in name:
        return status != "ok" or any("ms" not in measured for measured in row["passes"].values())
    return status.startswith(("DISAGREES", "fails") if name.startswith("hyperscatter") else "DISAGREES")


def taking_part(arguments: argparse.Namespace, case: Case, instances: int) -> list[type[Contestant]]:
    def is_asked_for(of: type[Contestant]) -> bool:
        wanted = arguments.contestants is None or any(word in of.label for word in arguments.contestants)
        return of.is_copy or (wanted and not any(word in of.label for word in arguments.without))

    return [of for of in contestants.contestants_of(case.table, instances) if is_asked_for(of)]


def main(argv: list[str] | None = None) -> int:
    arguments, cases = arguments_of(argv)
    if arguments.device == "cuda":
        return compare(arguments, cases)
    keep_heap()
    with limited_memory():
        return compare(arguments, cases)


def compare(arguments: argparse.Namespace, cases: list[Case]) -> int:
    begin = time.monotonic()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    gc.freeze()  # what was imported stays, and need not be looked at again
    told = about(arguments)
    print(told, flush=True)
    effort = Effort(arguments.seconds, *arguments.rounds, patience=8)
    rows: list[Row] = []
    notes: list[str] = []
    broke: str | None = None
    for case in cases:
        scale = arguments.scale or (1 if arguments.device == "cuda" else case.cpu_scale)
        hypergraph = None
        for dtype in arguments.dtypes:
            if broke:
                notes.append(f"NOT RUN: {case.name}, {dtype}, after {broke}")
                continue
            if arguments.budget and time.monotonic() - begin > arguments.budget:
                notes.append(f"LEFT OUT for want of time: {case.name}, {dtype}")
                continue
            new: list[Row] = []
            try:
                if hypergraph is None:
                    hypergraph, instances = case.at(scale)
                measurement = Measurement(case, hypergraph, instances, dtype, arguments.device, effort)
                new = measurement.run(taking_part(arguments, case, instances))
                broke = measurement.broke
                del measurement
                release()
            except Exception as error:
                broke = broke or first_line(error)
            if broke:
                notes.append(f"BROKE OFF: {case.name}, {dtype}: {broke}")
            print("\n".join(tables.case_table(new)), flush=True)
            print(f"({time.monotonic() - begin:.0f} s since the start)\n", flush=True)
            rows += new
            told["load_after"] = os.getloadavg()
            tables.save(arguments.out, told, rows, notes)
    tables.save(arguments.out, told, rows, notes)
    print("\n".join([*tables.summaries(rows), *notes]))
    for row in rows:
        if row["status"] == "inexact":
            print(f"INEXACT: {row['case']} {row['dtype']} {row['contestant']}")
    wrong = [row for row in rows if is_wrong(row)]
    for row in wrong:
        print(f"!!! {row['case']} {row['dtype']} {row['contestant']} {row['status']}")
    if broke:
        print(f"!!! the rest did not run, after {broke}")
    return 1 if wrong or broke else 0


if __name__ == "__main__":
    sys.exit(main())
