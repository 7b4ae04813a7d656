"""Measuring what a steerable model attains under every preference, and choosing one of them."""

from .choose import Choice
from .compare import compare, nadir, over_seeds
from .measure import evaluate_base, evaluate_front
from .report import describe, describe_choice, describe_comparison, describe_work
from .result import Front

__all__ = [
    "Choice",
    "Front",
    "compare",
    "describe",
    "describe_choice",
    "describe_comparison",
    "describe_work",
    "evaluate_base",
    "evaluate_front",
    "nadir",
    "over_seeds",
]
