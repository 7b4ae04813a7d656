"""One rule for every random draw: its seed is a function of the run's seed and of what is drawn."""

from __future__ import annotations

import hashlib


def derive(seed: int, *key: str | int) -> int:
    """A seed for one draw, 0 to 2³² - 1, which is what torch uses of a seed on a CPU.

    Args:
        seed: The run's.
        key: What is drawn: a word for the purpose and as many numbers as it takes, such as step and process. Different
            keys give unrelated seeds, the same key always gives the same.
    """
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
