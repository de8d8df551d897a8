"""The text, as numbers of characters."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PLAYS = Path(__file__).parent / "data" / "shakespeare.txt.gz"


@dataclass(frozen=True)
class Text:
    """A text for training, and its last tenth for validation."""

    characters: str
    train: Tensor
    validation: Tensor

    @classmethod
    def read(cls, path: Path = PLAYS) -> Text:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        characters = "".join(sorted(set(text)))
        number = {character: i for i, character in enumerate(characters)}
        ids = torch.tensor([number[character] for character in text])
        cut = len(ids) * 9 // 10
        return cls(characters, ids[:cut], ids[cut:])


def batch(ids: Tensor, step: int, sequences: int, length: int) -> tuple[Tensor, Tensor]:
    """Sequences from random places, `[sequences, length]`, and what follows each of their characters.

    The same for the same step, whatever was drawn before.
    """
    random = torch.Generator().manual_seed(step)
    starts = torch.randint(len(ids) - length, (sequences, 1), generator=random)
    at = starts + torch.arange(length)
    return ids[at], ids[at + 1]
