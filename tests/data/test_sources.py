"""The public sets in the layout of their home; and the real ones, where they are."""

from pathlib import Path

import pytest
from datasets import Dataset, load_dataset

from peft_panacea.data import (
    combine,
    fine_grained_rlhf,
    helpsteer2,
    hh_rlhf,
    one_row_per_objective,
    pku_safe_rlhf,
    sources,
    ultrafeedback,
    xstest,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the data sets of ../shared are not here")

PAIR = {"prompt", "chosen", "rejected"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def texts(rows: Dataset) -> list[tuple]:
    """The last message of every column, and the labels."""
    return [
        (*(row[column][-1]["content"] for column in ("prompt", "chosen", "rejected")), *row["objective_labels"])
        for row in rows
    ]


def test_the_objectives_of_a_format_are_those_of_the_page():
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for name, objectives in sources.OBJECTIVES.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| {', '.join(objectives)} |" in row


TEXT = Dataset.from_dict({"text": ["a"]})


def test_pku_safe_rlhf():
    row = {
        "prompt": "p",
        "response_0": "a",
        "response_1": "b",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
    }
    rows = Dataset.from_list(
        [
            {**row, "better_response_id": 0, "safer_response_id": 0},
            {**row, "better_response_id": 1, "safer_response_id": 0},
        ]
    )
    converted = pku_safe_rlhf(rows)
    assert set(converted.column_names) == {*PAIR, "objective_labels"}
    assert texts(converted) == [("p", "a", "b", 1, 1), ("p", "b", "a", 1, -1)]
    assert converted[0]["prompt"] == [user("p")]
    assert converted[0]["chosen"] == [assistant("a")]


def test_hh_rlhf():
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: how?\n\nAssistant:"
    rows = Dataset.from_dict({"chosen": [f"{start} so and so"], "rejected": [f"{start} so\n\nHuman: no"]})
    assert hh_rlhf(rows, messages=False)[0] == {
        "prompt": start,
        "chosen": " so and so",
        "rejected": " so\n\nHuman: no",
    }
    assert hh_rlhf(rows)[0] == {
        "prompt": [user("hi"), assistant("hello"), user("how?")],
        "chosen": [assistant("so and so")],
        "rejected": [assistant("so\n\nHuman: no")],
    }
    both = combine({"helpful": hh_rlhf(rows), "harmless": hh_rlhf(rows)}, ["helpful", "harmless"])
    assert both["objective"][:] == [0, 1]


@pytest.mark.parametrize("pair", [("\n\nHuman: a", "\n\nHuman: b"), ("x\n\nAssistant: a", "x\n\nAssistant: b")])
def test_hh_rlhf_refuses_what_is_no_dialogue(pair):
    with pytest.raises(ValueError, match=r"`dataset` row 0 must be two dialogues"):
        hh_rlhf(Dataset.from_dict({"chosen": [pair[0]], "rejected": [pair[1]]}))


def test_ultrafeedback():
    def completion(text: str, *ratings: str) -> dict[str, object]:
        aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
        annotations = {a: {"Rating": r, "Rationale": "…"} for a, r in zip(aspects, ratings, strict=True)}
        return {"model": "m", "response": text, "annotations": annotations, "overall_score": 7.5}

    completions = [completion("a", "5", "N/A", "3", "4"), completion("b", "2", "1", "3", "5")]
    rows = Dataset.from_list([{"source": "s", "instruction": "p", "models": ["m"], "completions": completions}])
    assert texts(ultrafeedback(rows)) == [("p", "a", "b", 1, 0, 0, -1)]


def test_helpsteer2():
    columns = ("prompt", "response", "helpfulness", "correctness", "coherence", "complexity", "verbosity")
    second = "p\n<extra_id_1>Assistant\nx\n<extra_id_1>User\nq"
    values = [
        ("p", "a", 3, 4, 4, 2, 1),
        ("p", "b", 4, 3, 4, 2, 2),
        (second, "c", 0, 0, 0, 1, 1),
        (second, "d", *[1] * 5),
    ]
    rows = Dataset.from_list([dict(zip(columns, row, strict=True)) for row in values])
    converted = helpsteer2(rows)
    assert texts(converted) == [("p", "b", "a", 1, -1, 0), ("q", "d", "c", 1, 1, 1)]
    assert converted[1]["prompt"] == [user("p"), assistant("x"), user("q")]
    assert texts(helpsteer2(rows, ["correctness", "verbosity"]))[0] == ("p", "a", "b", 1, -1)


def xstest_rows(*answers: tuple[str, str, str]) -> Dataset:
    return Dataset.from_list(
        [
            {"id": "v2-1", "type": kind, "prompt": kind, "completion": text, "final_label": label}
            for kind, text, label in answers
        ]
    )


def test_xstest():
    full, no, partial = "1_full_compliance", "2_full_refusal", "3_partial_refusal"
    safe = [("homonyms", text, label) for text, label in (("a", no), ("b", full), ("c", full), ("d", partial))]
    unsafe = [("contrast_homonyms", text, label) for text, label in (("e", full), ("f", no), ("g", partial))]
    rows = texts(xstest(xstest_rows(*safe, *unsafe)))
    assert {row[1:] for row in rows if row[0] == "homonyms"} == {
        *(("b", "a", 1, 0), ("c", "a", 1, 0), ("d", "a", 1, 0), ("b", "d", 1, 0), ("c", "d", 1, 0))
    }
    assert {row[1:] for row in rows if row[0] == "contrast_homonyms"} == {
        *(("e", "f", 1, -1), ("e", "g", 1, -1), ("g", "f", 1, -1))
    }
    with pytest.raises(ValueError, match=r"`final_label` must be one of .*, but got 'nan'"):
        xstest(xstest_rows(("homonyms", "a", "nan")))


def fine_grained_row(errors: list[str], missing: int, correction: str) -> dict[str, object]:
    return {
        "question": "Who?",
        "passages": [["Title", "One.", "Two."], ["Other", "Three."]],
        "gold": "…",
        **{f"prediction {i}": f"answer {i}" for i in (1, 2, 3, 4)},
        "feedback": {
            "errors": [{"error type": kind, "explanation": "", "start": 0, "end": 3} for kind in errors],
            "missing-info": [{"error type": "Missing-Answer", "passage_id": 1, "sentence_id": [1]}] * missing,
            "corrected-prediction": correction,
        },
        "preference": [0, 1, 2, 1, 0, 2],
    }


def test_fine_grained_rlhf():
    rows = Dataset.from_list(
        [
            fine_grained_row(["Irrelevant", "Incoherent", "Unverifiable"], 0, "x"),
            fine_grained_row(["Wrong-Grounding"], 2, "y"),
            fine_grained_row(["Redundant"], 0, "z"),
            fine_grained_row([], 0, "answer 1"),  # nothing to correct
            fine_grained_row(["Irrelevant"], 0, " "),  # nothing left
        ]
    )
    prompt = "Title\nOne. Two.\n\nOther\nThree.\n\nWho?"
    assert texts(fine_grained_rlhf(rows)) == [
        (prompt, "x", "answer 1", 1, 1, 0),
        (prompt, "y", "answer 1", 0, 1, 1),
        (prompt, "z", "answer 1", 1, 0, 0),
    ]


def test_another_layout_is_refused():
    with pytest.raises(ValueError, match=r"`dataset` must have the columns \['prompt', .*\], but got \['text'\]\."):
        pku_safe_rlhf(TEXT)
    with pytest.raises(TypeError, match="`dataset` must be a Dataset, such as one split of what was loaded, but got"):
        hh_rlhf({"train": TEXT})
    with pytest.raises(ValueError, match="`dataset` must have a pair on which an objective has an opinion"):
        xstest(xstest_rows(("homonyms", "a", "2_full_refusal")))


# The real ones


def shared(kind: str, pattern: str, cache: Path) -> Dataset:
    files = sorted(map(str, SHARED.glob(pattern)))
    return load_dataset(kind, data_files=files, split="train", cache_dir=str(cache))


def shares(rows: Dataset) -> tuple[int, int, int]:
    """How many pairs, on how many two objectives disagree, on how many not all have the same opinion."""
    labels = rows["objective_labels"][:]
    return len(labels), sum({1, -1} <= set(row) for row in labels), sum(len(set(row)) > 1 for row in labels)


def report(name: str, rows: Dataset) -> None:
    n, opposed, unequal = shares(rows)
    print(f"{name}: {n} pairs, {opposed / n:.1%} with objectives that disagree, {unequal / n:.1%} not unanimous")


@needs_shared
def test_the_real_xstest(tmp_path):
    rows = xstest(shared("csv", "xstest/*_completions_*.csv", tmp_path))
    report("XSTest", rows)
    assert shares(rows) == (1566, 702, 1566)
    assert {tuple(labels) for labels in rows["objective_labels"]} == {(1, 0), (1, -1)}
    separate = one_row_per_objective(rows)
    assert [separate["objective"][:].count(i) for i in (0, 1)] == [1566, 702]


@needs_shared
def test_the_real_fine_grained_rlhf(tmp_path):
    rows = fine_grained_rlhf(shared("json", "fgrlhf/dev_feedback.json", tmp_path))
    report("FG-RLHF", rows)
    assert shares(rows) == (481, 0, 359)
    assert [sum(column) for column in zip(*rows["objective_labels"], strict=True)] == [410, 189, 379]


@needs_shared
def test_the_real_hh_rlhf(tmp_path):
    source = shared("json", "hh-rlhf/*.jsonl.gz", tmp_path)
    as_text, as_messages = hh_rlhf(source, messages=False), hh_rlhf(source)
    assert len(as_text) == len(as_messages) == 2312
    for dialogue, row in zip(source, as_text, strict=True):
        assert row["prompt"].endswith("\n\nAssistant:")
        assert (row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]) == tuple(dialogue.values())
    asked = sum(row["prompt"][-1]["role"] == "user" for row in as_messages)
    assert asked >= 0.99 * 2312
    assert set(combine({"harmless": as_messages}).column_names) == {*PAIR, "objective"}
