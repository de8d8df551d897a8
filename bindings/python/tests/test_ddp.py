"""Two processes go through the losses of one that has the whole batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

EXAMPLE = Path(__file__).parents[1] / "examples" / "ddp.py"
SECONDS = 150

sys.path.insert(0, str(EXAMPLE.parent))


def run(arguments: list[str]) -> None:
    """Runs Python. Whatever it has started ends with it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, output


def losses(starter: list[str], folder: Path) -> list[float]:
    path = folder / "losses.json"
    options = ["--steps", "5", "--experts", "4", "--sequences", "8", "--patience", "60"]
    run([*starter, str(EXAMPLE), *options, "--losses", str(path)])
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("environment", "devices", "device"),
    [
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, 4, "cuda:1"),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, 3, "cpu"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 2, "cuda:1"),  # without torchrun
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1, "cpu"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, 1, "cuda:0"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, 0, "cpu"),
    ],
)
@pytest.mark.skipif(not distributed.is_available(), reason="torch was built without it")
def test_no_two_processes_take_one_device(environment: dict[str, str], devices: int, device: str) -> None:
    from ddp import device_of

    assert device_of(environment, devices) == torch.device(device)


@pytest.mark.skipif(not distributed.is_available(), reason="torch was built without it")
def test_two_processes_lose_what_one_does(tmp_path: Path) -> None:
    one = losses([], tmp_path)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = losses(torchrun, tmp_path)
    assert len(two) == 5
    assert two[-1] < two[0]
    assert two == pytest.approx(one, rel=1e-6)
