"""Panacea for PEFT: one adapter, every trade-off between the objectives it was trained on.

Importing this package registers the method with PEFT, which `PeftModel.from_pretrained` needs to read a Panacea
adapter.
"""

from . import plugin  # noqa: F401  (registers the method, before the names below are used)
from .hub import load, push
from .simplex import simplex_grid
from .tuner import PanaceaConfig, get_objectives, get_preference, nearest_preference, preference, set_preference

__version__ = "0.1.0"

__all__ = [
    "PanaceaConfig",
    "get_objectives",
    "get_preference",
    "load",
    "nearest_preference",
    "preference",
    "push",
    "set_preference",
    "simplex_grid",
]
