"""What the rewards that count give, by hand."""

import pytest

from peft_panacea.rewards import (
    Brevity,
    Distinct,
    dialogue_share,
    length,
    sentence_length,
)


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


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "2", None])
def test_what_is_no_number_of_words(value):
    with pytest.raises(ValueError, match="`target_words` must be an integer of at least 1, but got"):
        Brevity(value)
    with pytest.raises(ValueError, match="`n` must be an integer of at least 1, but got"):
        Distinct(value)
