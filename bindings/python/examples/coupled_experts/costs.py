"""What a step of training costs under each coupling, as a table.

python -m coupled_experts.costs --experts 2 4 8 16 --subsets 2 3
"""

from __future__ import annotations

import argparse
import os
from datetime import date

import torch

from .couplers import COUPLINGS
from .model import Shape
from .text import Text
from .training import new_model, train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--subsets", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--couplings", nargs="+", default=list(COUPLINGS), choices=COUPLINGS)
    parser.add_argument("--steps", type=int, default=5, help="measured, behind one that is not")
    parser.add_argument("--loop-steps", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    text, device = Text.read(), torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    tokens, load = arguments.sequences * Shape.length, os.getloadavg()[0]
    print(
        f"{date.today()}, {device}, torch {torch.__version__}, threads {arguments.threads}, load {load:.1f}"
    )
    print(f"{tokens:,} tokens a step")
    print(f"| E | subsets | {' | '.join(arguments.couplings)} |")
    print("|---|---|" + "---|" * len(arguments.couplings), flush=True)
    for subsets in arguments.subsets:
        for experts in arguments.experts:
            if experts < subsets:
                continue
            cells = []
            for kind in arguments.couplings:
                shape = Shape(experts, subsets, kind, layers=arguments.layers)
                model = new_model(shape, text, device)
                steps = arguments.loop_steps if kind == "loop" else arguments.steps
                curves = train(model, text, shape, range(1 + steps), sequences=arguments.sequences)
                times = curves.processor_seconds if device.type == "cpu" else curves.seconds
                cells.append(f"{1000 * min(times[1:]):,.0f}")
            print(f"| {experts} | {subsets} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
