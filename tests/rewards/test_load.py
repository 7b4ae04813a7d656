"""What a command line may say for a reward, and what it may not."""

import pickle
import sys

import pytest

from peft_panacea import rewards
from peft_panacea.rewards import Classifier, length, load, load_reward
from small_classifier import save_classifier


def test_specs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lexicon.txt").write_text("happy\t2.7\n")
    save_classifier(tmp_path / "lr=1")
    for name in ("length", "conciseness", "dialogue_share", "sentence_length"):
        assert load_reward(name) is getattr(rewards, name)
    assert load_reward("brevity=8").target_words == 8
    assert load_reward("distinct=3").n == 3
    assert load_reward("tokens=40").target_tokens == 40
    assert load_reward("valence=lexicon.txt").ratings == {"happy": 2.7}
    assert load_reward("peft_panacea.rewards.length") is length
    assert load_reward("lr=1=LABEL_1").arguments == ("lr=1", "LABEL_1", None)


def test_a_model_without_a_label_is_a_classifier_with_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_classifier(tmp_path / "lr=1", num_labels=1)
    for spec in ("lr=1", folder):
        reward = load_reward(spec)
        assert isinstance(reward, Classifier)
        assert reward(["so good"]) == Classifier(folder)(["so good"])
    save_classifier(tmp_path / "two")
    with pytest.raises(ValueError, match="`label` must be one of LABEL_0, LABEL_1, but got None"):
        load_reward("two")
    monkeypatch.setattr(load, "Classifier", lambda *arguments: arguments)
    assert load_reward("org/model-1.0") == ("org/model-1.0",)


OWN = """
seven = 7


def vowels(completions, **kwargs):
    return [float(sum(letter in "aeiou" for letter in text)) for text in completions]
"""


def test_a_function_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.rewards.py").write_text(OWN)
    path = list(sys.path)
    reward = load_reward("my.rewards.py:vowels")
    assert reward(["a house", ""]) == [4.0, 0.0]
    assert reward.__name__ == "vowels"
    assert pickle.loads(pickle.dumps(reward)) is reward
    assert load_reward(f"{tmp_path}/../{tmp_path.name}/my.rewards.py:vowels") is reward  # run once
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "my.rewards.py").write_text(OWN.replace("aeiou", "e"))
    assert load_reward("other/my.rewards.py:vowels")(["a house"]) == [1.0]
    assert sys.path == path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no.py:vowels", "`spec` must name an existing file before the colon, but got 'no.py'."),
        ("own.py:vowel", "`spec` must name a function in own.py after the colon, but got 'vowel', nothing of that n"),
        ("own.py:seven", "`spec` must name a function in own.py after the colon, but got 'seven', an object of int."),
    ],
)
def test_a_file_without_the_function_is_refused(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(ValueError, match="`spec` must name") as caught:
        load_reward(spec)
    assert message in str(caught.value)


def test_a_file_that_fails_leaves_no_module(tmp_path):
    (tmp_path / "broken.py").write_text("raise KeyError('in the file')")
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(KeyError, match="in the file"):
            load_reward(f"{tmp_path}/broken.py:reward")
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "spec",
    ["", "lenght", "length=3", "distinct", "valence", "valence=", "speed=3", "a/b/c", "/a/b",
     "peft_panacea.rewards.none", "peft_panacea.rewards.BATCH_SIZE"],
)  # fmt: skip
def test_other_specs_are_refused_with_the_known_ones(spec):
    known = "length, dialogue_share, sentence_length, conciseness, tokens=N, brevity=WORDS"
    message = f"`spec` must be one of {known}, .* but got "
    with pytest.raises(ValueError, match=message) as caught:
        load_reward(spec)
    assert str(caught.value).endswith(f"{spec!r}.")


def test_values_are_refused_by_the_name_in_the_spec():
    for name in ("brevity", "tokens"):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer of at least 1, but got 'few'"):
            load_reward(f"{name}=few")
    with pytest.raises(ModuleNotFoundError, match="no_module_of_this_name"):
        load_reward("no_module_of_this_name.reward")
