"""The code in README.md, here and at the top of the repository, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
TOP = Path(__file__).parents[3] / "README.md"


def blocks(file: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL)


BLOCKS = [*blocks(README), *blocks(TOP)]


def test_there_is_code() -> None:
    assert (len(blocks(README)), len(blocks(TOP))) == (2, 1)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_it_runs(block: str) -> None:
    exec(compile(block, str(README), "exec"), {})
