"""Whether contestants agree with float64, and how long they take, turn by turn."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import statistics
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cases import Case, Hypergraph, Problem
from contestants import Call, Contestant, Layer

# ‖y − y₆₄‖ / ‖y₆₄‖, and the same of gradients.
TOLERANCE = {"f32": 2e-5, "tf32": 1e-2, "bf16": 3e-2}
# Instances that are compared with float64, gradients included.
CHECKED_INSTANCES = 16
# Nearer to 0 than that before ReLU, rounding may decide what is 0: no gradient enters there.
RELU_MARGIN = 0.1

Row = dict[str, Any]


@dataclass
class Effort:
    """How long to measure: so many seconds a case and type, and so many rounds at least and at most."""

    seconds: float
    fewest: int
    most: int
    patience: float
    """A call that takes longer, in seconds, is made once."""


# -------------------------------------------------------------------------------------------------- machinery


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "insufficient_resources", "alloc_failed", "bad_alloc")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in signs)


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def release() -> None:
    """Gives memory back that nobody uses."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    else:
        trim_heap()


def trim_heap() -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class Memory:
    """Bytes in use now, and the most since `begin`: what torch has given out of a device and what others have
    taken of it; on Linux the resident memory of this process. None where neither is known."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def _status(self, name: str) -> int | None:
        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return None

    def now(self) -> int | None:
        if not self.cuda:
            return self._status("VmRSS")
        free, whole = torch.cuda.mem_get_info()
        return torch.cuda.memory_allocated() + whole - free - torch.cuda.memory_reserved()

    def begin(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        trim_heap()
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.before = self.now()
        except OSError:
            self.before = None

    def peak(self) -> int | None:
        """The most above what there was when it began."""
        if self.before is None:
            return None
        most = torch.cuda.max_memory_allocated() if self.cuda else self._status("VmHWM")
        return None if most is None else max(most - self.before, 0)


# ----------------------------------------------------------------------------------------------------- right?


def relative(got: Tensor, wanted: Tensor) -> float:
    norm = wanted.norm().item()
    return (got.double() - wanted).norm().item() / (norm or 1.0)


def errors_of(c: Contestant, p: Problem) -> dict[str, float]:
    """Of y and all gradients against float64, for the very calls that are timed."""
    x, g = p.rows(3), p.rows(4)
    x64 = x.double().requires_grad_()
    wide = {name: leaf.detach().double().requires_grad_() for name, leaf in c.parameters.items()}
    if isinstance(c, Layer):
        pre = c.before_relu(x64, wide)
        g = g * (pre.detach().abs() > RELU_MARGIN)
        y64 = torch.relu(pre)
    else:
        y64 = c.expected(x64, wide)
    calls = c.bind([c.take(x).detach().requires_grad_()], [c.take(g)])
    y = calls["forward"](0)
    errors = {"y": relative(c.give(y), y64.detach())}
    if "both" in calls:
        y, gradients = calls["both"](0)
        wanted = torch.autograd.grad(y64, [x64, *wide.values()], g.double())
        errors["y, both"] = relative(c.give(y.detach()), y64.detach())
        got = [c.give(gradients[0]), *gradients[1:]]
        for name, have, want in zip(["∂x", *(f"∂{name}" for name in wide)], got, wanted, strict=True):
            errors[name] = relative(have, want)
    return errors


def last_instance(c: Contestant, y: Tensor, x: Tensor) -> float:
    """Of the last instance of what is timed."""
    one = c.on(c.p.of(1))
    wide = {}
    for name, leaf in c.parameters.items():
        leaf = leaf.detach().double()
        wide[name] = leaf[-1] if leaf.shape == (c.p.G, c.p.m) else leaf
    wanted = one.expected(c.give(x.detach())[-1:].double(), wide)
    return relative(c.give(y)[-1:], wanted)


# ------------------------------------------------------------------------------------------------------ times


@dataclass
class Entry:
    """A contestant that takes part, its calls and their laps."""

    contestant: Contestant
    row: Row
    calls: dict[str, Call]
    inner: dict[str, int] = field(default_factory=dict)
    estimate: dict[str, float] = field(default_factory=dict)
    laps: dict[str, list[float]] = field(default_factory=dict)
    count: int = 0

    def lap(self, name: str, inner: int, device: str) -> float:
        """Seconds of a call, over `inner` calls with one input after another."""
        call = self.calls[name]
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
        else:
            begin = time.perf_counter()
        for _ in range(inner):
            call(self.count)
            self.count += 1
        if device == "cuda":
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1e3 / inner
        return (time.perf_counter() - begin) / inner


class Measurement:
    """A case in one type: all contestants are checked, then those that agree take turns."""

    def __init__(self, case: Case, scale: int, dtype: str, device: str, effort: Effort) -> None:
        self.case, self.dtype, self.device, self.effort = case, dtype, device, effort
        self.hypergraph, self.instances = hypergraph_of(case, scale)
        self.memory = Memory(device)
        self.inputs: dict[tuple[int, str], Any] = {}

    def problem(self, instances: int) -> Problem:
        return Problem(self.hypergraph, instances, self.case.features, self.dtype, self.device)

    def run(self, contestants: list[type[Contestant]]) -> list[Row]:
        torch.backends.cuda.matmul.allow_tf32 = self.dtype != "f32"
        rows, agreed = [], []
        small = self.problem(min(self.instances, CHECKED_INSTANCES))
        for of in contestants:
            if self.dtype == "tf32" and "tf32" not in of.dtypes and not of.is_copy:
                continue  # no f32 product in it: the row would be that of f32
            row = self.row(of)
            rows.append(row)
            begin = time.perf_counter()
            self.check(of, small, row)
            took = time.perf_counter() - begin
            told = f"{row['case']} {self.dtype} {of.label}: {row['status']}"
            print(f"{told} (checked in {took:.0f} s)", flush=True)
            if row["status"] == "ok":
                agreed.append((of, row))
        del small
        release()
        entries = [entry for of, row in agreed if (entry := self.enter(of, row))]
        self.take_turns(entries)
        self.finish(entries, rows)
        return rows

    def row(self, of: type[Contestant]) -> Row:
        h = self.hypergraph
        return {
            "table": self.case.table,
            "case": self.case.name,
            "vertices": h.n,
            "hyperedges": h.m,
            "incidences": h.nnz,
            "features": self.case.features,
            "dtype": self.dtype,
            "contestant": of.label,
            "convention": of.convention,
            "reads": of.reads,
            "note": of.note,
            "instances": self.instances,
            "measured_instances": self.instances,
            "status": "ok",
            "errors": {},
            "passes": {},
        }

    def fail(self, row: Row, error: Exception, when: str) -> None:
        if is_out_of_memory(error):
            row["status"] = f"out of memory ({when})"
        elif isinstance(error, NotImplementedError):
            row["status"] = f"cannot: {first_line(error)}"
        else:
            traceback.print_exception(error, limit=-6)
            row["status"] = f"fails: {first_line(error)} ({when})"
        if self.device == "cuda":
            # A broken context fails here, and all that would come behind.
            synchronize(self.device)

    def check(self, of: type[Contestant], p: Problem, row: Row) -> None:
        refused = of.refuses(p.of(self.instances))
        if refused is None and self.dtype not in (*of.dtypes, "tf32"):
            refused = f"has no {self.dtype}"
        if refused is not None:
            row["status"] = f"cannot: {refused}"
            return
        try:
            row["errors"] = errors_of(of(p), p)
            self.judge(of, row)
        except Exception as error:
            self.fail(row, error, "in the check")
        release()

    def judge(self, of: type[Contestant], row: Row) -> None:
        """NaN does not agree."""
        tolerance = TOLERANCE[self.dtype]
        if of.sums_in_dtype and self.dtype == "bf16":
            tolerance = math.inf
        if not all(error <= tolerance for error in row["errors"].values()):
            errors = ", ".join(f"{name} {error:.1e}" for name, error in row["errors"].items())
            row["status"] = f"DISAGREES with float64: {errors}; allowed are {tolerance:.0e}"
            print(f"!!! {row['case']} {row['dtype']} {row['contestant']} {row['status']}", flush=True)

    def rows_of(self, c: Contestant) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs in the contestant's format, the same tensors for all who read that."""
        key = (c.p.G, c.reads if c.reads == "[n, G, F]" else "")
        if key not in self.inputs:
            # Together more than caches hold, as far as that is not too many.
            few = 3 if self.device == "cpu" else 32
            k = min(max(math.ceil(180e6 / c.p.row_bytes), 1), few)
            xs = [c.take(c.p.rows(10 + i)).detach().requires_grad_() for i in range(k)]
            self.inputs[key] = xs, [c.take(c.p.rows(50 + i)) for i in range(k)]
        return self.inputs[key]

    def enter(self, of: type[Contestant], row: Row) -> Entry | None:
        """Makes the contestant, of fewer instances where memory is short, with tables of its own."""
        instances = self.instances
        of_one = self.hypergraph.m * self.case.features
        while instances > 1 and instances * of_one > of.most_elements:
            instances //= 2
        while True:
            try:
                return self.enter_with(of, self.problem(instances), row)
            except Exception as error:
                self.fail(row, error, f"{instances:,} instances")
            self.inputs = {key: kept for key, kept in self.inputs.items() if key[0] == self.instances}
            release()
            if (
                not row["status"].startswith("out of memory")
                or instances < self.instances // 64
                or instances < 2
            ):
                return None
            instances //= 2

    def enter_with(self, of: type[Contestant], p: Problem, row: Row) -> Entry | None:
        release()
        start = self.memory.now()
        c = of(p)
        made = self.memory.now()
        xs, gs = self.rows_of(c)
        before = self.memory.now()
        entry = Entry(c, row, c.bind(xs, gs))
        row["status"], row["measured_instances"] = "ok", p.G
        for name in list(entry.calls):
            if row["status"] != "ok":
                return None
            try:
                self.try_out(entry, name, xs[0])
            except Exception as error:
                # Fewer instances may do. Of one forward alone may.
                if p.G > 1 or name == "forward" or not is_out_of_memory(error):
                    raise
                row["passes"][name] = {"status": "out of memory"}
        release()
        if row["status"] != "ok":
            return None
        after = self.memory.now()
        known = None not in (start, made, before, after)
        row["kept_bytes"] = max(made - start + after - before, 0) if known else None
        return entry

    def try_out(self, entry: Entry, name: str, x: Tensor) -> None:
        """First calls: how long one takes, what memory it takes, and whether the last instance is right."""
        row, call = entry.row, entry.calls[name]
        self.memory.begin()
        y, once = self.clocked(call)
        peak = self.memory.peak()
        if name == "forward" and entry.contestant.p.G > 1:
            row["errors"]["last instance"] = last_instance(entry.contestant, y, x)
            self.judge(type(entry.contestant), row)
            if row["status"] != "ok":
                return
        del y
        if once < self.effort.patience or entry.contestant.compiles:
            # Without what a first call makes, and keeps.
            self.memory.begin()
            once, peak = self.clocked(call)[1], self.memory.peak()
        row["passes"][name] = {"peak_bytes": peak}
        if once > self.effort.patience:
            entry.laps[name] = [once]
            return
        entry.estimate[name] = estimate = min(entry.lap(name, 1, self.device) for _ in range(2))
        # Long enough for the clock, and for what a change of contestants leaves in caches.
        least = 5e-3 if self.device == "cuda" else 10e-3
        entry.inner[name] = min(max(math.ceil(least / estimate), 1), 50)

    def clocked(self, call: Call) -> tuple[Any, float]:
        begin = time.perf_counter()
        y = call(0)
        synchronize(self.device)
        return y, time.perf_counter() - begin

    def take_turns(self, entries: list[Entry]) -> None:
        turns = [(entry, name) for entry in entries for name in entry.estimate]
        if not turns:
            return
        one = sum(entry.estimate[name] * (entry.inner[name] + 1) for entry, name in turns)
        rounds = min(max(int(self.effort.seconds / one), self.effort.fewest), self.effort.most)
        for _ in range(rounds):
            for entry, name in turns:
                if entry.inner[name] > 1:
                    entry.lap(name, 1, self.device)
                entry.laps.setdefault(name, []).append(entry.lap(name, entry.inner[name], self.device))

    def finish(self, entries: list[Entry], rows: list[Row]) -> None:
        for entry in entries:
            of_all = entry.row["instances"] / entry.row["measured_instances"]
            for name, laps in entry.laps.items():
                laps = sorted(lap * 1e3 * of_all for lap in laps)
                entry.row["passes"][name] |= {
                    "ms": statistics.median(laps),
                    "least_ms": laps[0],
                    "greatest_ms": laps[-1],
                    "rounds": len(laps),
                    "calls_a_round": entry.inner.get(name, 1),
                }
        for row in rows:
            if row["status"] != "ok":
                row["passes"] = {}
        [copy] = [entry for entry in entries if entry.contestant.is_copy]
        for row in rows:
            for measured in row["passes"].values():
                if "ms" in measured:
                    measured["copies"] = measured["ms"] / copy.row["passes"]["forward"]["ms"]


_HYPERGRAPHS: dict[tuple[str, int], tuple[Hypergraph, int]] = {}


def hypergraph_of(case: Case, scale: int) -> tuple[Hypergraph, int]:
    """The hypergraph of a case, which is made once."""
    if (case.name, scale) not in _HYPERGRAPHS:
        _HYPERGRAPHS.clear()
        _HYPERGRAPHS[case.name, scale] = case.at(scale)
    return _HYPERGRAPHS[case.name, scale]
