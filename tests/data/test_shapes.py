"""Both shapes of training rows: for one objective, or with every objective's opinion."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_panacea.data import combine, one_row_per_objective, pairs_from_scores

# combine


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_any_m_rows_in_a_row_hold_every_objective(lengths):
    sets = {str(i): Dataset.from_dict({"text": [f"{i}.{k}" for k in range(n)]}) for i, n in enumerate(lengths)}
    rows, m = combine(sets), len(lengths)
    for start in range(len(rows) - m + 1):
        assert sorted(rows[start : start + m]["objective"]) == list(range(m))
    for i, n in enumerate(lengths):
        own = [row["text"] for row in rows if row["objective"] == i]
        assert own == [f"{i}.{k % n}" for k in range(len(own))]
        assert set(own) == set(sets[str(i)]["text"])
    assert len(rows) <= m * max(lengths)


def test_the_objectives_give_the_order():
    sets = {"helpful": Dataset.from_dict({"text": ["a"]}), "harmless": Dataset.from_dict({"text": ["b"]})}
    assert combine(sets, ["harmless", "helpful"])[:] == {"text": ["b", "a"], "objective": [0, 1]}


def test_columns_may_come_in_another_order():
    sets = {"a": Dataset.from_dict({"x": ["1"], "y": ["2"]}), "b": Dataset.from_dict({"y": ["3"], "x": ["4"]})}
    assert combine(sets)[:] == {"x": ["1", "4"], "y": ["2", "3"], "objective": [0, 1]}


TEXT = Dataset.from_dict({"text": ["a"]})


@pytest.mark.parametrize(
    ("sets", "objectives", "message"),
    [
        ({}, None, "`datasets` must have one set for each of the objectives [], but got []."),
        ({"a": TEXT}, ["a", "b"], "for each of the objectives ['a', 'b'], but got ['a']"),
        ({"a": TEXT, "b": TEXT}, ["a"], "for each of the objectives ['a'], but got ['a', 'b']"),
        ({"a": TEXT, "b": TEXT}, ["a", "b", "b"], "for each of the objectives ['a', 'b', 'b'], but got ['a', 'b']"),
        ({"a": TEXT, "b": TEXT.select([])}, None, "must have rows for every objective, but got none for b"),
        ({"a": TEXT, "b": Dataset.from_dict({"prompt": ["a"]})}, None, "must have the same columns, but got {'text'"),
        ({"a": TEXT, "b": Dataset.from_dict({"text": [1]})}, None, "must have the same columns"),
        ({"a": Dataset.from_dict({"text": ["a"], "objective": [0]})}, None, "but got ['objective']"),
    ],
)
def test_sets_that_do_not_go_together(sets, objectives, message):
    with pytest.raises(ValueError, match=r"\A`datasets` must ") as caught:
        combine(sets, objectives)
    assert message in str(caught.value)


# one_row_per_objective


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data(), m=st.integers(1, 4))
def test_one_row_per_objective_says_the_same(data, m):
    labels = data.draw(
        st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=m, max_size=m), min_size=1, max_size=6).filter(
            lambda rows: any(map(any, rows))
        )
    )
    n = len(labels)
    pairs = {"chosen": [f"c{i}" for i in range(n)], "rejected": [f"r{i}" for i in range(n)], "id": list(range(n))}
    rows = one_row_per_objective(Dataset.from_dict({**pairs, "objective_labels": labels}))
    assert set(rows.column_names) == {*pairs, "objective"}
    recovered = [[0] * m for _ in range(n)]
    for row in rows:
        i = row["id"]
        assert {row["chosen"], row["rejected"]} == {f"c{i}", f"r{i}"}
        assert recovered[i][row["objective"]] == 0
        recovered[i][row["objective"]] = 1 if row["chosen"] == f"c{i}" else -1
    assert recovered == labels
    assert rows["id"][:] == sorted(rows["id"])


def test_a_demonstration_of_two_objectives_becomes_two_rows():
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "objective_labels": [[1, 1], [0, 0], [0, 1]]})
    assert one_row_per_objective(rows)[:] == {"text": ["a", "a", "c"], "objective": [0, 1, 1]}


def test_other_columns_that_come_in_two_are_exchanged_as_well():
    row = {"chosen": ["a"], "rejected": ["b"], "chosen_score": [2], "rejected_score": [1], "chosen_by": ["Mia"]}
    (row,) = one_row_per_objective(Dataset.from_dict({**row, "objective_labels": [[-1]]}))
    assert row == {
        "chosen": "b", "rejected": "a", "chosen_score": 1, "rejected_score": 2, "chosen_by": "Mia", "objective": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, "`dataset` must have a column `objective_labels`, but got ['text']."),
        (
            {"text": ["a", "b"], "objective_labels": [[1, 0], [1]]},
            "`objective_labels` must be 2 numbers out of (0, 1), but got [1] in row 1.",
        ),
        ({"text": ["a"], "objective_labels": [[1, -1]]}, "out of (0, 1), but got [1, -1] in row 0."),
        (
            {"chosen": ["a"], "rejected": ["b"], "objective_labels": [[1, 2]]},
            "out of (-1, 0, 1), but got [1, 2] in row 0.",
        ),
        ({"text": ["a"], "objective_labels": [[0, 0]]}, "`objective_labels` must hold an opinion, but got none."),
    ],
)
def test_labels_that_say_nothing(columns, message):
    with pytest.raises(ValueError, match="must") as caught:
        one_row_per_objective(Dataset.from_dict(columns))
    assert message in str(caught.value)


# pairs_from_scores


def test_the_first_objective_with_an_opinion_prefers_chosen():
    assert pairs_from_scores("p", ["a", "b", "c"], [[1, 5], [1, 7.5], [2, None]]) == [
        {"prompt": "p", "chosen": "b", "rejected": "a", "objective_labels": [0, 1]},
        {"prompt": "p", "chosen": "c", "rejected": "a", "objective_labels": [1, 0]},
        {"prompt": "p", "chosen": "c", "rejected": "b", "objective_labels": [1, 0]},
    ]


def test_no_pair_without_an_opinion_or_of_one_text():
    assert pairs_from_scores("p", ["a", "b"], [[1, None], [1, 3]]) == []
    assert pairs_from_scores("p", ["a", "b"], np.array([[1.0, 2.0], [0.0, 3.0]])) == [
        {"prompt": "p", "chosen": "a", "rejected": "b", "objective_labels": [1, -1]}
    ]
    assert pairs_from_scores("p", ["a", "a"], [[1], [2]]) == []
    assert pairs_from_scores("p", ["a"], [[1]]) == pairs_from_scores("p", [], []) == []


score = st.one_of(st.none(), st.integers(0, 3), st.floats(0, 3))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(scores=st.integers(1, 3).flatmap(lambda m: st.lists(st.lists(score, min_size=m, max_size=m), max_size=5)))
def test_every_label_is_the_comparison_of_two_scores(scores):
    found = {}
    for row in pairs_from_scores("p", [str(i) for i in range(len(scores))], scores):
        labels = row["objective_labels"]
        assert next(filter(None, labels)) == 1
        found[int(row["chosen"]), int(row["rejected"])] = labels
    for i, a in enumerate(scores):
        for k, b in enumerate(scores[:i]):
            labels = found.get((i, k)) or [-label for label in found.get((k, i), [0] * len(a))]
            assert labels == [0 if None in xy else (xy[0] > xy[1]) - (xy[0] < xy[1]) for xy in zip(a, b, strict=True)]


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ([[1, 2]], ValueError, "`scores` must be 2 lists of one length, one for each response, but got lists of [2]."),
        ([[1, 2], [1]], ValueError, "but got lists of [2, 1]."),
        ([["1"], [1]], TypeError, "`scores` must hold numbers or None, but got '1'."),
        ([[True], [1]], TypeError, "but got True."),
        ([[float("nan")], [1]], ValueError, "`scores` must hold finite numbers, but got nan."),
    ],
)
def test_scores_that_cannot_be_compared(scores, error, message):
    with pytest.raises(error) as caught:
        pairs_from_scores("p", ["a", "b"], scores)
    assert message in str(caught.value)
