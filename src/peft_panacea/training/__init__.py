"""What makes any transformers or TRL trainer preference-conditioned: two mixins, one for losses, one for rewards."""

from .arguments import PreferenceArguments
from .averaging import IterateAverage
from .guard import DegenerationGuard
from .line import SteeringLine, print_lines_only
from .losses import ObjectiveLossMixin
from .rewards import ObjectiveRewardMixin

__all__ = [
    "DegenerationGuard",
    "IterateAverage",
    "ObjectiveLossMixin",
    "ObjectiveRewardMixin",
    "PreferenceArguments",
    "SteeringLine",
    "print_lines_only",
]
