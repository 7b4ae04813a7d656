"""The losses that are tried at every log: which they are, and that training does not notice."""

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import Trainer

from conftest import llama
from peft_panacea import PanaceaConfig
from peft_panacea.training import PreferenceArguments
from peft_panacea.training.probe import LossProbe
from small_trainers import (
    BATCH,
    DATA,
    DPO,
    KTO,
    OBJECTIVES,
    SFT,
    Plain,
    adapter,
    difference,
    labelled,
    make,
    parent,
    trained,
)

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours


def without(rows: int = 0) -> PreferenceArguments:
    return PreferenceArguments(steering_rows=rows)


@pytest.mark.parametrize("kind", [SFT, DPO, KTO, Plain])
def test_it_tries_the_first_rows_under_their_objective_alone_and_under_the_others(kind, tmp_path):
    """As `measure` does on those rows."""
    options = {"per_device_eval_batch_size": 2, "dataloader_drop_last": False}
    trainer = make(kind, tmp_path, without(3), eval_data=DATA[parent(kind)], **options)
    numbers = LossProbe(trainer).numbers()
    trainer.eval_dataset = {name: rows.select(range(3)) for name, rows in trainer.eval_dataset.items()}
    front = trainer.measure([[1, 0], [0, 1]]).values
    for i, name in enumerate(OBJECTIVES):
        found = [numbers[f"steering/{name}/{what}"] for what in ("high", "low", "gap")]
        high, low = front[i, i], front[1 - i, i]
        assert found == pytest.approx([high, low, low - high], rel=1e-5, abs=1e-6)
    assert len({*front.flatten()}) == 4


class Watching(Plain):
    """Remembers under which preferences the losses of an objective are computed, and of which rows."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        found = super().compute_loss(model, inputs, *args, **kwargs)
        self.seen = [*getattr(self, "seen", []), (inputs["input_ids"].tolist(), self.model.get_preference())]
        return found


def test_it_always_tries_the_same_rows(tmp_path):
    trainer = make(Watching, tmp_path, without(4), eval_data=DATA[Trainer], per_device_eval_batch_size=3)
    probe = LossProbe(trainer)
    assert probe.numbers() == probe.numbers()
    assert [rows for rows, _ in trainer.seen[:8]] == [rows for rows, _ in trainer.seen[8:]]
    of_sunny = [row for row, o in zip(DATA[Trainer]["input_ids"], DATA[Trainer]["objective"], strict=True) if o == 0]
    assert [rows for rows, _ in trainer.seen[:2]] == [of_sunny[:3], of_sunny[3:4]]
    assert [p.tolist() for _, p in trainer.seen[:8]] == [[1, 0]] * 2 + [[0, 1]] * 2 + [[0, 1]] * 2 + [[1, 0]] * 2


@pytest.mark.parametrize("preferences", [PreferenceArguments(), BATCH], ids=["row", "batch"])
@pytest.mark.parametrize("kind", [SFT, DPO, KTO, Plain])
def test_training_is_the_same_to_the_bit(kind, preferences, tmp_path):
    """Also next to an evaluation at the same step, and with a dropout, whose random numbers it leaves alone."""
    options = {
        "eval_data": DATA[parent(kind)], "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4,
        "gradient_accumulation_steps": 2,
    }  # fmt: skip
    runs = []
    for rows in (0, 5):
        trainer = make(kind, tmp_path, PreferenceArguments(preferences.preference_per, steering_rows=rows), **options)
        noise = dropout(trainer.model)
        trainer.train()
        noise.remove()
        runs.append(trainer)
    assert difference(adapter(runs[0]), adapter(runs[1])) == 0
    plain, probed = (
        [{k: v for k, v in entry.items() if "per_second" not in k and "runtime" not in k} for entry in entries]
        for entries in (run.state.log_history for run in runs)
    )
    added = [{k for k in after if k not in before} for before, after in zip(plain, probed, strict=True)]
    expected = {f"steering/{name}/{what}" for name in OBJECTIVES for what in ("high", "low", "gap")}
    assert added == [(expected | {"steering/steered"}) if "loss" in entry else set() for entry in plain]
    assert [{k: after[k] for k in before} for before, after in zip(plain, probed, strict=True)] == plain


def dropout(model):
    """In the first hidden states, with torch's global generator."""
    return model.get_input_embeddings().register_forward_hook(
        lambda module, _, output: torch.nn.functional.dropout(output, 0.1, training=module.training)
    )


def test_it_leaves_the_model_and_the_generators_as_they_were(tmp_path):
    trainer = make(SFT, tmp_path, eval_data=DATA[parent(SFT)])
    trainer.model.set_preference([0.2, 0.8])
    trainer.model.train()
    trainer._count_draw()
    collator = trainer.data_collator.collator

    def drawing(rows):
        torch.rand(3)
        return collator(rows)

    trainer.data_collator.collator = drawing
    before = torch.get_rng_state(), trainer._phase, trainer._draws, dict(trainer._metrics["train"])
    numbers = LossProbe(trainer).numbers()
    assert numbers
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (trainer._phase, trainer._draws, dict(trainer._metrics["train"])) == before[1:]
    assert not any(trainer._metrics["eval"].values())
    assert trainer.model.training
    assert trainer.model.get_preference().tolist() == pytest.approx([0.2, 0.8])
    assert all(p.grad is None for p in trainer.model.parameters())


def test_pairs_with_labels_are_tried_for_each_of_their_objectives(tmp_path):
    data = labelled([[1, -1], [0, 1], [-1, 0], [1, 1]])
    trainer = make(DPO, tmp_path, without(2), data=data, eval_data=data, precompute_ref_log_probs=True)
    assert {name: sum(n for n, _ in parts) for name, parts in LossProbe(trainer).parts.items()} == {
        "sunny": 2,
        "rainy": 2,
    }
    trainer.train()
    assert all("steering/rainy/gap" in entry for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize(
    ("rows", "data", "named"),
    [
        (0, DATA[Trainer], []),
        (8, None, []),
        (8, {**DATA[Trainer], "objective": [1] * 16}, ["rainy"]),
    ],
    ids=["off", "no data", "one objective"],
)
def test_what_has_no_rows_is_not_tried(rows, data, named, tmp_path):
    trainer = trained(Plain, tmp_path, without(rows), eval_data=data)
    found = {key.split("/")[1] for entry in trainer.state.log_history for key in entry if key.endswith("/gap")}
    assert sorted(found) == named


def test_evaluation_data_by_name_are_tried_as_far_as_they_name_objectives(tmp_path):
    rows = Dataset.from_dict(DATA[Trainer])
    trainer = make(Plain, tmp_path)
    trainer.eval_dataset = {"sunny": rows.select(range(0, 16, 2)), "both": list(rows), "rainy": list(rows)[1:4:2]}
    assert {name: sum(n for n, _ in parts) for name, parts in LossProbe(trainer).parts.items()} == {
        "sunny": 8,
        "rainy": 2,
    }


def test_one_objective_alone_has_no_others(tmp_path):
    model = get_peft_model(llama(), PanaceaConfig(objectives=["a"], task_type="CAUSAL_LM"))
    data = {**DATA[Trainer], "objective": [0] * 16}
    trainer = trained(Plain, tmp_path, model=model, data=data, eval_data=data, max_steps=1)
    assert not any("steering" in key for entry in trainer.state.log_history for key in entry)
