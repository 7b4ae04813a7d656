"""A digest says whether a reward is the one it was: of its source and its state, in every process."""

import os
import re
import subprocess
import sys
import threading
from collections import deque
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch

from peft_panacea.rewards import Brevity, Classifier, Distinct, TokenLength, Valence, length, load_reward
from peft_panacea.training.identity import digest
from small_classifier import save_classifier
from small_tokenizers import word_tokenizer

OWN = """
from math import sqrt

LETTERS = "aeiou"


def count(text):
    return float(sum(letter in LETTERS for letter in text))


def vowels(completions, **kwargs):
    return [count(text) for text in completions]


def at_most(most):
    def few(completions, **kwargs):
        return [min(most, count(text)) for text in completions]
    return few


class Scaled:
    def __init__(self, factor):
        self._factor, self.words, self.itself = factor, {"to", "be", "or", "not"}, self

    def __call__(self, completions, **kwargs):
        return [self._factor * count(text) for text in completions]

    def half(self, completions, **kwargs):
        return [score / 2 for score in self(completions)]
"""


def module(path: Path, source: str = OWN):
    """A file that is run, as `load_reward` and Python itself do."""
    path.write_text(source)
    spec = spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def own(tmp_path):
    yield module(tmp_path / "own_rewards.py")
    for name in ("own_rewards", "changed_rewards"):
        sys.modules.pop(name, None)


REWARDS = [
    lambda own: own.vowels,
    lambda own: own.at_most(3.0),
    lambda own: own.at_most(4.0),
    lambda own: own.Scaled(2.0),
    lambda own: own.Scaled(3.0),
    lambda own: own.Scaled(3.0).half,
    lambda own: partial(own.vowels, answer=1),
    lambda own: partial(own.vowels, answer=2),
]


def test_the_same_reward_made_again_has_the_same_digest_and_no_two_have_one(own):
    digests = [digest(make(own)) for make in REWARDS]
    assert [digest(make(own)) for make in REWARDS] == digests
    assert len(set(digests)) == len(REWARDS)
    assert all(len(found) == 16 for found in digests)


@pytest.mark.parametrize("change", [("aeiou", "aeiouy"), ("float(sum", "-float(sum")], ids=["constant", "helper"])
def test_what_a_reward_calls_in_its_file_counts(own, change, tmp_path):
    changed = module(tmp_path / "changed_rewards.py", OWN.replace(*change))
    same = module(tmp_path / "changed_rewards.py")
    for make in REWARDS:
        assert digest(make(changed)) == digest(make(same)), "the file is read when it is asked"
    module(tmp_path / "changed_rewards.py", OWN.replace(*change))
    for make in REWARDS:
        assert digest(make(changed)) != digest(make(own))


def test_the_packages_rewards_are_told_apart_by_what_they_are_made_of(tmp_path):
    tokenizer = word_tokenizer()
    made = [
        lambda: length,
        lambda: Brevity(8),
        lambda: Brevity(9),
        lambda: Distinct(8),
        lambda: Valence({"happy": 2.0}),
        lambda: Valence({"happy": 2.5}),
        lambda: TokenLength(8),
        lambda: TokenLength(8, tokenizer),
        lambda: load_reward("conciseness", tokenizer),
    ]
    digests = [digest(make()) for make in made]
    assert [digest(make()) for make in made] == digests
    assert len(set(digests)) == len(made)


def test_a_classifier_is_its_weights_whatever_its_folder_is_called(tmp_path):
    folder = save_classifier(tmp_path / "mood", num_labels=1)
    reward = Classifier(folder, device="cpu")
    before = digest(reward)
    reward(["so good"])
    assert digest(reward) == digest(Classifier(folder, device="cpu")) == before
    with torch.no_grad():
        next(reward.model.parameters()).view(-1)[0] += 1e-3
    assert digest(reward) != before
    save_classifier(tmp_path / "mood", num_labels=1)
    assert digest(Classifier(folder, device="cpu")) != before


