"""The preference that explains a person's choices between answers, and the pair that is best shown next."""

from .fit import fit_margins, fit_preference
from .margins import margins
from .result import FittedPreference

__all__ = ["FittedPreference", "fit_margins", "fit_preference", "margins"]
