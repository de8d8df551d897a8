"""How long contestants take that agree with float64, turn by turn, and in how much memory."""

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

from agreement import TIMED, few_instances, judgement, last_instance
from cases import Case, Hypergraph, Problem
from contestants import Call, Contestant

# Instances that are compared with float64, all gradients included.
CHECKED_INSTANCES = 16
NOT_RUN = "not run"

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


def keep_heap() -> None:
    """Lets the allocator of the CPU keep what a call has freed for the next call, as that of a GPU does. Else
    some contestants pay in each call for thousands of new pages, more than for what they compute: which ones,
    the order of allocations decides."""
    most, trim_threshold, mmap_max = 2**31 - 1, -1, -4  # of glibc's malloc.h
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, most)
        mallopt(mmap_max, 0)


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

    def __init__(
        self, case: Case, hypergraph: Hypergraph, instances: int, dtype: str, device: str, effort: Effort
    ) -> None:
        self.case, self.hypergraph, self.instances = case, hypergraph, instances
        self.dtype, self.device, self.effort = dtype, device, effort
        self.memory = Memory(device)
        self.inputs: dict[tuple[int, str], Any] = {}
        self.broke: str | None = None
        """What ended the measurement early, such as a fault of the device, behind which all calls fail."""

    def problem(self, instances: int) -> Problem:
        return Problem(self.hypergraph, instances, self.case.features, self.dtype, self.device)

    def run(self, contestants: list[type[Contestant]]) -> list[Row]:
        torch.backends.cuda.matmul.allow_tf32 = self.dtype != "f32"
        # In tf32 those that have no product of f32 would take as long as in f32.
        taking_part = [
            (of, self.row(of))
            for of in contestants
            if self.dtype != "tf32" or "tf32" in of.dtypes or of.is_copy
        ]
        rows, entries = [row for _, row in taking_part], []
        try:
            self.measure(taking_part, entries)
        except Exception as error:
            traceback.print_exception(error, limit=-6)
            self.broke = first_line(error)
        self.finish(entries, rows)
        return rows

    def measure(self, taking_part: list[tuple[type[Contestant], Row]], entries: list[Entry]) -> None:
        small = self.problem(min(self.instances, CHECKED_INSTANCES))
        for of, row in taking_part:
            begin = time.perf_counter()
            self.check(of, small, row)
            took = time.perf_counter() - begin
            told = f"{row['case']} {self.dtype} {of.label}: {row['status']}"
            print(f"{told} (checked in {took:.0f} s)", flush=True)
        del small
        release()
        for of, row in taking_part:
            if row["status"] in TIMED and (entry := self.enter(of, row)):
                entries.append(entry)
        self.take_turns(entries)

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
            "lacks": of.lacks,
            "instances": self.instances,
            "measured_instances": self.instances,
            "status": NOT_RUN,
            "excused": False,
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
        # A broken context fails here, and with it the rest of the measurement.
        synchronize(self.device)

    def check(self, of: type[Contestant], p: Problem, row: Row) -> None:
        refused = of.refuses(p.of(self.instances))
        if refused is None and self.dtype not in (*of.dtypes, "tf32"):
            refused = f"has no {self.dtype}"
        if refused is not None:
            row["status"] = f"cannot: {refused}"
            row["excused"] = of.may_be_refused
            return
        try:
            c = of(p)
            x, g = c.take(p.rows(3)).detach().requires_grad_(), c.take(p.rows(4))
            calls = c.bind([x], [g])
            for name in calls:
                try:
                    row["errors"] |= few_instances(c, calls, name, x, g)
                except Exception as error:
                    if name == "forward" or not is_out_of_memory(error):
                        raise
                    row["passes"][name] = {"status": "out of memory"}
            self.judge(of, row)
        except Exception as error:
            self.fail(row, error, "in the check")
        release()

    def judge(self, of: type[Contestant], row: Row) -> None:
        row["status"] = judgement(of, self.dtype, row["errors"])
        if row["status"] not in TIMED:
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
        row["measured_instances"] = p.G
        self.judge(of, row)
        for name in entry.calls:
            if "status" in row["passes"].get(name, {}):
                continue
            try:
                self.try_out(entry, name, xs[0], gs[0])
            except Exception as error:
                # Fewer instances may do. Of one forward alone may.
                if p.G > 1 or name == "forward" or not is_out_of_memory(error):
                    raise
                row["passes"][name] = {"status": "out of memory"}
            if row["status"] not in TIMED:
                return None
            release()
            after = self.memory.now()
            if None not in (start, made, before, after):
                row["passes"][name]["kept_bytes"] = max(made - start + after - before, 0)
        return entry

    def try_out(self, entry: Entry, name: str, x: Tensor, g: Tensor) -> None:
        """First calls: how long one takes, what memory it takes, and whether the last instance is right."""
        row, call = entry.row, entry.calls[name]
        self.memory.begin()
        result, once = self.clocked(call)
        peak = self.memory.peak()
        if entry.contestant.p.G > 1:
            row["errors"] |= last_instance(entry.contestant, name, result, x, g)
            self.judge(type(entry.contestant), row)
            if row["status"] not in TIMED:
                return
        del result
        if once < self.effort.patience or entry.contestant.starts_slowly:
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
            if row["status"] in (*TIMED, NOT_RUN) and "ms" not in row["passes"].get("forward", {}):
                row["status"] = f"{NOT_RUN}: {self.broke}"
            if row["status"] not in TIMED:
                row["passes"] = {}
        times = [entry.row["passes"].get("forward", {}) for entry in entries if entry.contestant.is_copy]
        copies = [measured["ms"] for measured in times if "ms" in measured]
        for measured in (of_call for row in rows for of_call in row["passes"].values()):
            if "ms" not in measured:
                measured.setdefault("status", NOT_RUN)
            elif copies:
                measured["copies"] = measured["ms"] / copies[0]
