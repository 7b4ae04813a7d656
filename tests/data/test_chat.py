"""Texts become what a user and an assistant say, where the tokenizer has a template and nobody objects."""

import pytest

from peft_panacea.data import chat_prompt, chat_row, is_chat
from small_tokenizers import CHAT, word_tokenizer

USER = {"role": "user", "content": "w3"}
SYSTEM = {"role": "system", "content": "w4"}
WITH, WITHOUT = word_tokenizer(CHAT), word_tokenizer(chat_template=None)


@pytest.mark.parametrize(
    ("prompt", "tokenizer", "plain", "expected"),
    [
        ([USER], WITH, False, True),
        ([USER], WITH, True, True),
        ("w3", WITH, False, True),
        ("w3", WITH, True, False),
        ("w3", WITHOUT, False, False),
    ],
)
def test_what_goes_through_the_template(prompt, tokenizer, plain, expected):
    assert is_chat(prompt, tokenizer, plain=plain) is expected


@pytest.mark.parametrize(
    ("prompt", "tokenizer", "options", "message"),
    [
        ([USER], WITHOUT, {}, "`prompt` must be a text, because the tokenizer has no chat template, but got messages"),
        ("w3", WITHOUT, {"system_prompt": "w5"}, "because the tokenizer has no chat template, but got 'w5'"),
        ("w3", WITH, {"system_prompt": "w5", "plain": True}, "because `plain` says so, but got 'w5'"),
    ],
)
def test_what_cannot_be(prompt, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        is_chat(prompt, tokenizer, **options)


def test_a_prompt_as_messages():
    assert chat_prompt("w3") == chat_prompt([USER]) == [USER]
    assert chat_prompt("w3", "w4") == chat_prompt([USER], "w4") == chat_prompt([SYSTEM, USER], "w5") == [SYSTEM, USER]


def test_a_row_as_messages():
    row = {"prompt": "w3", "chosen": " w5", "rejected": "w6\n", "objective": 1}
    said = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "w5"), ("rejected", "w6"))}
    expected = {"prompt": [SYSTEM, USER], **said, "objective": 1}
    assert chat_row(row, "w4") == expected
    assert chat_row(expected, "w7") == expected
    assert row["prompt"] == "w3"
