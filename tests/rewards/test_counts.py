"""What the rewards that count give, by hand."""

import pickle
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from peft_panacea.rewards import (
    Brevity,
    Distinct,
    conciseness,
    dialogue_share,
    length,
    load_reward,
    sentence_length,
)

STORYTELLER = str(Path(__file__).resolve().parents[2] / "examples" / "storyteller" / "model")


@pytest.mark.parametrize(
    ("reward", "text", "expected"),
    [
        (length, "", 0),
        (length, "One, two - don't and well-known: 3.5!", 7),
        (length, "__ ... \n\t?!", 0),
        (length, "Übermut, cafe\u0301s, naïveté and Ελλάδα", 5),
        (length, "it’s", 1),
        (Brevity(4), "", -4),
        (Brevity(4), "one two three four", 0),
        (Brevity(4), "one two three four five six", -2),
        (dialogue_share, "", 0),
        (dialogue_share, '"Hello there," said Tom.', 0.5),
        (dialogue_share, "“Hello there,” said Tom. “Bye.”", 0.6),
        (dialogue_share, '“He said "no" twice.” Well.', 0.8),
        (dialogue_share, 'Tom said: "Hello there', 0),
        (dialogue_share, '"One" two "three', 1 / 3),
        (dialogue_share, "'One' two", 0),
        (dialogue_share, '"Yes."', 1),
        (sentence_length, "", 0),
        (sentence_length, "One two three. Four! ... “Five six?” Seven… eight", 8 / 5),
        (sentence_length, "It costs 3.5 or more", 6),
        (Distinct(1), "a A b", 2 / 3),
        (Distinct(), "a b a b a", 0.5),
        (Distinct(), "a b c", 1),
        (Distinct(), "a", 0),
        (Distinct(3), "", 0),
    ],
    ids=lambda value: getattr(value, "__name__", None) or repr(value),
)
def test_by_hand(reward, text, expected):
    messages = [{"role": "assistant", "content": text}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
    assert reward(completions=[text, messages, parts], prompts=["x"] * 3) == pytest.approx([expected] * 3)


def test_conciseness_counts_the_tokens_it_is_given():
    ids = [[], [1] * 50, [1] * 51, [1] * 100, [1] * 300]
    expected = [4.0, 4.0, 3.98, 3.0, -1.0]
    assert conciseness(completions=["ignored"] * 5, completion_ids=ids) == pytest.approx(expected)


def test_conciseness_counts_tokens_itself():
    tokenizer = AutoTokenizer.from_pretrained(STORYTELLER)
    text = "Tom was glad. " * 30
    n = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    reward = pickle.loads(pickle.dumps(load_reward("conciseness", tokenizer)))
    assert n > 50
    assert reward(["", text, [{"role": "assistant", "content": text}]]) == [4.0, 5 - n / 50, 5 - n / 50]
    assert reward([text], completion_ids=[[1]]) == [4.0]
    assert reward.__name__ == "conciseness"
    with pytest.raises(ValueError, match="`completion_ids` or `tokenizer` must be given, but got neither"):
        load_reward("conciseness")([text])


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "2", None])
def test_what_is_no_number_of_words(value):
    with pytest.raises(ValueError, match="`target_words` must be an integer of at least 1, but got"):
        Brevity(value)
    with pytest.raises(ValueError, match="`n` must be an integer of at least 1, but got"):
        Distinct(value)
