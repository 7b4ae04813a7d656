"""Rewards for texts, called as TRL's GRPO and RLOO trainers call them: `reward(completions, **columns)`.

A completion is a string or a list of messages, whose assistant messages are what is judged. Every reward returns one
finite number per completion, also for an empty one, and can be pickled. TRL logs it under its `__name__`.

A word is a run of letters and digits, with apostrophes and hyphens inside: "don't" and "well-known" are one word each.
Scripts that write without spaces, or vowels as combining marks, are cut otherwise.
"""

from .classifier import Classifier
from .counts import Brevity, Distinct, dialogue_share, length, sentence_length
from .load import load_reward
from .text import Completion, Reward
from .tokens import TokenLength, conciseness
from .valence import Valence

__all__ = [
    "Brevity",
    "Classifier",
    "Completion",
    "Distinct",
    "Reward",
    "TokenLength",
    "Valence",
    "conciseness",
    "dialogue_share",
    "length",
    "load_reward",
    "sentence_length",
]
