"""What the rewards that count tokens give, by hand, and what of completions they are told."""

import pickle
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from peft_panacea.rewards import Brevity, TokenLength, conciseness, load_reward

STORYTELLER = str(Path(__file__).resolve().parents[2] / "examples" / "storyteller" / "model")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(STORYTELLER)


def test_conciseness_counts_the_tokens_it_is_given():
    ids = [[], [1] * 50, [1] * 51, [1] * 100, [1] * 300]
    expected = [4.0, 4.0, 3.98, 3.0, -1.0]
    assert conciseness(completions=["ignored"] * 5, completion_ids=ids) == pytest.approx(expected)


def test_conciseness_counts_tokens_itself(tokenizer):
    text = "Tom was glad. " * 30
    n = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    reward = pickle.loads(pickle.dumps(load_reward("conciseness", tokenizer)))
    assert n > 50
    assert reward(["", text, [{"role": "assistant", "content": text}]]) == [4.0, 5 - n / 50, 5 - n / 50]
    assert reward([text], completion_ids=[[1]]) == [4.0]
    assert reward.__name__ == "conciseness"
    with pytest.raises(ValueError, match="`completion_ids` or `tokenizer` must be given, but got neither"):
        load_reward("conciseness")([text])


def test_token_length_is_best_at_the_target_and_falls_on_both_sides():
    """The end token does not count."""
    counts = [0, 1, 39, 40, 41, 80, 200]
    ids = [[7] * n + [2] for n in counts]
    rewards = TokenLength(40)(["ignored"] * 7, completion_ids=ids, ended=[True] * 7)
    assert rewards == [-40, -39, -1, 0, -1, -40, -160]
    assert str(rewards[3]) == "0.0"


def test_what_was_cut_off_pays_no_more_than_nothing_and_no_more_than_had_it_ended():
    reward = TokenLength(40)
    counts = range(1, 300)
    cut_off = reward([""] * 299, completion_ids=[[7] * n for n in counts], ended=[False] * 299)
    ended = reward([""] * 299, completion_ids=[[7] * n + [2] for n in counts], ended=[True] * 299)
    assert [cut_off[n - 1] for n in (1, 40, 80, 81, 299)] == [-40, -40, -40, -41, -259]
    assert all(a <= min(b, -40) for a, b in zip(cut_off, ended, strict=True))


def test_junk_pays_by_words_and_not_by_tokens(tokenizer):
    sentence, junk = "The little fox was happy and went home.", "Zqxvbw;;;;kjqzxw@@@@vvqqzzxxkkjjwwpp"
    n = len(tokenizer(sentence, add_special_tokens=False)["input_ids"])
    by_words, by_tokens = Brevity(1), TokenLength(n, tokenizer)
    assert by_words([junk])[0] > by_words([sentence])[0]
    assert by_tokens([junk])[0] < by_tokens([sentence])[0] == 0


def test_token_length_counts_texts_and_looks_for_the_end_token_itself(tokenizer):
    text = "Tom was glad. " * 5
    n, end = len(tokenizer(text, add_special_tokens=False)["input_ids"]), tokenizer.eos_token_id
    reward = pickle.loads(pickle.dumps(load_reward("tokens=8", tokenizer)))
    assert reward.__name__ == "tokens_8"
    assert reward(["", text, [{"role": "assistant", "content": text}]]) == [-8, 8 - n, 8 - n]
    assert reward([text], ended=[False]) == [-max(8, n - 8)]
    assert reward(["?"] * 3, completion_ids=[[7] * 6 + [end], [7] * 6, []]) == [-2, -8, -8]
    assert reward(["?"], completion_ids=[[7] * 7], ended=[True]) == [-2], "another end token, known to who sampled it"
    assert reward([]) == []


def test_what_only_a_tokenizer_could_say():
    with pytest.raises(ValueError, match="`completion_ids` or `tokenizer` must be given, but got neither"):
        TokenLength(8)(["a"])
    with pytest.raises(ValueError, match="`ended` or `tokenizer` must be given, but got neither"):
        TokenLength(8)(["a"], completion_ids=[[7]])
    for value in (0, -1, 2.0, True, "2", None):
        with pytest.raises(ValueError, match="`target_tokens` must be an integer of at least 1, but got"):
            TokenLength(value)
