"""Everything random is a function of the recipe's seed and a position; no state is carried along.

So a run that is resumed at a step draws what the unbroken run drew there, for any number of workers.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np


def derive(seed: int, *position: int | str) -> int:
    """A seed in [0, 2**63) for one place: the recipe's seed and, say, ("augment", epoch, index)."""
    text = "/".join(str(part) for part in (seed, *position))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *position: int | str) -> np.random.Generator:
    """A numpy generator for one place."""
    return np.random.default_rng(derive(seed, *position))


def seed_everything(seed: int, *position: int | str) -> None:
    """Seeds the global generators of Python, numpy and torch for one place.

    Dropout and stochastic depth draw from torch's global generator: the loops call this before each step.
    """
    import torch

    value = derive(seed, *position)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)
