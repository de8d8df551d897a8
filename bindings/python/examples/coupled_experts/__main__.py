"""Trains a small language model whose experts are coupled by hypergraphs.

    python -m coupled_experts --coupling hyperscatter --experts 8 --subsets 2 --steps 300

in `bindings/python/examples`. `python -m coupled_experts.compare` sets a loop over tokens beside it, and
`python -m coupled_experts.costs` measures what a step costs.
"""

from __future__ import annotations

from pathlib import Path

import torch

from .arguments import add_model, count, count_or_none, new_parser, parse, shape_of
from .couplers import COUPLINGS
from .text import Text
from .training import new_model, perplexity, train


def main(given: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--coupling", choices=COUPLINGS, default="hyperscatter")
    parser.add_argument("--weight-use", choices=("documented", "degree_only"), default="documented")
    parser.add_argument("--steps", type=count, default=300)
    parser.add_argument("--rate", type=float, default=3e-3, help="of learning")
    parser.add_argument("--validate-every", type=count_or_none, default=50, help="steps")
    parser.add_argument("--output", type=Path, help="folder for curves")
    add_model(parser)
    arguments = parse(parser, given)

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
