"""A preference as people write it: `0.3 0.7`, `name=0.3 name=0.7`, or what an adapter calls it."""

from __future__ import annotations

from collections.abc import Sequence


def read_preference(words: Sequence[str], parameter: str) -> str | list[float] | dict[str, float]:
    """What the words say, not yet whether it is a preference of some adapter.

    Args:
        words: A number each, in the order of the objectives, `NAME=NUMBER` each, or one name of a preference.
        parameter: What errors call it, as in `"--preference"`.

    Raises:
        ValueError: the words are neither.
    """
    pairs = [word.rpartition("=") for word in words]
    named = {name for name, equals, _ in pairs if equals}
    try:
        weights = [float(weight) for _, _, weight in pairs]
    except ValueError:
        if len(words) == 1 and not named:
            return words[0]
        raise ValueError(f"`{parameter}` must be numbers, or name=number for each, but got {list(words)}.") from None
    if not named:
        return weights
    if len(named) < len(words):
        raise ValueError(f"`{parameter}` must name every objective, once, or none, but got {list(words)}.")
    return {name: weight for (name, _, _), weight in zip(pairs, weights, strict=True)}
