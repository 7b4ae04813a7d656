"""The card says how to steer, what is attained, and keeps what its owner has written."""

import json
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from conftest import llama, steered
from peft_panacea.card import BEGIN, END, write_card
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
    assert card.data.base_model == str(folder.parent / "base")
    assert card.text.count(BEGIN) == card.text.count(END) == 1
    assert card.text.index(BEGIN) < card.text.index("\n## Model Details"), "before PEFT's long form"
    assert "**kind**, **brief**" in card.text


def test_its_code_works_as_it_stands(folder):
    code = re.search(r"```python\n(import peft_panacea.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)
    names: dict = {}
    exec(code.replace("PATH", str(folder)), names)
    assert names["model"].get_preference().tolist() == [0.5, 0.5]


def test_saving_again_renews_its_part_and_nothing_else(folder):
    path = folder / "README.md"
    mine = path.read_text().replace("\n## Model Details", "\n## Mine\n\nDo not touch.\n\n## Model Details")
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


def test_a_folder_without_a_card_gets_one(folder):
    (folder / "README.md").unlink()
    write_card(folder)
    card = ModelCard.load(folder / "README.md")
    assert card.text.lstrip().startswith("# adapter\n")
    assert card.data.base_model == str(folder.parent / "base")


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


@pytest.mark.parametrize(
    ("task", "auto_class"), [("SEQ_CLS", "AutoPeftModelForSequenceClassification"), (None, "AutoPeftModel")]
)
def test_the_class_that_loads_it(task, auto_class, tmp_path):
    config = {"peft_type": "PANACEA", "objectives": ["a", "b"], "task_type": task}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert f"model = {auto_class}.from_pretrained" in write_card(tmp_path).read_text()
