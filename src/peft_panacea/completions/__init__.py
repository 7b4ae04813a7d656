"""Completions of a batch of prompts, each row under a preference of its own, and how likely their tokens are."""

from .batch import Completions, Prompt, check_can_sample, encode, tokenize
from .decoding import runs_in_step
from .likelihood import log_probabilities, log_probabilities_by_length
from .sampling import eval_mode, generation_options, sample

__all__ = [
    "Completions",
    "Prompt",
    "check_can_sample",
    "encode",
    "eval_mode",
    "generation_options",
    "log_probabilities",
    "log_probabilities_by_length",
    "runs_in_step",
    "sample",
    "tokenize",
]
