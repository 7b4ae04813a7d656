"""The configuration: what it accepts, refuses and keeps."""

import dataclasses
import json
import re

import pytest
from peft import get_peft_model

from conftest import llama
from peft_panacea import PanaceaConfig


def test_every_field_has_a_default():
    assert PanaceaConfig().objective_names == ["objective_0", "objective_1"]


def test_names_keep_their_order():
    assert PanaceaConfig(objectives=["z", "a", "m"]).objective_names == ["z", "a", "m"]


def test_round_trip_through_json(tmp_path):
    config = PanaceaConfig(
        objectives=("z", "a"), r=3, preference_rank=2, default_preference={"a": 0.75, "z": 0.25}, target_modules=["q"]
    )
    config.save_pretrained(tmp_path)
    loaded = PanaceaConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == {**config.to_dict(), "inference_mode": loaded.inference_mode}
    assert loaded.objectives == ["z", "a"]
    assert loaded.initial_preference == [0.25, 0.75]


def test_the_saved_configuration_says_its_format(tmp_path):
    PanaceaConfig().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["format_version"] == 4


def test_the_first_format_had_raw_coordinates(tmp_path):
    PanaceaConfig(r=4, coordinates="white").save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    content = json.loads(path.read_text())
    del content["coordinates"]
    path.write_text(json.dumps({**content, "format_version": 1}))
    config = PanaceaConfig.from_pretrained(tmp_path)
    assert (config.coordinates, config.format_version) == ("raw", 4)


def test_sets_are_saved_in_order(tmp_path):
    PanaceaConfig(target_modules=list("hgfedcba")).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == list("abcdefgh")


def test_default_preference_is_uniform_if_unset():
    assert PanaceaConfig(objectives=4).initial_preference == [0.25] * 4


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("objectives", 0, ValueError, "`objectives` must be an integer of at least 1, but got 0"),
        ("objectives", True, TypeError, "`objectives` must be a list of names or their number, but got True"),
        ("objectives", {"a", "b"}, TypeError, "`objectives` must be a list of names or their number"),
        ("objectives", "ab", TypeError, "`objectives` must be a list of names or their number, but got 'ab'"),
        ("objectives", [], ValueError, "`objectives` must be at least one non-empty name"),
        ("objectives", ["a", "a"], ValueError, "each only once, but got ['a', 'a']"),
        ("objectives", ["a", ""], ValueError, "non-empty name"),
        ("objectives", ["a", 1], ValueError, "non-empty name"),
        ("r", -1, ValueError, "`r` must be an integer of at least 0, but got -1"),
        ("r", 2.0, ValueError, "`r` must be an integer of at least 0, but got 2.0"),
        ("preference_rank", 0, ValueError, "`preference_rank` must be an integer of at least 1, but got 0"),
        ("rank_pattern", {"q": -2}, ValueError, "`rank_pattern['q']` must be an integer of at least 0, but got -2"),
        ("default_preference", [0.5, 0.6], ValueError, "sum to 1, for objective_0, objective_1, but got [0.5, 0.6]"),
        ("default_preference", [[1, 0], [0, 1]], ValueError, "`default_preference` must be one preference"),
        ("panacea_dropout", 1.0, ValueError, "`panacea_dropout` must be at least 0 and below 1, but got 1.0"),
        ("coordinates", "grey", ValueError, "`coordinates` must be 'raw' or 'white', but got 'grey'"),
        ("coordinates", "white", ValueError, "`r` must be at least 1 with white coordinates, whose centre is made"),
        ("scaling", 0, ValueError, "`scaling` must be a positive number or 'paper', but got 0"),
        ("scaling", "lora", ValueError, "`scaling` must be a positive number or 'paper', but got 'lora'"),
        ("init_weights", "lora", ValueError, "`init_weights` must be True or False, but got 'lora'"),
        ("scale_per_objective", 1, ValueError, "`scale_per_objective` must be True or False, but got 1"),
        ("bias", "some", ValueError, "`bias` must be 'none', 'all' or 'panacea_only', but got 'some'"),
        ("layers_pattern", "layers", ValueError, "`layers_to_transform` must also be specified"),
    ],
)
def test_bad_values_are_refused_by_name(field, value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        PanaceaConfig(**{field: value})


def test_white_coordinates_need_shared_directions_on_every_layer():
    with pytest.raises(
        ValueError, match=re.escape("`rank_pattern['q_proj']` must be at least 1 with white coordinates")
    ):
        PanaceaConfig(r=4, coordinates="white", rank_pattern={"q_proj": 0})
    PanaceaConfig(objectives=1, coordinates="white")


SET = [
    ("preference_bounds", {"b": (0.25, 1)}, {"b": (0.25, 1.0)}),
    ("named_preferences", {"x": {"b": 1, "a": 0}}, {"x": [0.0, 1.0]}),
    ("default_preference", {"b": 0.25, "a": 0.75}, [0.75, 0.25]),
]
REFUSED = [
    ("preference_bounds", {"harmles": (0.3, 1.0)}, "`preference_bounds` must name objectives of"),
    ("named_preferences", {"x": [1.0]}, r"`named_preferences\['x'\]` must have 2 finite entries"),
    ("default_preference", [0.5, 0.6], "`default_preference` must have 2 non-negative entries"),
]


@pytest.mark.parametrize(("field", "value", "stored"), SET)
def test_what_is_set_later_is_saved_and_used_as_if_it_had_been_given(field, value, stored, tmp_path):
    config = PanaceaConfig(objectives=["a", "b"])
    setattr(config, field, value)
    config.save_pretrained(tmp_path)
    assert getattr(PanaceaConfig.from_pretrained(tmp_path), field) == getattr(config, field) == stored
    other = PanaceaConfig(objectives=["a", "b"])
    setattr(other, field, value)
    get_peft_model(llama(), other)
    assert getattr(other, field) == stored


@pytest.mark.parametrize(("field", "value", "message"), REFUSED)
def test_what_is_set_later_is_refused_before_anything_is_written_or_changed(field, value, message, tmp_path):
    model = get_peft_model(llama(), PanaceaConfig(objectives=["a", "b"]))
    config = PanaceaConfig(objectives=["a", "b"])
    setattr(config, field, value)
    setattr(model.peft_config["default"], field, value)
    for save in (config.save_pretrained, model.save_pretrained):
        with pytest.raises(ValueError, match=message):
            save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    base = llama()
    before = set(vars(base))
    with pytest.raises(ValueError, match=message):
        get_peft_model(base, config)
    assert set(vars(base)) == before
    with pytest.raises(ValueError, match=message):
        model.add_adapter("second", config)
    assert list(model.peft_config) == ["default"]


def test_regular_expression_excludes_layer_indices():
    with pytest.raises(ValueError, match="`layers_to_transform` cannot be used when `target_modules` is a str"):
        PanaceaConfig(target_modules=".*q_proj", layers_to_transform=[0])


def test_docstring_explains_exactly_the_fields():
    documented = set(re.findall(r"^        (\w+) \(`", PanaceaConfig.__doc__, flags=re.MULTILINE))
    inherited = {field.name for field in dataclasses.fields(PanaceaConfig.__mro__[1])}
    assert documented == {field.name for field in dataclasses.fields(PanaceaConfig)} - inherited


def test_every_field_has_a_help_text():
    inherited = {field.name for field in dataclasses.fields(PanaceaConfig.__mro__[1])}
    assert all(f.metadata.get("help") for f in dataclasses.fields(PanaceaConfig) if f.name not in inherited)
