"""Training rows from a file of one's own."""

import json

import pytest

from peft_panacea.data import json_preferences


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


NAMES = ["helpful", "harmless"]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [
                {"prompt": "p", "responses": ["a", "b"], "scores": [{"helpful": 1, "harmless": 2.5}, {"helpful": 2}]},
                {"prompt": "q", "responses": ["a", "b"], "scores": [{"harmless": None}, {}], "id": 7},
                {
                    "prompt": "r",
                    "responses": ["a", "b"],
                    "scores": [{"helpful": 1, "harmless": 2}, {"helpful": 3, "harmless": 0}],
                },
            ],
            [
                {"prompt": "p", "chosen": "b", "rejected": "a", "objective_labels": [1, 0]},
                {"prompt": "r", "chosen": "b", "rejected": "a", "objective_labels": [1, -1]},
            ],
        ),
        (
            [
                {"prompt": "p", "chosen": "a", "rejected": "b", "objective": "harmless"},
                {"prompt": "q", "chosen": "c\u2028", "rejected": "ä", "objective": 0},
            ],
            [
                {"prompt": "p", "chosen": "a", "rejected": "b", "objective": 1},
                {"prompt": "q", "chosen": "c\u2028", "rejected": "ä", "objective": 0},
            ],
        ),
        (
            [{"prompt": [user("p")], "completion": [assistant("a")], "objective": "helpful"}],
            [{"prompt": [user("p")], "completion": [assistant("a")], "objective": 0}],
        ),
        ([{"text": "t", "objective": "helpful"}], [{"text": "t", "objective": 0}]),
    ],
)
def test_a_file_of_your_own(tmp_path, suffix, rows, expected):
    path = tmp_path / f"rows.{suffix}"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join([*lines, ""]) if suffix == "jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    assert json_preferences(path, NAMES).to_list() == expected


SCORED = {"prompt": "p", "responses": ["a", "b"], "scores": [{"helpful": 1}, {"helpful": 2}]}
JUDGED = {"prompt": "p", "chosen": "a", "rejected": "b", "objective": 0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [JUDGED, {"prompt": "p"}],
            "row 2: the row must have the columns ['prompt', 'chosen', ",
        ),
        ([{"prompt": "p"}], "row 1: the row must have the columns of one of [['prompt', 'responses', 'scores'], "),
        (["p"], "but got 'p'."),
        ([{**JUDGED, "chosen": 3}], "row 1: `chosen` must be a string, but got 3."),
        ([JUDGED, {**JUDGED, "prompt": [user("p")]}], "row 2: `prompt` must be a string, but got [{'role': 'user'"),
        (
            [{**JUDGED, "prompt": [user("p")]}],
            "row 1: `chosen` must be a list of messages with `role` and `content`, like the first, but got 'a'.",
        ),
        ([{**JUDGED, "prompt": [{"role": "user"}]}], "row 1: `prompt` must be a list of messages"),
        (
            [{**JUDGED, "objective": "funny"}],
            "row 1: `objective` must be one of ['helpful', 'harmless'] or an index from 0 to 1, but got 'funny'.",
        ),
        ([{**JUDGED, "objective": 2}], "from 0 to 1, but got 2."),
        ([{**JUDGED, "objective": True}], "from 0 to 1, but got True."),
        ([SCORED, {**SCORED, "responses": "ab"}], "row 2: `responses` must be a list of texts, but got 'ab'."),
        ([{**SCORED, "responses": ["a", None]}], "row 1: `responses` must be a string, but got None."),
        (
            [{**SCORED, "scores": [{"funny": 1}, {}]}],
            "row 1: `scores` must be a list of objects with numbers for ['helpful', 'harmless'], but got [{'fu",
        ),
        ([{**SCORED, "scores": [{"helpful": "1"}, {}]}], "row 1: `scores` must hold numbers or None, but got '1'."),
        ([{**SCORED, "scores": [{"helpful": 1}]}], "row 1: `scores` must be 2 lists of one length"),
        ([{**SCORED, "scores": [{}, {}]}], " must have a row on which an objective has an opinion, but got none."),
        ([], " must have a row on which an objective has an opinion, but got none."),
        ([{**JUDGED, "chosen": list(range(1000))}], "…."),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, message):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(ValueError, match=r"rows\.jsonl") as caught:
        json_preferences(path, NAMES)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert message in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "rows.jsonl",
            '{"text": "a", "objective": 0}\n{"text"',
            "rows.jsonl, row 2: must be JSON, but got: Expec",
        ),
        ("rows.json", "[1", "rows.json must be JSON, but got: Expecting"),
        ("rows.json", '["é"]', "rows.json must be JSON, but got: 'utf-8' codec can't decode byte 0xe9"),
        ("rows.json", '{"text": "a"}', "rows.json must hold a list of objects, but got {'text': 'a'}."),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"rows\.") as caught:
        json_preferences(tmp_path / name, NAMES)
    assert message in str(caught.value)
