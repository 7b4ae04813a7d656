"""Training rows for several objectives; what makes data sets needs the `train` extra when it is called."""

from .chat import chat_prompt, chat_row, is_chat
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
    "chat_prompt",
    "chat_row",
    "combine",
    "fine_grained_rlhf",
    "helpsteer2",
    "hh_rlhf",
    "is_chat",
    "json_preferences",
    "json_prompts",
    "one_row_per_objective",
    "pairs_from_scores",
    "pku_safe_rlhf",
    "ultrafeedback",
    "xstest",
]
