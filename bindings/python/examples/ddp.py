"""Experts coupled by hypergraphs under DistributedDataParallel.

    torchrun --standalone --nproc-per-node 2 ddp.py --steps 20
    python ddp.py --steps 20

Both train on the same batches, of which each process takes its share, so both go through the same losses
(their last digits aside: gradients are summed in another order). With GPUs each process takes one, and NCCL
adds gradients; else gloo does, on the CPU. Processes that are started without torchrun must have RANK,
WORLD_SIZE, MASTER_ADDR and MASTER_PORT in their environment. Without LOCAL_RANK and LOCAL_WORLD_SIZE they are
taken to be on one machine.

The layer needs nothing for this: its weights are a parameter like others, its topology is in every process,
and a state dict holds the topology's fingerprint.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
from coupled_experts.arguments import count, experts, new_parser
from coupled_experts.model import LanguageModel, Shape, loss_of
from coupled_experts.text import Text, batch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


def device_of(environment: Mapping[str, str], devices: int) -> torch.device:
    """A process's own GPU, or the CPU where a machine has fewer GPUs than processes."""
    local = int(environment.get("LOCAL_RANK", environment.get("RANK", 0)))
    processes = int(environment.get("LOCAL_WORLD_SIZE", environment.get("WORLD_SIZE", 1)))
    return torch.device("cuda", local) if devices >= processes else torch.device("cpu")


def train(arguments: argparse.Namespace) -> list[float]:
    """The mean losses of all steps, the same in each process."""
    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = device_of(os.environ, torch.cuda.device_count())
    cuda = device.type == "cuda"
    if arguments.sequences % processes:
        raise ValueError(f"{arguments.sequences} sequences are no equal shares for {processes} processes")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=arguments.patience))

    torch.manual_seed(0)
    text = Text.read()
    shape = Shape(arguments.experts, arguments.subsets, width=32, length=64)
    model = DistributedDataParallel(LanguageModel(shape, len(text.characters)).to(device))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    share = slice(rank, None, processes)
    losses = []
    for step in range(arguments.steps):
        ids, following = (
            part[share].to(device) for part in batch(text.train, step, arguments.sequences, shape.length)
        )
        optimizer.zero_grad()
        loss = loss_of(model, ids, following)
        loss.backward()  # the mean of all processes' gradients
        optimizer.step()
        mean = loss.detach().double()
        distributed.all_reduce(mean)
        losses.append(mean.item() / processes)
        if rank == 0:
            print(f"step {step}: loss {losses[-1]:.7f}", flush=True)
    # Threads of the group may still want Python's lock, to let go of what they have reduced, and the group's
    # end holds it while it waits for them. They get it while this thread sleeps.
    distributed.barrier()
    time.sleep(0.5)
    distributed.destroy_process_group()
    if rank == 0 and arguments.losses is not None:
        arguments.losses.write_text(json.dumps(losses))
    return losses


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--steps", type=count, default=20)
    parser.add_argument("--experts", type=experts, default=8)
    parser.add_argument("--subsets", type=int, default=2, choices=(2, 3), help="couple pairs or triples")
    parser.add_argument("--sequences", type=count, default=32, help="sequences of a step, of all processes")
    parser.add_argument("--patience", type=count, default=60, help="seconds to wait for another process")
    parser.add_argument("--losses", type=Path, help="write them there, as JSON")
    if "RANK" not in os.environ:  # one process
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="0")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
