"""What was measured: as tables of Markdown, as JSON and as a chart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from agreement import TIMED
from measuring import Row

PASSES = {"operators": ("forward", "forward and backward"), "layers": ("forward", "training step")}
DTYPES = ["f32", "tf32", "bf16", "f16"]

LEGEND = """
Times are of all instances: medians of rounds in which each contestant has its turn, every call on another of
a few inputs. *spread*: (greatest − least) / median. *copies*: how many copies of x take as long. *MB*: what
the contestant keeps for its calls, and the most that a call takes above that, without x. (4 of 9): so many
instances were computed and times scaled by 9/4, for want of memory, or with torch CSR since rows of
hyperedges have at most 2³¹ elements there. *error*: the greatest of y and gradients, against float64.
*weights*: `documented`, in the message and in the degree; `degree_only`, in the degree, as PyTorch Geometric
has it; `message_only`, in the message, as DHG has it: these are other convolutions. *reads*: the format of x,
G instances of n vertices; [n, G, F] is expert-major. Gradients are of x and the weights, and a layer's of Θ
and the bias, too; *no ∂w*: but for the weights. *inexact*: sums of bf16 in bf16, or of f16 in f16, are
farther off than the 3e-2, or 4e-3, that others are allowed, by the error that is shown. In bf16 and f16, too,
TF32 is allowed on a GPU where M is formed of f32 weights.
"""


def digits(value: float) -> str:
    """Three of them."""
    if value == 0:
        return "0"
    places = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{places}f}"


def share(row: Row) -> str:
    """What part of the instances was computed, where that is not all."""
    done, of_all = row["measured_instances"], row["instances"]
    return "" if done == of_all else f" ({done:,} of {of_all:,})"


def inexact(row: Row) -> str:
    return f" (inexact: {max(row['errors'].values()):.0e})" if row["status"] == "inexact" else ""


def title(row: Row) -> str:
    copies = "" if row["instances"] == 1 else f"{row['instances']:,} x "
    size = (
        f"({row['vertices']:,} vertices, {row['hyperedges']:,} hyperedges, {row['incidences']:,} incidences)"
    )
    return f"{row['case']}: {copies}{size}, F = {row['features']}, {row['dtype']}"


def megabytes(measured: Row) -> str:
    peak, kept = measured.get("peak_bytes"), measured.get("kept_bytes")
    return "" if peak is None or kept is None else f"{digits((peak + kept) / 1e6)}"


def case_table(rows: list[Row]) -> list[str]:
    """A case in one type, a line for each contestant."""
    if not rows:
        return []
    heads = ["contestant", "weights", "reads"]
    for name in PASSES[rows[0]["table"]]:
        heads += [f"{name}, ms", "spread", "copies", "MB"]
    heads.append("error")
    lines = [f"### {title(rows[0])}", "", f"| {' | '.join(heads)} |", "|---|---|---|" + "--:|" * 9]
    for row in rows:
        start = (
            f"| {row['contestant']}{share(row)}{inexact(row)} | {row['convention'] or '–'} | {row['reads']} |"
        )
        if row["status"] not in TIMED:
            lines.append(f"{start} {row['status'].replace('|', '/')} | | | | | | | | |")
            continue
        cells = []
        for name in ("forward", "both"):
            measured = row["passes"].get(name)
            if measured is None or "ms" not in measured:
                cells += [measured["status"] if measured else "–", "", "", ""]
                continue
            spread = (measured["greatest_ms"] - measured["least_ms"]) / measured["ms"]
            cells += [
                digits(measured["ms"]),
                f"{spread:.0%}",
                digits(measured["copies"]) if "copies" in measured else "",
                megabytes(measured),
            ]
        lines.append(f"{start} {' | '.join(cells)} | {max(row['errors'].values()):.0e} |")
    return lines


def summaries(rows: list[Row]) -> list[str]:
    """The two tables: a column for each case and type."""
    lines = []
    for table, (first, second) in PASSES.items():
        mine = [row for row in rows if row["table"] == table]
        if not mine:
            continue
        columns = list(dict.fromkeys((row["case"], row["dtype"]) for row in mine))
        columns.sort(key=lambda column: DTYPES.index(column[1]))
        names = {row["contestant"]: marked(row) for row in mine}
        found = {(row["contestant"], row["case"], row["dtype"]): row for row in mine}
        heads = [f"{case}, {dtype}" for case, dtype in columns]
        lines += [f"{table.capitalize()}: {first} / {second}, in ms", ""]
        lines += [f"| | {' | '.join(heads)} |", "|---|" + "--:|" * len(columns)]
        for name, shown in names.items():
            cells = [cell(found.get((name, *column))) for column in columns]
            lines.append(f"| {shown} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def marked(row: Row) -> str:
    """The contestant, and in what it differs from the documented convolution with all gradients."""
    other = row["convention"] not in ("", "documented") and row["convention"] not in row["contestant"]
    marks = [mark for mark in (row["convention"] if other else "", row["lacks"]) if mark]
    return f"{row['contestant']} ({', '.join(marks)})" if marks else row["contestant"]


def cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["status"] not in TIMED:
        return row["status"].split(":")[0].split(" (")[0]
    times = [digits(of["ms"]) if "ms" in of else of["status"] for of in row["passes"].values()]
    return " / ".join(times) + share(row) + inexact(row)


def legend(rows: list[Row]) -> list[str]:
    """What the columns mean, and what each contestant makes before and does in its calls."""
    lines = [*LEGEND.strip().splitlines(), ""]
    notes = dict.fromkeys((row["table"], row["contestant"], row["note"]) for row in rows)
    lines += [f"* {table}, {name}: {note}." for table, name, note in notes]
    reasons = dict.fromkeys(
        f"* {row['case']}, {row['dtype']}, {row['contestant']}: {row['status']}."
        for row in rows
        if row["status"] not in TIMED
    )
    return [*lines, "", *(["What did not run:", "", *reasons, ""] if reasons else [])]


def save(folder: Path | None, told: dict[str, Any], rows: list[Row], notes: list[str]) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    record = {"about": told, "notes": notes, "rows": rows}
    (folder / "peers.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    versions = ", ".join(f"{name} {of}" for name, of in told["versions"].items() if of)
    lines = [
        f"# {told['device']}, {told['date']}, commit {told['commit']}",
        "",
        f"{versions}; {told['threads']} threads of the CPU; load before {told['load_before'][0]:.1f}, after "
        f"{told['load_after'][0]:.1f}",
        "",
        *notes,
        *summaries(rows),
        *legend(rows),
    ]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["dtype"]), []).append(row)
    for group in groups.values():
        lines += [*case_table(group), ""]
    (folder / "peers.md").write_text("\n".join(lines).rstrip() + "\n")
    (folder / "peers.svg").write_text(chart(rows, told))


# ------------------------------------------------------------------------------------------------------ chart

WIDTH, LABELS, BAR, GAP = 900, 270, 9, 5
OURS, OTHERS = ("#0b6e4f", "#7fc8a9"), ("#5b6b7b", "#b9c4cf")


def chart(rows: list[Row], told: dict[str, Any]) -> str:
    """A panel for each case in the first type: how many copies of x take as long, on a logarithmic axis."""
    first = [row for row in rows if row["dtype"] == rows[0]["dtype"]]
    shown = [
        row
        for row in first
        if "copies" in row["passes"].get("forward", {}) and row["contestant"] != "copy of x"
    ]
    ratios = [
        measured["copies"] for row in shown for measured in row["passes"].values() if "copies" in measured
    ]
    top = math.ceil(math.log10(max([10.0, *ratios])))
    scale = (WIDTH - LABELS - 70) / top

    def at(ratio: float) -> float:
        return LABELS + max(math.log10(max(ratio, 1e-9)), 0) * scale

    parts: list[str] = []

    def text(x: float, y: float, what: str, more: str = "") -> None:
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(what)}</text>')

    heading = f"Copies of x that take as long: {told['device']}, {told['date']}, commit {told['commit']}"
    text(10, 20, heading, 'font-weight="bold"')
    text(
        10, 36, "dark: forward; light: forward and backward, or a layer's training step; green: hyperscatter"
    )
    y = 52.0
    groups: dict[str, list[Row]] = {}
    for row in shown:
        groups.setdefault(title(row), []).append(row)
    for name, group in groups.items():
        y += 14
        text(10, y, name, 'font-weight="bold"')
        y += 6
        head = y
        for row in sorted(group, key=lambda row: row["passes"]["forward"]["copies"]):
            colours = OURS if row["contestant"].startswith("hyperscatter") else OTHERS
            text(LABELS - 8, y + BAR + 3, marked(row), 'text-anchor="end"')
            for colour, measured in zip(colours, row["passes"].values(), strict=False):
                if "copies" not in measured:
                    continue
                end = at(measured["copies"])
                size = f'width="{max(end - LABELS, 1):.1f}" height="{BAR}"'
                parts.append(f'<rect x="{LABELS}" y="{y:.1f}" {size} fill="{colour}"/>')
                text(end + 4, y + BAR - 1, digits(measured["copies"]), 'font-size="9"')
                y += BAR
            y += GAP
        for power in range(top + 1):
            x = at(10.0**power)
            parts.append(f'<path d="M{x:.1f} {head:.1f}V{y:.1f}" stroke="#888" stroke-width="0.5"/>')
            text(x, y + 9, f"{10**power:,}", 'font-size="9" text-anchor="middle"')
        y += 20
    size = f'viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}"'
    style = 'font-family="sans-serif" font-size="11"'
    background = f'<rect width="{WIDTH}" height="{y:.0f}" fill="white"/>'
    body = "\n".join([background, *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{body}\n</svg>\n'
