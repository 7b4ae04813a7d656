"""Bounds on preferences hold at every door."""

import copy
import itertools
import json
import pickle
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, inject_adapter_in_model

import peft_panacea
from conftest import llama, randomise, steered
from peft_panacea import PanaceaConfig, simplex_grid
from peft_panacea.convert import export_gguf, export_lora, export_lora_basis, export_lora_grid
from peft_panacea.tuner.bounds import BOUND_TOLERANCE, checked_bounds, limits, nearest
from peft_panacea.tuner.preferences import parse_preference

NAMES = ["a", "b", "c"]
BOUNDS = {"b": (0.3, 1.0), "c": (0.0, 0.25)}


def inside(p, rounding=1e-7):
    return 0.3 - rounding <= p[1] <= 1 + rounding and -rounding <= p[2] <= 0.25 + rounding


@pytest.fixture(scope="module")
def bounded():
    return steered(llama(), objectives=NAMES, preference_bounds=BOUNDS, task_type="CAUSAL_LM")


def draws(n, seed=0):
    """Preferences of all kinds, most of them forbidden: on the simplex, at its corners, at the bounds, off it."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.distributions.Dirichlet(torch.full((3,), 0.5))
    torch.manual_seed(seed)
    on = spread.sample((n // 2,)).double()
    at = torch.tensor([[0.7, 0.3, 0.0], [0.45, 0.3, 0.25], [0.0, 1.0, 0.0], [0.0, 0.75, 0.25]], dtype=torch.float64)
    moved = at[torch.randint(4, (n // 4,), generator=generator)]
    scale = 10.0 ** torch.randint(-9, 0, (n // 4, 1), generator=generator)
    moved = moved + scale * torch.randn(n // 4, 3, generator=generator, dtype=torch.float64)
    return torch.cat([on, moved, torch.randn(n // 4, 3, generator=generator, dtype=torch.float64)]).tolist()


def test_no_door_lets_one_through(bounded):
    """Thousands of attempts; what is accepted is what is seen, and lies within."""
    model, accepted, refused = bounded, 0, 0
    ids = torch.tensor([[1, 5, 9]])
    state = model.base_model.preference_state

    def seen(_module, _args):
        for held in state.seen().values():
            found.extend(held.on().reshape(-1, 3).tolist())

    def block(p, wide):
        with model.preference(p, extrapolate=wide):
            assert inside(model.get_preference().tolist())

    found = []
    hook = model.get_base_model().register_forward_pre_hook(seen)
    doors = [
        lambda p, wide: model.set_preference(p, extrapolate=wide),
        lambda p, wide: peft_panacea.set_preference(model, dict(zip(NAMES, p, strict=True)), extrapolate=wide),
        lambda p, wide: model.set_preference([[0, 1, 0], p], extrapolate=wide),
        lambda p, wide: model.set_preference(torch.tensor([[p]]), extrapolate=wide),
        block,
        lambda p, wide: model.peft_config["default"].parse_preference(p, extrapolate=wide),
        lambda p, wide: PanaceaConfig(objectives=NAMES, preference_bounds=BOUNDS, default_preference=p),
    ]
    for i, p in enumerate(draws(2000)):
        door, wide = doors[i % len(doors)], i % 2 == 1
        before = model.get_preference()
        try:
            door(p, wide)
        except ValueError:
            refused += 1
            assert torch.equal(model.get_preference(), before)
            continue
        accepted += 1
        assert inside(p, BOUND_TOLERANCE)
        assert all(map(inside, model.get_preference().reshape(-1, 3).tolist()))
    for p in draws(200, seed=1):
        try:
            model(ids, preference=p)
            assert inside(p, BOUND_TOLERANCE)
        except ValueError:
            assert all(map(inside, found))
    hook.remove()
    model.set_preference([0, 1, 0])
    assert min(accepted, refused) > 100
    assert found
    assert all(map(inside, found))


def test_exports_are_doors_too(bounded, tmp_path):
    export_lora(bounded, [0.7, 0.3, 0.0], tmp_path / "allowed")
    for p, wide in (([1, 0, 0], False), ([0.2, 1.1, -0.3], True), ([0.0, 0.5, 0.5], False)):
        with pytest.raises(ValueError, match=r"between .* which the adapter's `preference_bounds` allow"):
            export_lora(bounded, p, tmp_path / "one", extrapolate=wide)
        with pytest.raises(ValueError, match="`preference_bounds` allow"):
            export_lora_grid(bounded, [[0, 1, 0], p], tmp_path / "grid", extrapolate=wide)
    assert [path.name for path in tmp_path.iterdir()] == ["allowed"]


def test_what_cannot_enforce_them_says_them(bounded, tmp_path):
    """Files that others read: a basis, the card."""
    export_lora_basis(bounded, tmp_path / "basis")
    export_gguf(bounded, tmp_path / "gguf")
    for folder in ("basis", "gguf"):
        text = (tmp_path / folder / "README.md").read_text(encoding="utf-8")
        assert "meant for b 0.3 to 1, c 0 to 0.25; check that where requests come in." in text
    bounded.save_pretrained(tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "what its bounds allow (b 0.3 to 1, c 0 to 0.25), which they can change." in card


@pytest.mark.parametrize("extrapolate", [False, True])
def test_the_sentence(bounded, extrapolate):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        bounded.set_preference([0.8, 0.2, 0.0], extrapolate=extrapolate)
    assert str(caught.value) == (
        "`preference` must have 'b' between 0.3 and 1, which the adapter's `preference_bounds` allow, but got 0.2; "
        "`nearest_preference` finds one that they allow."
    )
    with pytest.raises(ValueError, match=r"`preference` row 1 must have 'c' between 0 and 0.25"):
        bounded.set_preference([[0, 1, 0], [0, 0.5, 0.5]], extrapolate=extrapolate)


def test_off_the_simplex_only_what_is_bounded_is(bounded):
    with bounded.preference([-3.0, 0.9, 0.1], extrapolate=True):
        torch.testing.assert_close(bounded.get_preference(), torch.tensor([-3.0, 0.9, 0.1]))


def test_they_are_saved_loaded_copied_and_injected(bounded, tmp_path):
    bounded.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["preference_bounds"] == {
        "b": [0.3, 1.0],
        "c": [0.0, 0.25],
    }
    injected = inject_adapter_in_model(PanaceaConfig(objectives=NAMES, preference_bounds=BOUNDS), llama())
    for model in (
        PeftModel.from_pretrained(llama(), tmp_path),
        copy.deepcopy(bounded),
        pickle.loads(pickle.dumps(bounded)),
        injected,
    ):
        assert inside(peft_panacea.get_preference(model).tolist())
        with pytest.raises(ValueError, match="`preference_bounds` allow"):
            peft_panacea.set_preference(model, [1, 0, 0])


def test_each_adapter_has_its_own():
    model = steered(llama(), objectives=["a", "b"], preference_bounds={"a": (0.5, 1.0)})
    model.add_adapter("free", PanaceaConfig(objectives=["a", "b"]))
    randomise(model)
    model.set_preference([0, 1], "free")
    with pytest.raises(ValueError, match=r"'a' between 0.5 and 1"):
        model.set_preference([0, 1])
    model.set_adapter("free")
    model.delete_adapter("default")
    model.set_preference([0, 1])


def test_the_default_is_the_nearest_to_the_uniform_one():
    config = PanaceaConfig(objectives=2, preference_bounds={"objective_0": (0.8, 1.0)})
    assert config.initial_preference == pytest.approx([0.8, 0.2])
    with pytest.raises(ValueError, match=r"`default_preference` must have 'objective_0' between 0.8 and 1"):
        PanaceaConfig(objectives=2, preference_bounds={"objective_0": (0.8, 1.0)}, default_preference=[0.5, 0.5])


def test_the_nearest_preference(bounded):
    torch.testing.assert_close(bounded.nearest_preference([1, 0, 0]), torch.tensor([0.7, 0.3, 0.0]))
    torch.testing.assert_close(
        peft_panacea.nearest_preference(bounded, {"a": 0.5, "b": 0.4, "c": 0.1}), torch.tensor([0.5, 0.4, 0.1])
    )
    rows = bounded.nearest_preference([[0, 1, 0], [9, -9, 9]])
    assert rows.shape == (2, 3)
    bounded.set_preference(rows)
    bounded.set_preference([0, 1, 0])


@pytest.mark.parametrize("steps", [1, 7, 10, 24])
def test_a_grid_is_kept_to_them(steps):
    """What is allowed stays, what is not goes to the nearest allowed one, which is there once."""
    config, grid = PanaceaConfig(objectives=NAMES, preference_bounds=BOUNDS), simplex_grid(3, steps)
    found = config.allowed(grid)
    expected = []
    for row in grid:
        moved = row if inside(row) else torch.tensor(nearest(row.tolist(), *limits(BOUNDS, NAMES)))
        if not any(torch.allclose(moved, other, atol=1e-6) for other in expected):
            expected.append(moved)
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(config.parse_preference(found), found)


def test_what_is_allowed_of_a_grid_is_there_to_the_last_bit():
    grid = simplex_grid(3, 7)
    found = PanaceaConfig(objectives=NAMES, preference_bounds=BOUNDS).allowed(grid)
    assert all((row == found).all(dim=1).any() for row in grid if inside(row))


@pytest.mark.parametrize("steps", [3, 10, 64, 128])
def test_the_grid_of_two_ends_at_the_bound(steps):
    found = PanaceaConfig(preference_bounds={"objective_0": (0.0, 0.7)}).allowed(simplex_grid(2, steps))
    below = [k / steps for k in range(steps + 1) if k / steps < 0.7 - 1e-6]
    torch.testing.assert_close(found[:, 0], torch.tensor([*below, 0.7]))


def test_a_grid_without_bounds_is_as_it_is():
    grid = simplex_grid(3, 5)
    assert torch.equal(PanaceaConfig(objectives=NAMES).allowed(grid), grid)
    with pytest.raises(ValueError, match="must have 2 non-negative entries"):
        PanaceaConfig().allowed(grid)


@st.composite
def regions(draw):
    """Limits that leave a preference, and a point anywhere."""
    m = draw(st.integers(2, 10))
    weights = draw(st.lists(st.floats(0.01, 1), min_size=m, max_size=m))
    centre = [weight / sum(weights) for weight in weights]
    lows = [draw(st.floats(0, 1)) * c for c in centre]
    highs = [c + draw(st.floats(0, 1)) * (1 - c) for c in centre]
    return centre, lows, highs, draw(st.lists(st.floats(-3, 3), min_size=m, max_size=m))


@given(regions())
@settings(max_examples=300, deadline=None)
def test_nearest_is_within_and_no_other_is_nearer(region):
    centre, lows, highs, point = region
    found = nearest(point, lows, highs)
    names = [str(i) for i in range(len(point))]
    bounds = {name: pair for name, *pair in zip(names, lows, highs, strict=True)}
    parse_preference(found, names, bounds=bounds)
    assert abs(sum(found) - 1) < 1e-9
    # For a convex region it is the nearest if and only if no step towards another point of it gets nearer.
    towards = sum((p - f) * (c - f) for p, f, c in zip(point, found, centre, strict=True))
    assert towards <= 1e-9
    assert nearest(found, lows, highs) == pytest.approx(found, abs=1e-9)


def exactly_nearest(row, lows, highs):
    """In rational numbers: the sum of clip(row - t, low, high) is a line between neighbouring ends of intervals."""
    row, lows, highs = ([Fraction(x) for x in numbers] for numbers in (row, lows, highs))

    def shifted(t):
        return [min(max(x - t, low), high) for x, low, high in zip(row, lows, highs, strict=True)]

    ends = sorted({x - limit for x, *both in zip(row, lows, highs, strict=True) for limit in both})
    sums = [sum(shifted(t)) for t in ends]
    for (t, many), (u, few) in itertools.pairwise(zip(ends, sums, strict=True)):
        if many >= 1 >= few:
            return [float(x) for x in shifted(t if many == few else t + (u - t) * (many - 1) / (many - few))]
    raise AssertionError


@pytest.mark.parametrize("seed", range(60))
def test_nearest_of_numbers_of_any_size(seed):
    """Of one, of different sizes, and equal ones."""
    rng = random.Random(seed)
    m = rng.randint(2, 5)
    sizes = [10.0 ** rng.uniform(0, 38) for _ in range(rng.choice([1, m]))]
    row = [rng.choice([0.0, 1.0, -1.0, rng.random()]) * rng.choice(sizes) + rng.random() for _ in range(m)]
    lows = [rng.choice([0.0, rng.random() / m]) for _ in range(m)]
    highs = [rng.choice([1.0, rng.uniform(1 / m, 1)]) for _ in range(m)]
    found = nearest(row, lows, highs)
    assert found == pytest.approx(exactly_nearest(row, lows, highs), abs=1e-9)
    assert sum(found) == pytest.approx(1, abs=1e-9)


def test_the_nearest_preference_is_always_float32(bounded):
    expected = torch.tensor([0.375, 0.375, 0.25])
    assert torch.equal(bounded.nearest_preference([1e30, 1e30, 1e30]), expected)
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            found = bounded.nearest_preference([1, 1, 1])
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(found, expected)
    with torch.device("meta"):
        assert torch.equal(bounded.nearest_preference([1, 1, 1]), expected)


@pytest.mark.parametrize(
    ("bounds", "error", "sentence"),
    [
        ([0.3, 1.0], TypeError, "`preference_bounds` must map objectives to (least, greatest), but got [0.3, 1.0]"),
        ({"d": (0, 1)}, ValueError, "`preference_bounds` must name objectives of ['a', 'b', 'c'], but got 'd'"),
        ({"a": 0.3}, TypeError, "`preference_bounds['a']` must be (least, greatest), but got 0.3"),
        ({"a": (0, 1, 2)}, TypeError, "`preference_bounds['a']` must be (least, greatest), but got (0, 1, 2)"),
        ({"a": (False, True)}, TypeError, "`preference_bounds['a']` must be (least, greatest)"),
        ({"a": (0.5, 0.4)}, ValueError, "must have 0 ≤ least ≤ greatest ≤ 1, but got (0.5, 0.4)"),
        ({"a": (float("nan"), 1)}, ValueError, "must have 0 ≤ least ≤ greatest ≤ 1, but got (nan, 1)"),
        ({"a": (0.6, 1), "b": (0.6, 1)}, ValueError, "the least sum to 1.2 and the greatest to 3"),
        ({"a": (0, 0.2), "b": (0, 0.2), "c": (0, 0.2)}, ValueError, "the greatest to 0.6"),
    ],
    ids=str,
)
def test_bounds_that_cannot_be_are_refused(bounds, error, sentence):
    with pytest.raises(error) as caught:
        PanaceaConfig(objectives=NAMES, preference_bounds=bounds)
    assert sentence in str(caught.value)


def test_limits_of_what_has_no_bounds():
    assert limits(checked_bounds(BOUNDS, NAMES), NAMES) == ([0.0, 0.3, 0.0], [1.0, 1.0, 0.25])