def test_what_has_no_source_is_known_by_its_name(own):
    namespace: dict = {}
    exec("def reward(completions, **_):\n    return [1.0] * len(completions)", namespace)
    first = digest(namespace["reward"])
    exec("def reward(completions, **_):\n    return [2.0] * len(completions)", namespace)
    assert digest(namespace["reward"]) == first
    assert digest(len) == digest(len) != digest(sum)
    locked = own.Scaled(2.0)
    locked.lock, locked.weights = threading.Lock(), torch.ones(2, dtype=torch.bfloat16)
    other = own.Scaled(2.0)
    other.lock, other.weights = threading.Lock(), torch.ones(2, dtype=torch.bfloat16)
    assert digest(locked) == digest(other)
    other.weights = torch.zeros(2, dtype=torch.bfloat16)
    assert digest(locked) != digest(other)


class Slotted:
    __slots__ = ("words",)

    def __init__(self, words):
        self.words = words


class Holding:
    def __init__(self, value):
        self.value = value


MANY = [f"word{i}" for i in range(100)]
ZEROS = np.zeros(5000)
ONE = ZEROS.copy()
ONE[2500] = 1


@pytest.mark.parametrize(
    "values",
    [
        lambda: (Slotted(["a"]), Slotted(["b"])),
        lambda: (re.compile("|".join([*MANY, "x"])), re.compile("|".join([*MANY, "y"]))),
        lambda: (re.compile("a"), re.compile("a", re.IGNORECASE)),
        lambda: (deque([ZEROS]), deque([ONE])),
        lambda: (torch.arange(4.0), torch.arange(4.0).view(2, 2), torch.arange(4.0).view(torch.int32)),
        lambda: (np.arange(4.0), np.arange(4.0).reshape(2, 2), np.arange(4.0).view(np.int64)),
        lambda: tuple(np.array([str(n), None], dtype=object) for n in (1000, 1001)),
        lambda: (Path("a"), Path("b")),
    ],
    ids=["slots", "pattern", "flags", "deque", "tensor", "array", "objects", "path"],
)
def test_what_an_object_holds_counts(values):
    once, again = values(), values()
    found = [digest(Holding(value)) for value in once]
    assert [digest(Holding(value)) for value in again] == found
    assert len(set(found)) == len(found)


def test_a_path_is_the_same_after_it_was_used():
    """Which keeps in it what was found out."""
    path = Path("a") / "b"
    before = digest(Holding(path))
    assert hash(path) == hash(Path(str(path)))
    assert digest(Holding(path)) == before


def test_what_holds_itself_has_an_end():
    def circle(first):
        inner = [first]
        inner.append(inner)
        mapping = {"first": first}
        mapping["itself"] = mapping
        held = Holding([inner, mapping])
        held.group = {held}
        return held

    assert digest(circle(1)) == digest(circle(1)) != digest(circle(2))
    shared = [1]
    assert digest(Holding([shared, shared])) == digest(Holding([[1], [1]]))


def test_another_process_finds_the_same(tmp_path):
    """Where strings hash otherwise and objects lie elsewhere."""
    folder = save_classifier(tmp_path / "mood", num_labels=1)
    script = f"""
import sys
from own_rewards import Scaled, at_most
from peft_panacea.rewards import Classifier, Valence
from peft_panacea.training.identity import digest

rewards = Scaled(2.0), at_most(3.0), Valence({{"happy": 2.0, "sad": -1.0}}), Classifier({folder!r}, device="cpu")
print(*map(digest, rewards))
"""
    (tmp_path / "own_rewards.py").write_text(OWN)
    (tmp_path / "script.py").write_text(script)
    printed = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, tmp_path / "script.py"]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        printed.add(run.stdout)
    assert len(printed) == 1
    assert len(printed.pop().split()) == 4
