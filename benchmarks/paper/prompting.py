"""The cheapest rival: the preference in the system prompt of the model as it is."""

from collections.abc import Callable, Sequence
from typing import Any

GRADES = ((0.875, "extremely"), (0.625, "very"), (0.375, "somewhat"), (0.125, "a little"))


def percent(names: Sequence[str], preference: Sequence[float]) -> str:
    parts = [f"{round(100 * weight)}% {name}" for name, weight in zip(names, preference, strict=True)]
    return f"Your answers are {', '.join(parts)}."


def graded(names: Sequence[str], preference: Sequence[float]) -> str:
    """Weights in words; what has none is not mentioned."""
    parts = []
    for name, weight in zip(names, preference, strict=True):
        grade = next((word for least, word in GRADES if weight >= least), None)
        parts += [f"{grade} {name}"] if grade else []
    return f"Answer in a way that is {' and '.join(parts) or 'balanced'}."


def command(names: Sequence[str], preference: Sequence[float]) -> str:
    """The one or two that weigh most, as a command."""
    order = sorted(range(len(names)), key=lambda i: -preference[i])
    first = f"You must be {names[order[0]]}. It matters most."
    second = f" Also be {names[order[1]]}." if preference[order[1]] >= 0.2 else ""
    return first + second


WORDINGS: dict[str, Callable[[Sequence[str], Sequence[float]], str]] = {
    "percent": percent,
    "graded": graded,
    "command": command,
}


def asked_for(prompt: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The conversation with this said in its system message."""
    first, rest = (prompt[0]["content"], prompt[1:]) if prompt[0]["role"] == "system" else ("", prompt)
    return [{"role": "system", "content": f"{first} {text}".strip()}, *rest]
