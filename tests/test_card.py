"""The card says how to steer, what is attained, and keeps what its owner has written."""

import ast
import json
import re

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from conftest import llama, steered
from peft_panacea import PanaceaConfig
from peft_panacea.card import BEGIN, END, new_card, renewed, write_card
from peft_panacea.convert import export_lora
from peft_panacea.front import Front, describe


@pytest.fixture
def folder(tmp_path):
    """An adapter as PEFT saves it."""
    llama().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    steered(base, objectives=["kind", "brief"], task_type="CAUSAL_LM").save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def front(objectives=("kind", "brief"), **more) -> Front:
    scores = np.random.default_rng(0).normal(size=(2, 5, 2))
    return Front(objectives, [[1.0, 0.0], [0.0, 1.0]], scores, base=scores[0] - 1, **more)


def test_a_saved_adapter_says_how_it_is_steered(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft"
    assert {"peft-panacea", "steerable"} <= set(card.data.tags)
    assert card.data.pipeline_tag == "text-generation"
    assert card.text.count(BEGIN) == card.text.count(END) == 1
    assert card.text.index(BEGIN) < card.text.index("\n## Objectives")
    assert "**kind**, **brief**" in card.text
    assert "- **kind**:\n- **brief**:\n" in card.text, "room for what they mean"
    assert "More Information Needed" not in card.text


def test_its_code_has_names_of_any_kind(tmp_path):
    names = ['say "hi"', "two\nlines", "höflich"]
    steered(llama(), objectives=names).save_pretrained(tmp_path)
    code = (tmp_path / "README.md").read_text().partition("model.set_preference(")[2].partition(")\n```")[0]
    assert list(ast.literal_eval(code)) == names


def test_it_is_of_an_adapter_that_is_saved(tmp_path):
    model = steered(llama(), objectives=["kind", "brief"])
    model.add_adapter("other", PanaceaConfig(objectives=["x", "y", "z"]))
    for selected, told in ((["other"], "**x**, **y**, **z**"), (["other", "default"], "**x**"), (None, "**kind**")):
        model.save_pretrained(tmp_path, selected_adapters=selected)
        assert f"a preference over {told}" in (tmp_path / "README.md").read_text()
        (tmp_path / "README.md").unlink()
    model.save_pretrained(tmp_path, True, ["other"])
    assert "**x**" in (tmp_path / "README.md").read_text(), "also where it is no keyword"
    model.create_or_update_model_card(tmp_path)
    assert "**kind**" in (tmp_path / "README.md").read_text()


def test_names_of_preferences_stand_in_it(tmp_path, folder):
    assert "have names" not in (folder / "README.md").read_text()
    named = {"both": [1.0, 0.75]}
    steered(llama(), objectives=["kind", "brief"], named_preferences=named).save_pretrained(tmp_path / "named")
    assert '- `"both"`: kind 1, brief 0.75\n' in (tmp_path / "named" / "README.md").read_text()


def test_its_code_works_as_it_stands(folder):
    code = re.search(r"```python\n(import peft_panacea.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)
    names: dict = {}
    exec(code.replace("PATH", str(folder)), names)
    assert names["model"].get_preference().tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "options",
    [
        *({"objectives": m} for m in range(3, 11)),
        {"objectives": 3, "preference_bounds": {"objective_0": (0, 1 / 6)}},
        {"objectives": 2, "preference_bounds": {"objective_0": (2 / 3, 1)}},
    ],
    ids=str,
)
def test_its_preference_is_one(options):
    """Also where the weights are no short decimals."""
    config = PanaceaConfig(**options)
    given = re.search(r"set_preference\(({.*})\)", renewed(new_card("", config), config)).group(1)
    expected = config.parse_preference(config.initial_preference)
    torch.testing.assert_close(config.parse_preference(ast.literal_eval(given)), expected)


def test_it_says_the_rank_of_what_export_writes(tmp_path):
    model = steered(llama(), r=1, preference_rank=2, rank_pattern={"q_proj": 5})
    export_lora(model, [0.5, 0.5], tmp_path)
    rank = LoraConfig.from_pretrained(tmp_path).r
    assert model.peft_config["default"].lora_rank == rank
    assert f"is a plain LoRA of rank {rank}," in renewed("", model.peft_config["default"])


def test_saving_again_renews_its_part_and_nothing_else(folder):
    path = folder / "README.md"
    mine = path.read_text().replace("\n## Objectives", "\n## Mine\n\nDo not touch.\n\n## Objectives")
    mine = mine.replace("## Steering", "## Old").replace("tags:\n", "licence: apache-2.0\ntags:\n- mine\n", 1)
    path.write_text(mine)
    write_card(folder)
    text = path.read_text()
    assert "## Old" not in text
    assert text.count("## Steering") == 1
    before, after = (part.partition(BEGIN)[0].partition("---\n#")[2] for part in (mine, text))
    assert before == after
    assert mine.partition(END)[2] == text.partition(END)[2]
    assert "mine" in ModelCard.load(path).data.tags
    assert ModelCard.load(path).data.licence == "apache-2.0"
    write_card(folder)
    assert path.read_text() == text


def test_what_was_measured_stands_in_the_card(folder):
    found = front(normalisation=([0.0, 1.0], [1.0, 2.0]), details={"unit": "mean reward", "samples": 4})
    write_card(folder, found)
    text = (folder / "README.md").read_text()
    assert f"Mean reward; 5 prompts, 4 completions each:\n\n```text\n{describe(found)}\n```" in text
    assert "kind 0 ± 1, brief 1 ± 2" in text
    corner = dict(zip(found.objectives, found.base_values, strict=True))
    assert f"hypervolume: kind {corner['kind']:.3g}, brief {corner['brief']:.3g}." in text
    assert "front.png" not in text
    write_card(folder)
    assert "What each preference attains" not in (folder / "README.md").read_text()

    found.to_json(folder / "front.json")
    (folder / "front.png").touch()
    write_card(folder)  # finds both
    text = (folder / "README.md").read_text()
    assert describe(Front.from_json(folder / "front.json")) in text
    assert "![What each preference attains](front.png)" in text


def test_a_save_never_fails_for_an_old_front_and_does_not_show_it(folder):
    front(("a", "b")).to_json(folder / "front.json")
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(folder)
    assert "What each preference attains" not in (folder / "README.md").read_text()
    (folder / "front.json").write_text("broken")
    model.save_pretrained(folder)


def test_a_folder_without_a_card_gets_one(folder, monkeypatch):
    (folder / "README.md").unlink()
    write_card(folder)
    card = ModelCard.load(folder / "README.md")
    assert card.text.lstrip().startswith("# adapter\n")
    assert card.data.library_name == "peft"
    (folder / "README.md").unlink()
    monkeypatch.chdir(folder)
    write_card(".")
    assert (folder / "README.md").read_text() == str(card)


def test_adapters_of_others_keep_their_cards(tmp_path):
    get_peft_model(llama(), LoraConfig()).save_pretrained(tmp_path)
    assert BEGIN not in (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match=r"`folder` must hold a Panacea adapter, but .* has one of .*LORA"):
        write_card(tmp_path)


def test_a_front_of_other_objectives_is_refused(folder):
    before = (folder / "README.md").read_text()
    with pytest.raises(ValueError, match=r"`front` must be over \['kind', 'brief'\], but got one over \['a', 'b'\]"):
        write_card(folder, front(("a", "b")))
    assert (folder / "README.md").read_text() == before


def with_base(folder, base):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
    return ModelCard(write_card(folder).read_text())


def test_a_base_model_is_named_as_others_know_it(folder):
    """A folder of this machine, which says nothing to others, is in no metadata, and the text says what to do."""
    card = with_base(folder, "org/base")
    assert card.data.base_model == "org/base"
    assert "The base model is `org/base`" in card.text
    (folder / "README.md").unlink()
    for base in (str(folder.parent / "base"), "runs/base/last"):
        card = with_base(folder, base)
        assert card.data.base_model is None
        assert f"in the folder `{base}`. Who has it elsewhere loads it first" in card.text
    assert "names no base model" in with_base(folder, None).text


def test_a_save_keeps_metadata_that_were_written(folder):
    """PEFT alone would replace the tags, and name a folder as the base model."""
    path = folder / "README.md"
    path.write_text(path.read_text().replace("tags:\n", "base_model: org/base\nlanguage: en\ntags:\n- mine\n"))
    AutoPeftModelForCausalLM.from_pretrained(folder).save_pretrained(folder)
    data = ModelCard.load(path).data
    assert (data.base_model, data.language) == ("org/base", "en")
    assert {"mine", "steerable", "transformers"} <= set(data.tags)


def test_the_licence_is_that_of_the_base_model_if_it_is_known(folder):
    assert "licence of the base model holds" in (folder / "README.md").read_text()
    assert ModelCard.load(folder / "README.md").data.license is None
    (folder.parent / "base" / "README.md").write_text("---\nlicense: other\nlicense_name: house\n---\n# Base\n")
    card = ModelCard(write_card(folder).read_text())
    assert (card.data.license, card.data.license_name) == ("other", "house")
    assert "licence of the base model (house) holds" in card.text
    path = folder / "README.md"
    path.write_text(path.read_text().replace("license: other", "license: mit"))
    write_card(folder)
    assert ModelCard.load(path).data.license == "mit"


def test_how_it_was_measured_stands_in_the_card(folder):
    """Whatever of it the front knows."""
    details = {
        "rewards": {"kind": "valence", "brief": "brevity_8"},
        "seed": 3,
        "generation": {"max_new_tokens": 64, "temperature": 0.7},
        "versions": {"torch": "2.13.0"},
        "command": "peft-panacea front runs/chat",
    }
    text = write_card(folder, front(details=details)).read_text()
    assert "Scores; 5 prompts; kind is `valence`, brief is `brevity_8`:" in text
    assert "Measured with seed 3, up to 64 tokens, temperature 0.7, torch 2.13.0." in text
    assert "```sh\npeft-panacea front runs/chat\n```" in text
    assert "Measured with" not in write_card(folder, front()).read_text()
