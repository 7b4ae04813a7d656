"""A reward from what a command line says."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from functools import partial, update_wrapper
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from .classifier import Classifier
from .counts import Brevity, Distinct, dialogue_share, length, positive, sentence_length
from .text import Reward
from .tokens import TokenLength, conciseness
from .valence import Valence

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_DOTTED = re.compile(r"\w+(?:\.\w+)+")
_IN_FILE = re.compile(r"(.+\.py):(\w+)")
_PLAIN: dict[str, Reward] = {f.__name__: f for f in (length, dialogue_share, sentence_length, conciseness)}


def load_reward(spec: str, tokenizer: Any = None) -> Reward:
    """Turn a command-line argument into a reward.

    Args:
        spec: One of

            - `tokens=N`: a `TokenLength`, for the length of a chat model's answers
            - `length`, `dialogue_share`, `sentence_length`
            - `conciseness`, which is flat up to 50 tokens
            - `brevity=WORDS`, which pays for gibberish and for what is cut off
            - `distinct=N`, `valence=FILE`
            - a folder, or a Hub name `org/model`: a `Classifier` with one label
            - `FOLDER=LABEL`, `org/model=LABEL`: a `Classifier` with several
            - `module.function`: imported
            - `path/to/file.py:function`: imported from the file, which is run once in a process
        tokenizer: What `conciseness` and `tokens=N` count with when they are called without `completion_ids`; no other
            needs it.

    Raises:
        ImportError: the module of a dotted path cannot be imported.
        OSError: a model cannot be found.
        ValueError: anything else, or a value that the reward refuses.
    """
    name, equals, value = spec.partition("=")
    if spec == "conciseness" and tokenizer is not None:
        return update_wrapper(partial(conciseness, tokenizer=tokenizer), conciseness)
    if spec in _PLAIN:
        return _PLAIN[spec]
    if equals and name in ("tokens", "brevity", "distinct"):
        number = positive(name, int(value) if value.isdecimal() else value)
        if name == "tokens":
            return TokenLength(number, tokenizer)
        return Brevity(number) if name == "brevity" else Distinct(number)
    if value and name == "valence":
        return Valence(value)
    if in_file := _IN_FILE.fullmatch(spec):
        return _from_file(Path(in_file[1]), in_file[2])
    if _is_model(spec):
        return Classifier(spec)
    model, equals, label = spec.rpartition("=")
    if equals and _is_model(model):
        return Classifier(model, label)
    if _DOTTED.fullmatch(spec):
        module, _, attribute = spec.rpartition(".")
        reward = getattr(import_module(module), attribute, None)
        if callable(reward):
            return reward
    raise ValueError(
        f"`spec` must be one of {', '.join(_PLAIN)}, tokens=N, brevity=WORDS, distinct=N, valence=FILE, an existing "
        "folder or org/model (with =LABEL for one label of several), or a function as module.function or "
        f"FILE.py:function, but got {spec!r}."
    )


def _is_model(spec: str) -> bool:
    return os.path.isdir(spec) or _HUB_ID.fullmatch(spec) is not None


def _from_file(path: Path, name: str) -> Reward:
    if not path.is_file():
        raise ValueError(f"`spec` must name an existing file before the colon, but got {str(path)!r}.")
    reward = getattr(_module(path.resolve()), name, None)
    if not callable(reward):
        found = "nothing of that name" if reward is None else f"an object of {type(reward).__name__}"
        raise ValueError(f"`spec` must name a function in {path} after the colon, but got {name!r}, {found}.")
    return reward


def _module(path: Path) -> ModuleType:
    """Run the file as a module of its own, under a name by which pickle finds its functions again."""
    name = f"_rewards_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        source = spec_from_file_location(name, path)
        assert source is not None
        assert source.loader is not None
        sys.modules[name] = module = module_from_spec(source)
        try:
            source.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
