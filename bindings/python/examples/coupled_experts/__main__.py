"""Trains a small language model whose experts are coupled by hypergraphs.

    python -m coupled_experts --coupling hyperscatter --experts 8 --subsets 2 --steps 300

in `bindings/python/examples`. `python -m coupled_experts.compare` sets a loop over tokens beside it, and
`python -m coupled_experts.costs` measures what a step costs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from .couplers import COUPLINGS
from .model import Shape
from .text import Text
from .training import new_model, perplexity, train


def shape_arguments(parser: argparse.ArgumentParser) -> None:
    """What all programs here take."""
    parser.add_argument("--experts", type=int, default=8, help="experts of a token, 2 to 16")
    parser.add_argument("--subsets", type=int, default=2, choices=(2, 3), help="couple pairs or triples")
    parser.add_argument("--width", type=int, default=64, help="features")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=128, help="characters of a sequence")
    parser.add_argument("--sequences", type=int, default=32, help="sequences of a step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)


def shape_of(arguments: argparse.Namespace, **others: Any) -> Shape:
    """The model's shape."""
    names = ("experts", "subsets", "width", "layers", "length")
    return Shape(**{name: getattr(arguments, name) for name in names}, **others)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coupling", choices=COUPLINGS, default="hyperscatter")
    parser.add_argument("--weight-use", choices=("documented", "degree_only"), default="documented")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=3e-3, help="of learning")
    parser.add_argument("--validate-every", type=int, default=50, help="steps")
    parser.add_argument("--output", type=Path, help="folder for curves")
    shape_arguments(parser)
    arguments = parser.parse_args()

    from tqdm import trange

    text = Text.read()
    shape = shape_of(arguments, coupling=arguments.coupling, weight_use=arguments.weight_use)
    model = new_model(shape, text, torch.device(arguments.device), arguments.seed)
    tokens = arguments.sequences * arguments.length
    print(f"{shape}\n{sum(p.numel() for p in model.parameters()):,} parameters, {tokens:,} tokens a step")
    curves = train(
        model,
        text,
        shape,
        trange(arguments.steps),
        sequences=arguments.sequences,
        rate=arguments.rate,
        validate_every=arguments.validate_every,
    )
    last = perplexity(model, text.validation, shape, arguments.sequences, 4)
    curves.perplexities[arguments.steps] = last
    print(
        f"validation perplexity {last:.3f} (uniform: {len(text.characters)}), "
        f"{tokens / curves.step():,.0f} tokens/s, {1000 * curves.step():,.0f} ms a step"
    )
    if arguments.device.startswith("cuda"):
        print(f"at most {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB of the device's memory")
    if arguments.output is not None:
        print("wrote", ", ".join(map(str, curves.write(arguments.output))))


if __name__ == "__main__":
    main()
