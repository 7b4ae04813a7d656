"""What is a preference and what is not."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import MLP, steered
from peft_panacea.tuner import parse_preference

NAMES = ("a", "b", "c")


@pytest.mark.parametrize(
    "preference",
    [
        [0.2, 0.3, 0.5],
        (0.2, 0.3, 0.5),
        np.array([0.2, 0.3, 0.5]),
        np.array([0.2, 0.3, 0.5], dtype=np.float32),
        torch.tensor([0.2, 0.3, 0.5]),
        torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64, requires_grad=True),
        [np.float32(0.2), torch.tensor(0.3), np.array(0.5)],
        {"c": 0.5, "a": 0.2, "b": 0.3},
    ],
    ids=repr,
)
def test_every_spelling_of_one_preference(preference):
    parsed = parse_preference(preference, NAMES)
    assert parsed.dtype == torch.float32
    assert not parsed.requires_grad
    torch.testing.assert_close(parsed, torch.tensor([0.2, 0.3, 0.5]))


ROWS = [[1, 0, 0], [0.0, 0.5, 0.5]]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        tuple(ROWS),
        np.array(ROWS),
        torch.tensor(ROWS),
        [torch.tensor(row) for row in ROWS],
        [{"a": 1, "b": 0, "c": 0}, np.array([0.0, 0.5, 0.5])],
    ],
    ids=repr,
)
def test_every_spelling_of_one_preference_per_row(rows):
    assert parse_preference(rows, NAMES).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_thirds_sum_to_one(dtype):
    parse_preference(torch.tensor([0.25, 0.25, 0.5], dtype=dtype), NAMES)


def test_integers_are_numbers():
    assert parse_preference(torch.tensor([0, 1, 0]), NAMES).tolist() == [0.0, 1.0, 0.0]


def test_rounding_below_zero_counts_as_zero():
    assert parse_preference([1 - 0.9 - 0.1, 0.9, 0.1], NAMES)[0].item() == 0.0


def test_writing_into_the_source_changes_nothing():
    source = torch.tensor([1.0, 0.0, 0.0])
    parsed = parse_preference(source, NAMES)
    source.fill_(5.0)
    assert parsed.tolist() == [1.0, 0.0, 0.0]


BAD = [
    ([0.5, 0.5], ValueError, "must have 3 non-negative entries that sum to 1, for a, b, c, but got [0.5, 0.5]"),
    (
        [0.5, 0.2, 0.2],
        ValueError,
        "must have 3 non-negative entries that sum to 1, for a, b, c, but got [0.5, 0.2, 0.2]",
    ),
    ([1.2, -0.2, 0.0], ValueError, "but got [1.2, -0.2, 0]"),
    ([math.nan, 0.5, 0.5], ValueError, "but got [nan, 0.5, 0.5]"),
    ([math.inf, 0.0, 0.0], ValueError, "but got [inf, 0, 0]"),
    ([10**400, 0, 0], ValueError, "but got [inf, 0, 0]"),
    ([], ValueError, "but got []"),
    (torch.ones(1, 1, 1, 3), ValueError, "must have shape (3,), (B, 3) or (B, T, 3), but got (1, 1, 1, 3)"),
    (torch.tensor(1.0), ValueError, "must have shape (3,), (B, 3) or (B, T, 3), but got ()"),
    (torch.zeros(0, 3), ValueError, "must have shape (3,), (B, 3) or (B, T, 3), but got (0, 3)"),
    (torch.zeros(2, 0, 3), ValueError, "or (B, T, 3), but got (2, 0, 3)"),
    (torch.eye(3)[None] * 2, ValueError, "row 0, token 0 must have 3 non-negative entries that sum to 1"),
    ([[1, 0, 0], [1, 1, 0]], ValueError, "row 1 must have 3 non-negative entries that sum to 1"),
    ([[1, 0, 0], [1, 0]], ValueError, "row 1 must have 3 non-negative entries"),
    ([[1, 0, 0], [[1, 0, 0]]], TypeError, "row 1 must hold real numbers"),
    (np.array([[1, 0, 0], [0, 2, 0]]), ValueError, "row 1 must have 3 non-negative entries"),
    ({"a": 0.5, "b": 0.5}, ValueError, "must name exactly the objectives ['a', 'b', 'c'], but got ['a', 'b']"),
    ({"a": 0.5, "b": 0.5, "d": 0.0}, ValueError, "but got ['a', 'b', 'd']"),
    ([{"a": 1, "b": 0, "c": 0}, {"a": 1}], ValueError, "row 1 must name exactly the objectives"),
    ("abc", ValueError, "must be numbers, or one of the adapter's `named_preferences` [], but got 'abc'"),
    (None, TypeError, "but got NoneType"),
    (1.0, TypeError, "but got float"),
    ({0.2, 0.3, 0.5}, TypeError, "but got set"),
    (
        ["0.2", "0.3", "0.5"],
        ValueError,
        "row 0 must be numbers, or one of the adapter's `named_preferences` [], but got '0.2'",
    ),
    ([0.5, "0.5", 0.0], TypeError, "must hold real numbers, but got '0.5'"),
    ([0.5, None, 0.5], TypeError, "must hold real numbers, but got None"),
    ([True, False, False], TypeError, "must hold real numbers, but got True"),
    ([1j, 0, 0], TypeError, "must hold real numbers, but got 1j"),
    ({"a": "1", "b": 0, "c": 0}, TypeError, "must hold real numbers, but got '1'"),
    (torch.tensor([True, False, False]), TypeError, "must hold real numbers, but got a tensor of torch.bool"),
    (torch.empty(3, device="meta"), TypeError, "on meta"),
    (np.array(["a", "b", "c"]), TypeError, "must hold real numbers, but got an array of <U1"),
]


@pytest.mark.parametrize(("preference", "error", "message"), BAD, ids=[repr(bad[0]) for bad in BAD])
def test_anything_else_is_refused_in_one_sentence(preference, error, message):
    with pytest.raises(error) as caught:
        parse_preference(preference, NAMES)
    text = str(caught.value)
    assert text.startswith("`preference` ")
    assert message in text
    assert "\n" not in text


def test_tokens():
    tokens = torch.rand(2, 5, 3).softmax(-1)
    torch.testing.assert_close(parse_preference(tokens, NAMES), tokens)
    torch.testing.assert_close(parse_preference(tokens.numpy(), NAMES), tokens)


def test_extrapolation_drops_the_simplex_and_nothing_else():
    assert parse_preference([2.0, -0.5, 0.0], NAMES, extrapolate=True).tolist() == [2.0, -0.5, 0.0]
    for bad in ([2.0, 0.0], [math.nan, 0.0, 0.0], [1e39, 0.0, 0.0]):
        with pytest.raises(ValueError, match="must have 3 finite entries, for a, b, c, but got"):
            parse_preference(bad, NAMES, extrapolate=True)


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
anything = st.one_of(finite, st.just(math.nan), st.just(math.inf), st.just(-math.inf))
on_simplex = st.lists(st.floats(0, 1), min_size=2, max_size=2).map(lambda w: [w[0], 1 - w[0]])


def is_on_simplex(numbers: list[float]) -> bool:
    """The rule in other words, and a little wider, so that nothing on the border is called bad here."""
    return len(numbers) == 2 and all(-1e-7 <= n < math.inf for n in numbers) and abs(math.fsum(numbers) - 1) <= 2e-4


bad_vectors = st.one_of(
    st.lists(anything, max_size=5),
    on_simplex.flatmap(  # near misses: one entry moved off the simplex
        lambda w: st.tuples(st.floats(3e-4, 10), st.sampled_from([-1, 1]), st.integers(0, 1)).map(
            lambda t: [x + t[0] * t[1] if i == t[2] else x for i, x in enumerate(w)]
        )
    ),
    on_simplex.flatmap(lambda w: st.floats(1e-6, 5).map(lambda t: [-t, 1 + t])),
    on_simplex.map(lambda w: [*w, 0.0]),
).filter(lambda numbers: not is_on_simplex(numbers))

bad_preferences = st.one_of(
    bad_vectors,
    bad_vectors.map(tuple),
    bad_vectors.map(lambda v: np.array(v, dtype=np.float64)),
    bad_vectors.map(lambda v: torch.tensor(v, dtype=torch.float64)),
    bad_vectors.map(lambda v: dict(zip("abcde", v, strict=False))),
    st.tuples(on_simplex, bad_vectors).map(list),  # one good row does not save a bad one
    st.dictionaries(st.text(max_size=2), finite, max_size=3).filter(lambda d: set(d) != {"a", "b"}),
    st.one_of(st.none(), st.text(max_size=3), st.booleans(), finite, st.binary(max_size=3), st.sets(finite)),
    st.lists(st.one_of(st.none(), st.text(max_size=2), st.booleans(), st.complex_numbers()), min_size=1, max_size=3),
)

MODEL = steered(MLP(), target_modules=["hidden", "out"])
X = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))


@settings(max_examples=2500, deadline=None, derandomize=True)
@given(bad=bad_preferences)
def test_no_bad_preference_is_accepted_or_changes_the_output(bad):
    MODEL.set_preference([0.3, 0.7])
    expected = MODEL(X)
    with pytest.raises((ValueError, TypeError), match=r"\A`preference` "):
        MODEL.set_preference(bad)
    with pytest.raises((ValueError, TypeError), match=r"\A`preference` "), MODEL.preference(bad):
        pytest.fail("the block was entered")
    assert torch.equal(MODEL(X), expected)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(good=on_simplex)
def test_every_preference_on_the_simplex_is_accepted(good):
    MODEL.set_preference(good)
    torch.testing.assert_close(MODEL.get_preference(), torch.tensor(good, dtype=torch.float32))
