"""Prompts from files: texts and conversations, alone or in rows."""

import json

import pytest

from peft_panacea.data import json_prompts

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello. Who are you?"}]
OTHER = [{"role": "user", "content": "Bye."}]


@pytest.mark.parametrize("prompts", [["One. Two?", "Three"], [CHAT, OTHER]], ids=["texts", "conversations"])
@pytest.mark.parametrize("as_rows", [False, True])
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_every_form_gives_the_same_prompts(prompts, as_rows, suffix, tmp_path):
    path = tmp_path / f"prompts.{suffix}"
    rows = [{"prompt": prompt, "source": "x"} if as_rows else prompt for prompt in (*prompts, prompts[0])]
    path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    assert json_prompts(path) == prompts


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "must have at least one prompt, but got none"),
        ({"prompt": "a"}, "must hold a list of objects, but got"),
        (["a", 3], "row 2: `prompt` must be a string, but got 3"),
        (["a", {"text": "b"}], "row 2: `prompt` must be a string, but got None"),
        ([CHAT, "a"], "row 2: `prompt` must be a list of messages .* but got 'a'"),
        ([[{"role": "user"}]], "row 1: `prompt` must be a list of messages with `role` and `content`"),
    ],
)
def test_anything_else_is_refused_by_file_and_row(rows, message, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=f"prompts.json.* {message}"):
        json_prompts(path)


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('"a"\n{\n')
    with pytest.raises(ValueError, match=r"prompts.jsonl, row 2: must be JSON"):
        json_prompts(path)
