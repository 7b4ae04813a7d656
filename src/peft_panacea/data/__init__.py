"""Training rows for several objectives; what makes data sets needs the `train` extra when it is called."""

from .files import json_preferences
from .prompts import json_prompts
from .shapes import combine, one_row_per_objective, pairs_from_scores
from .sources import (
    fine_grained_rlhf,
    helpsteer2,
    hh_rlhf,
    pku_safe_rlhf,
    ultrafeedback,
    xstest,
)

__all__ = [
    "combine",
    "fine_grained_rlhf",
    "helpsteer2",
    "hh_rlhf",
    "json_preferences",
    "json_prompts",
    "one_row_per_objective",
    "pairs_from_scores",
    "pku_safe_rlhf",
    "ultrafeedback",
    "xstest",
]
