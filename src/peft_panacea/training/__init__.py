"""What makes any transformers or TRL trainer preference-conditioned: two mixins, one for losses, one for rewards."""

from .arguments import PreferenceArguments
from .averaging import IterateAverage
from .blocks import interference
from .decorrelation import DecorrelationArguments, DecorrelationMixin
from .guard import DegenerationGuard
from .line import SteeringLine, print_lines_only
from .losses import ObjectiveLossMixin
from .rewards import ObjectiveRewardMixin

__all__ = [
    "DecorrelationArguments",
    "DecorrelationMixin",
    "DegenerationGuard",
    "IterateAverage",
    "ObjectiveLossMixin",
    "ObjectiveRewardMixin",
    "PreferenceArguments",
    "SteeringLine",
    "interference",
    "print_lines_only",
]
