"""Seeding of every random generator. What training draws is a function of the seed, the epoch and the image or step."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(*keys: int) -> None:
    """Seeds Python, NumPy and torch (every device's generator) from some integers."""
    torch.manual_seed(seed_cpu(*keys))


def seed_cpu(*keys: int) -> int:
    """The same without other devices' generators, whose seeding takes longer than augmenting a small image."""
    state = np.random.SeedSequence([key % 2**32 for key in keys]).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.default_generator.manual_seed(int(state[2]))
    return int(state[2])
