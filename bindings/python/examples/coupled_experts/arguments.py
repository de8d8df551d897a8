"""The arguments that programs of this example share. What makes no model is refused before anything runs."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from .model import Shape

EXPERTS = range(2, 17)


def count(text: str) -> int:
    """A number from 1 on."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def count_or_none(text: str) -> int:
    """A number from 0 on."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return int(text)


def experts(text: str) -> int:
    """A number of experts."""
    if int(text) not in EXPERTS:
        raise argparse.ArgumentTypeError(f"{text} is not from {EXPERTS[0]} to {EXPERTS[-1]}")
    return int(text)


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows a module's description as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_model(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """What model there is and where; several numbers of experts and sizes of subsets, if so."""
    text = f"of a token, {EXPERTS[0]} to {EXPERTS[-1]}"
    kinds = {"choices": (2, 3), "help": "couple pairs or triples"}
    if several:
        parser.add_argument("--experts", type=experts, nargs="+", default=[2, 4, 8, 16], help=text)
        parser.add_argument("--subsets", type=int, nargs="+", default=[2, 3], **kinds)
    else:
        parser.add_argument("--experts", type=experts, default=8, help=text)
        parser.add_argument("--subsets", type=int, default=2, **kinds)
    parser.add_argument("--width", type=count, default=Shape.width, help=f"features, {Shape.heads} heads")
    parser.add_argument("--layers", type=count, default=Shape.layers)
    parser.add_argument("--length", type=count, default=Shape.length, help="characters of a sequence")
    parser.add_argument("--sequences", type=count, default=32, help="sequences of a step")
    parser.add_argument("--threads", type=count, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)


def parse(parser: argparse.ArgumentParser, given: list[str] | None) -> argparse.Namespace:
    """The arguments, those of the command line by default. Sets the number of threads."""
    arguments = parser.parse_args(given)
    if arguments.width % Shape.heads:
        parser.error(f"argument --width: {arguments.width} is no multiple of {Shape.heads}, the heads")
    if isinstance(arguments.experts, int) and arguments.experts < arguments.subsets:
        parser.error(f"argument --subsets: {arguments.experts} experts have none of {arguments.subsets}")
    torch.set_num_threads(arguments.threads)
    return arguments


def shape_of(arguments: argparse.Namespace, **others: Any) -> Shape:
    """The model's shape; `others` come first."""
    names = ("experts", "subsets", "width", "layers", "length")
    return Shape(**({name: getattr(arguments, name) for name in names} | others))
