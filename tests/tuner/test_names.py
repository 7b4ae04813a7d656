"""Preferences that an adapter has names for."""

import copy
import pickle

import pytest
import torch
from peft import PeftModel, get_peft_model

from conftest import llama, randomise
from peft_panacea import PanaceaConfig
from peft_panacea.convert import export_lora
from peft_panacea.tuner import parse_preference

NAMED = {"kind": [0.2, 0.8], "both": [1.0, 0.7]}


def config(**more: object) -> PanaceaConfig:
    return PanaceaConfig(objectives=["a", "b"], named_preferences=NAMED, task_type="CAUSAL_LM", **more)


@pytest.fixture
def model() -> PeftModel:
    model = get_peft_model(llama(), config())
    randomise(model)
    return model.eval()


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_its_numbers_at_every_door(model, tokens, name):
    with model.preference(NAMED[name], extrapolate=True):
        expected = model(**tokens).logits
    model.set_preference(name)
    assert torch.equal(model(**tokens).logits, expected)
    model.set_preference([0.5, 0.5])
    assert torch.equal(model(**tokens, preference=name).logits, expected)
    with model.preference(name):
        assert torch.equal(model(**tokens).logits, expected)


def test_rows_may_have_names(model, tokens):
    model.set_preference(["both", [0.5, 0.5], {"a": 0.0, "b": 1.0}])
    torch.testing.assert_close(model.get_preference(), torch.tensor([[1.0, 0.7], [0.5, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="`preference` row 1 must be numbers, or one of the adapter's"):
        model.set_preference(["both", "no", "kind"])


def test_they_are_saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama(), tmp_path)
    loaded.set_preference("both")
    assert loaded.get_preference().tolist() == pytest.approx([1.0, 0.7])
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        duplicate.set_preference("kind")
        assert duplicate.get_preference().tolist() == pytest.approx([0.2, 0.8])


def test_export_at_a_name(model, tokens, tmp_path):
    export_lora(model, "both", tmp_path)
    lora = PeftModel.from_pretrained(copy.deepcopy(model).unload(), tmp_path)
    torch.testing.assert_close(lora(**tokens).logits, model(**tokens, preference="both").logits, atol=1e-5, rtol=1e-4)


def test_only_what_has_a_name_may_be_off_the_simplex(model):
    model.set_preference("both")
    with pytest.raises(ValueError, match="must have 2 non-negative entries that sum to 1"):
        model.set_preference(NAMED["both"])
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        model.set_preference("best")
    assert str(caught.value) == (
        "`preference` must be numbers, or one of the adapter's `named_preferences` ['kind', 'both'], but got 'best'."
    )


def test_an_adapter_knows_its_own_names_alone(model):
    model.add_adapter("other", PanaceaConfig(objectives=["a", "b"]))
    before = model.get_preference("default")
    with pytest.raises(ValueError, match=r"`named_preferences` \[\], but got 'kind'"):
        model.set_preference("kind")
    assert torch.equal(model.get_preference("default"), before)
    model.set_preference("kind", adapter_name="default")


def test_bounds_hold_for_names_too():
    with pytest.raises(ValueError, match=r"`named_preferences\['kind'\]` must have 'b' between 0.9 and 1"):
        config(preference_bounds={"b": (0.9, 1.0)})
    within = {"a": (0.2, 1.0), "b": (0.5, 1.0)}
    assert config(preference_bounds=within).parse_preference("both").tolist() == pytest.approx([1.0, 0.7])
    with pytest.raises(ValueError, match=r"between 0\.8 and 1, .* but got 0\.7"):
        parse_preference("both", ["a", "b"], names=NAMED, bounds={"b": (0.8, 1.0)})


def test_the_default_may_be_a_name():
    made = config(default_preference="kind")
    assert made.initial_preference == made.default_preference == NAMED["kind"]
    assert get_peft_model(llama(), made).get_preference().tolist() == pytest.approx(NAMED["kind"])
    with pytest.raises(ValueError, match="`default_preference` must have 2 non-negative entries that sum to 1"):
        config(default_preference="both")
    with pytest.raises(ValueError, match=r"`default_preference` must be .* \['kind', 'both'\], but got 'best'"):
        config(default_preference="best")
    with pytest.raises(ValueError, match=r"`default_preference` must be .* \[\], but got 'kind'"):
        PanaceaConfig(default_preference="kind")


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ([0.5, 0.5], TypeError, "must map names to 2 numbers each, but got [0.5, 0.5]"),
        ({"x": [1.0]}, ValueError, "`named_preferences['x']` must have 2 finite entries, for a, b, but got [1]"),
        ({"x": [[1, 0], [0, 1]]}, ValueError, "`named_preferences['x']` must be one preference, but got 2 rows"),
        ({"x": "y"}, ValueError, "`named_preferences['x']` must be numbers"),
        ({"0.3": [1, 0]}, ValueError, "must have names of letters, digits, `_`, `.` and `-`, a letter or `_` first"),
        ({"a/b": [1, 0]}, ValueError, "but got 'a/b'"),
        ({1: [1, 0]}, ValueError, "but got 1"),
    ],
    ids=str,
)
def test_what_cannot_be_named_is_refused(named, error, message):
    with pytest.raises(error) as caught:
        PanaceaConfig(objectives=["a", "b"], named_preferences=named)
    assert message in str(caught.value)


def test_a_mapping_is_put_in_order():
    assert PanaceaConfig(objectives=["a", "b"], named_preferences={"x": {"b": 1, "a": 0}}).named_preferences == {
        "x": [0.0, 1.0]
    }
