"""The PEFT tuner. Knows torch, transformers' Conv1D and PEFT, and nothing else of this package."""

from .bounds import in_words
from .config import PanaceaConfig
from .layer import PanaceaLayer, PanaceaLinear
from .model import PanaceaModel
from .preferences import Preference, Preferences, parse_preference
from .state import PreferenceState
from .steering import (
    first_active,
    get_objectives,
    get_preference,
    nearest_preference,
    preference,
    set_preference,
)
from .svd import PanaceaSVD

__all__ = [
    "PanaceaConfig",
    "PanaceaLayer",
    "PanaceaLinear",
    "PanaceaModel",
    "PanaceaSVD",
    "Preference",
    "PreferenceState",
    "Preferences",
    "first_active",
    "get_objectives",
    "get_preference",
    "in_words",
    "nearest_preference",
    "parse_preference",
    "preference",
    "set_preference",
]
