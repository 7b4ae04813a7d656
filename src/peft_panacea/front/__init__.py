"""Measuring what a steerable model attains under every preference, and choosing one of them."""

from .choose import Choice
from .measure import evaluate_front
from .result import Front
from .summary import nadir, over_seeds

__all__ = ["Choice", "Front", "evaluate_front", "nadir", "over_seeds"]
