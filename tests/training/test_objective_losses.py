"""Objectives that are losses: what is computed under which preference, evaluation, refusals."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification, Trainer
from trl import DPOTrainer, KTOTrainer

from conftest import llama, randomise, t5
from peft_panacea import PanaceaConfig
from peft_panacea.data.rows import COLUMNS, LENGTHS
from peft_panacea.simplex import simplex_grid
from peft_panacea.training import ObjectiveLossMixin, PreferenceArguments
from small_trainers import (
    BATCH,
    DATA,
    DPO,
    IDS,
    KTO,
    OBJECTIVE,
    OBJECTIVES,
    ROW,
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

ALL, SOME = [[1, 1], [1, -1], [-1, 1], [-1, -1]], [[1, -1], [0, 1], [-1, 0], [1, 1]]


def a_batch(trainer) -> dict[str, Tensor]:
    trainer.model.train()
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def without_columns(batch):
    return {key: value for key, value in batch.items() if key not in COLUMNS}


def rows_of(batch, index: Tensor):
    """These rows of every tensor; a tensor of half as many rows has one for each pair."""
    n = len(batch["input_ids"])
    return {
        key: value[index if len(value) == n else index[: len(index) // 2]]
        for key, value in without_columns(batch).items()
        if isinstance(value, Tensor)
    }


def gradient(trainer, loss: Tensor) -> dict[str, Tensor]:
    trainer.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", [SFT, DPO, KTO, Plain])
def test_each_row_has_the_trainers_own_loss_under_its_preference(kind, tmp_path):
    trainer = make(kind, tmp_path)
    batch = a_batch(trainer)
    sampler = trainer.preference_args.sampler(2, trainer.args.seed, vertex_probability=0.5)
    for draw in range(2):
        loss = trainer.compute_loss(trainer.model, batch)
        rows = sampler.given(batch["objective"].cpu(), step=0, micro_step=draw)
        trainer.model.set_preference(torch.cat([rows, rows]) if kind is DPO else rows)
        expected = parent(kind).compute_loss(trainer, trainer.model, without_columns(batch))
        assert torch.equal(loss, expected)
        trainer.model.set_preference(rows.flip(0).repeat(2 if kind is DPO else 1, 1))
        assert not torch.equal(loss, parent(kind).compute_loss(trainer, trainer.model, without_columns(batch)))


def test_a_row_with_labels_is_trained_for_each_of_its_objectives_evenly_often(tmp_path):
    trainer = make(DPO, tmp_path, data=labelled(SOME), per_device_train_batch_size=8)
    labels = torch.tensor([[1, -1], [0, 1], [-1, 0], [1, 1]]).repeat(2, 1)
    chosen = torch.stack([trainer._choose_objective(labels, {"step": step, "micro_step": 0}) for step in range(500)])
    assert (chosen[:, 1::4] == 1).all()
    assert (chosen[:, 2::4] == 0).all()
    assert chosen[:, [0, 3]].float().mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.08)
    with pytest.raises(ValueError, match="`objective_labels` must not be 0 for every objective of a row"):
        trainer._choose_objective(torch.tensor([[1, 1], [0, 0]]), {"step": 0, "micro_step": 0})


def test_a_row_labelled_minus_one_is_trained_with_chosen_and_rejected_exchanged(tmp_path):
    trainer = make(DPO, tmp_path, data=labelled(SOME), precompute_ref_log_probs=True)
    batch = a_batch(trainer)
    key = {"step": 0, "micro_step": 0}
    loss = trainer.compute_loss(trainer.model, batch)
    objective = trainer._choose_objective(batch["objective_labels"], key)
    exchanged = batch["objective_labels"].gather(1, objective[:, None])[:, 0] < 0
    assert exchanged.any()
    assert not exchanged.all()
    rows = trainer.preference_args.sampler(2, trainer.args.seed, vertex_probability=0.5).given(objective, **key)
    trainer.model.set_preference(rows.repeat(2, 1))
    expected = DPOTrainer.compute_loss(trainer, trainer.model, by_hand_exchanged(batch, exchanged))
    assert torch.equal(loss, expected)


def by_hand_exchanged(batch, where: Tensor):
    n = len(where)
    place = torch.arange(n)
    index = torch.cat([torch.where(where, place + n, place), torch.where(where, place, place + n)])
    part = {key: value[index] for key, value in without_columns(batch).items() if len(value) == 2 * n}
    if "ref_chosen_logps" in batch:
        both = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
        part["ref_chosen_logps"], part["ref_rejected_logps"] = (
            torch.where(where, both[1 - i], both[i]) for i in range(2)
        )
    return part


AGGREGATIONS = {
    "linear": (BATCH, lambda losses, p: (p * losses).sum()),
    "tchebycheff": (
        PreferenceArguments("batch", aggregation="tchebycheff", ideal_point=[0.1, 0.3]),
        lambda losses, p: (p * (losses - torch.tensor([0.1, 0.3]))).max(),
    ),
    "smooth": (
        PreferenceArguments("batch", aggregation="smooth_tchebycheff", smoothing=0.3),
        lambda losses, p: 0.3 * torch.logsumexp(p * losses / 0.3, dim=0),
    ),
}


def same_loss_and_gradient(trainer, batch, by_hand) -> float:
    """`by_hand` gives the aggregate from the steered model; the largest difference of the gradients."""
    loss = trainer.compute_loss(trainer.model, batch)
    own = gradient(trainer, loss)
    preference = trainer.preference_args.sampler(2, seed=trainer.args.seed)(1, step=0)[0]
    assert torch.equal(trainer.model.get_preference(), preference)
    expected = by_hand(preference)
    torch.testing.assert_close(loss, expected)
    reference = gradient(trainer, expected)
    largest = max(tensor.abs().max().item() for tensor in reference.values())
    assert largest > 1e-3
    return difference(own, reference) / largest


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kind", [SFT, DPO, Plain])
def test_the_losses_of_a_batch_are_aggregated_under_one_preference(kind, aggregation, tmp_path):
    arguments, aggregate = AGGREGATIONS[aggregation]
    trainer = make(kind, tmp_path, arguments)
    batch = a_batch(trainer)

    def by_hand(preference: Tensor) -> Tensor:
        losses = []
        for i in range(2):
            rows = (batch["objective"] == i).nonzero().flatten()
            index = torch.cat([rows, rows + 4]) if kind is DPO else rows
            losses.append(parent(kind).compute_loss(trainer, trainer.model, rows_of(batch, index)))
        return aggregate(torch.stack(losses), preference)

    largest = same_loss_and_gradient(trainer, batch, by_hand)
    print(f"gradient, {kind.__name__} {aggregation}, against a sum by hand: {largest:.1e}")
    assert largest <= 1e-5


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("labels", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("precomputed", [False, True])
def test_rows_that_serve_several_objectives_go_through_the_model_once(labels, precomputed, aggregation, tmp_path):
    arguments, aggregate = AGGREGATIONS[aggregation]
    trainer = make(DPO, tmp_path, arguments, data=labelled(labels), precompute_ref_log_probs=precomputed)
    batch = a_batch(trainer)
    forwards = []
    hook = trainer.model.register_forward_pre_hook(lambda *_: forwards.append(torch.is_grad_enabled()))
    trainer.compute_loss(trainer.model, batch)
    hook.remove()
    trainer._phase = None  # the loss of the same step once more
    assert sum(forwards) == (1 if labels is ALL else 2)
    assert len(forwards) - sum(forwards) == (0 if precomputed else 2)

    def by_hand(preference: Tensor) -> Tensor:
        losses = []
        for label in batch["objective_labels"].T:
            rows = label.nonzero().flatten()
            part = by_hand_exchanged(rows_of(batch, torch.cat([rows, rows + 4])), label[rows] < 0)
            losses.append(DPOTrainer.compute_loss(trainer, trainer.model, part))
        return aggregate(torch.stack(losses), preference)

    largest = same_loss_and_gradient(trainer, batch, by_hand)
    print(f"gradient, {'one forward' if labels is ALL else 'a forward each'}, {aggregation}: {largest:.1e}")
    assert largest <= 1e-5


def test_a_batch_without_rows_of_an_objective_is_refused(tmp_path):
    trainer = make(DPO, tmp_path, BATCH, data=labelled([[1, 0]] * 15 + [[0, 1]]))
    batch = a_batch(trainer)
    batch["objective_labels"] = torch.tensor([[1, 0]] * 4)
    with pytest.raises(ValueError, match=r"must hold rows of every objective with .*, but has none of 'rainy'"):
        trainer.compute_loss(trainer.model, batch)


# The expectation


class Squares(nn.Module):
    """Its loss is a polynomial of degree 2 in the preference."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 2, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.out(input_ids) - labels).square().mean()}


@pytest.mark.mechanics
def test_size_biased_rows_have_the_gradient_of_linear_scalarisation_in_expectation(tmp_path):
    torch.manual_seed(0)
    config = PanaceaConfig(objectives=["a", "b", "c"], target_modules=["out"], r=2)
    model = randomise(get_peft_model(Squares(), config))
    data = {"input_ids": [[0.0] * 3] * 3, "labels": [[0.0] * 2] * 3, "objective": [0, 1, 2]}
    arguments = PreferenceArguments(vertex_probability=0.0)
    trainer = make(Plain, tmp_path, arguments, data=data, model=model, random_adapter=False)
    model.train()
    x, target = torch.randn(3, 3), torch.randn(3, 2) * 3
    objective = torch.arange(3).repeat(20_000)
    batch = {"input_ids": x[objective], "labels": target[objective], "objective": objective}

    # Exact for polynomials of degree 3 over the uniform distribution on the triangle (Hammer and Stroud 1956).
    points = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]])
    expected = torch.tensor(0.0)
    for weight, p in zip([-27 / 48, 25 / 48, 25 / 48, 25 / 48], points, strict=True):
        model.set_preference(p)
        losses = torch.stack([model(input_ids=x[[i]], labels=target[[i]])["loss"] for i in range(3)])
        expected = expected + weight * (p * losses).sum()
    reference = gradient(trainer, expected)
    largest = max(tensor.abs().max().item() for tensor in reference.values())

    def error(loss: Tensor, factor: float = 1.0) -> float:
        found = {name: factor * tensor for name, tensor in gradient(trainer, loss).items()}
        return difference(found, reference) / largest

    biased = error(trainer.compute_loss(model, batch))
    trainer._draw = lambda n, key, _: arguments.sampler(3, seed=3)(n, **key)
    unbiased = min(error(trainer.compute_loss(model, batch), factor) for factor in (1, 1 / 3))
    print(
        f"ratio of the gradient to that of linear scalarisation, less 1: {biased:.1e}; not size-biased: {unbiased:.1e}"
    )
    assert biased < 2e-3
    assert unbiased > 0.05


# Order, evaluation, the model afterwards


class Recording(Plain):
    """Remembers the rows of every step; `stop_before` interrupts the run before that step."""

    stop_before = -1

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.state.global_step == self.stop_before:
            raise RuntimeError("interrupted")
        if self.model.training:
            self.rows = [*getattr(self, "rows", []), inputs["input_ids"].tolist()]
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.mark.mechanics
def test_every_epoch_has_its_order_also_after_resuming_within_it(tmp_path):
    recording = partial(make, Recording, max_steps=10, save_strategy="steps", save_steps=6, save_only_model=False)
    whole = recording(tmp_path / "whole")
    whole.train()
    for epoch in (whole.rows[:4], whole.rows[4:8]):
        assert sorted(row for step in epoch for row in step) == sorted(IDS)
    assert whole.rows[:4] != whole.rows[4:8]
    interrupted = recording(tmp_path / "parts")
    interrupted.stop_before = 7
    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted.train()
    resumed = recording(tmp_path / "parts")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.rows == whole.rows[6:]
    largest = difference(adapter(resumed), adapter(whole))
    print(f"resumed within an epoch, largest difference: {largest}")
    assert largest == 0


@pytest.mark.parametrize("preferences", [PreferenceArguments(), BATCH], ids=["row", "batch"])
@pytest.mark.parametrize("kind", [SFT, DPO])
def test_evaluation_changes_nothing_in_training(kind, preferences, tmp_path):
    data = DATA[parent(kind)]
    without = trained(kind, tmp_path, preferences)
    every_step = trained(kind, tmp_path, preferences, eval_data=data, eval_strategy="steps", eval_steps=1)
    assert difference(adapter(every_step), adapter(without)) == 0
    for name in OBJECTIVES:
        assert sum(f"eval_{name}_loss" in entry for entry in every_step.state.log_history) == 3
    assert every_step.evaluate() | TIMES == every_step.evaluate() | TIMES


TIMES = dict.fromkeys(
    f"eval_{name}_{what}" for name in OBJECTIVES for what in ("runtime", "samples_per_second", "steps_per_second")
)


def test_what_is_drawn_is_drawn_from_streams_of_their_own(tmp_path):
    trainer = make(Plain, tmp_path)
    seeds = {trainer._choice.seed, *(sampler.seed for sampler in trainer._samplers.values())}
    assert len(seeds) == 3
    other = make(Plain, tmp_path, seed=4)
    assert seeds.isdisjoint({other._choice.seed, *(sampler.seed for sampler in other._samplers.values())})


def test_evaluation_is_under_the_same_preferences_at_every_step(tmp_path):
    trainer = trained(Plain, tmp_path, eval_data=DATA[Trainer], eval_strategy="steps", eval_steps=1, learning_rate=0.0)
    for name in OBJECTIVES:
        losses = [entry[f"eval_{name}_loss"] for entry in trainer.state.log_history if f"eval_{name}_loss" in entry]
        assert len(losses) == 3
        assert len(set(losses)) == 1


def test_the_losses_of_the_objectives_are_logged(tmp_path):
    trainer = trained(Plain, tmp_path, BATCH, logging_steps=1, learning_rate=0.0)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 3
    sampler = trainer.preference_args.sampler(2, seed=3)
    for step, entry in enumerate(logs):
        losses = torch.tensor([entry[f"{name}_loss"] for name in OBJECTIVES])
        assert (sampler(1, step=step)[0] * losses).sum().item() == pytest.approx(entry["loss"], abs=1e-4)


def test_training_moves_each_objective_where_the_preference_says(tmp_path):
    """Two styles after the same prompts. Also: the model keeps its preference, and measuring disturbs nothing."""
    data = DATA[parent(SFT)]
    trainer = make(
        SFT, tmp_path, data=data, eval_data=data, max_steps=40, learning_rate=1e-2, random_adapter=False,
        per_device_train_batch_size=8, logging_steps=40,
    )  # fmt: skip
    trainer.model.set_preference([0.9, 0.1])
    trainer.train()
    assert trainer.model.get_preference().tolist() == pytest.approx([0.9, 0.1])
    before = adapter(trainer)
    front = trainer.measure(simplex_grid(2, 2))
    losses = front.values
    print("front, losses of two styles at (0, 1), (½, ½), (1, 0):", losses.tolist())
    assert front.objectives == tuple(OBJECTIVES)
    assert front.preferences.tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    assert front.maximise == (False, False)
    assert front.scores.shape == (3, 1, 2)
    assert (losses == trainer.measure(simplex_grid(2, 2).tolist()).values).all()
    assert (losses[[2, 0], [0, 1]] < front.base[0]).all()
    assert trainer.model.get_preference().tolist() == pytest.approx([0.9, 0.1])
    assert difference(adapter(trainer), before) == 0
    assert losses[2, 0] < losses[1, 0] < losses[0, 0]
    assert losses[0, 1] < losses[1, 1] < losses[2, 1]
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset["sunny"])
    assert trainer.model.get_preference().tolist() == pytest.approx([0.9, 0.1])


def test_a_measured_loss_is_the_models_own_under_that_preference(tmp_path):
    trainer = make(Plain, tmp_path, eval_data=DATA[Trainer], per_device_eval_batch_size=4)
    ids = torch.tensor(IDS)
    front = trainer.measure([[1, 0], [0.3, 0.7]])
    for p, row in zip(([1.0, 0.0], [0.3, 0.7], None), [*front.values, front.base[0]], strict=True):
        for i in range(2):
            rows = ids[torch.tensor(OBJECTIVE) == i]
            with torch.no_grad(), trainer.model.disable_adapter() if p is None else nullcontext():
                expected = trainer.model.eval()(input_ids=rows, labels=rows, preference=p).loss
            assert row[i] == pytest.approx(expected.item(), rel=1e-6)


def test_measuring_has_one_progress_bar(tmp_path, capsys):
    trainer = make(Plain, tmp_path, eval_data=DATA[Trainer], per_device_eval_batch_size=4, disable_tqdm=False)
    batches = 3 * sum(len(trainer.get_eval_dataloader(name)) for name in OBJECTIVES)
    trainer.measure([[1, 0], [0.3, 0.7]])
    bars = capsys.readouterr().err.split("\r")
    assert all(bar.startswith("measuring: ") for bar in bars if "|" in bar)
    assert f"measuring: 100%|██████████| {batches}/{batches} " in bars[-1]
    trainer.evaluate()  # has its own again
    assert "measuring" not in capsys.readouterr().err


def test_the_base_model_of_dpo_does_not_prefer_anything(tmp_path):
    """TRL disables the adapter for its reference within the measurement that has it disabled."""
    trainer = make(DPO, tmp_path, eval_data=DATA[DPOTrainer], per_device_eval_batch_size=2)
    front = trainer.measure([[1, 0]])
    assert front.base[0].tolist() == pytest.approx([math.log(2)] * 2, abs=1e-6)
    assert (abs(front.values[0] - math.log(2)) > 1e-3).all()


def test_a_model_that_is_no_peft_model_is_measured_without_a_base(tmp_path):
    model = inject_adapter_in_model(PanaceaConfig(objectives=OBJECTIVES), llama())
    trainer = make(Plain, tmp_path, model=model, eval_data=DATA[Trainer])
    front = trainer.measure([[1, 0], [0, 1]])
    assert front.base is None
    assert len({*front.values.flatten().tolist()}) == 4


def test_measuring_leaves_no_trace_in_what_is_logged(tmp_path):
    trainer = make(SFT, tmp_path, eval_data=DATA[parent(SFT)])
    trainer.evaluate()
    trainer.measure([[1, 0]])
    trainer.evaluate()
    first, second = trainer.state.log_history[:2], trainer.state.log_history[2:]
    assert "eval_entropy" in first[0]
    assert [entry | TIMES for entry in first] == [entry | TIMES for entry in second]


def test_an_objective_without_evaluation_rows_cannot_be_measured(tmp_path):
    data = {"input_ids": IDS[:2], "labels": IDS[:2], "objective": [1, 1]}
    with pytest.raises(ValueError, match=r"`eval_dataset` must have a batch of rows of every .* has none of 'sunny'"):
        make(Plain, tmp_path, eval_data=data).measure([[1, 0]])
    data = {"input_ids": IDS[:9], "labels": IDS[:9], "objective": [0] * 8 + [1]}
    with pytest.raises(ValueError, match=r"of every objective to be measured on, but has none of 'rainy'"):
        make(Plain, tmp_path, eval_data=data).measure([[1, 0]])  # a batch that is not full is dropped
    trainer = make(Plain, tmp_path, eval_data=data, dataloader_drop_last=False)
    assert trainer.measure([[1, 0]]).values.shape == (1, 2)
    with pytest.raises(
        ValueError, match="`eval_dataset` must be given to the trainer to be measured on, but got None"
    ):
        make(Plain, tmp_path).measure([[1, 0]])


@pytest.mark.parametrize(
    ("preferences", "message"),
    [
        ([[2, -1.5], [0.5, 0.5]], "`preference` row 0 must have 2 non-negative entries that sum to 1"),
        ([[0.5, 0.5], [0.9, 0.1]], "`preference` row 1 must have 'rainy' between 0.3 and 1"),
        ([[0.2, 0.3, 0.5]], "`preference` row 0 must have 2"),
        ([0.5, 0.5], r"`preferences` must have shape \(K, 2\), but got one preference"),
    ],
)
def test_what_is_no_preference_is_not_measured(preferences, message, tmp_path):
    config = PanaceaConfig(objectives=OBJECTIVES, preference_bounds={"rainy": (0.3, 1.0)})
    trainer = make(Plain, tmp_path, model=get_peft_model(llama(), config), eval_data=DATA[Trainer])
    trainer.evaluation_loop = lambda *_, **__: pytest.fail("was begun")
    with pytest.raises(ValueError, match=message):
        trainer.measure(preferences)


def test_off_the_simplex_is_measured_where_it_is_meant(tmp_path):
    trainer = make(Plain, tmp_path, eval_data=DATA[Trainer])
    front = trainer.measure([[1.5, -0.5], [1, 0]], extrapolate=True)
    assert front.preferences.tolist() == [[1.5, -0.5], [1, 0]]
    assert front.values[1].tolist() == trainer.measure([[1, 0]]).values[0].tolist()


def test_rows_of_all_objectives_with_smoothed_labels(tmp_path):
    """The trainer asks its model for more than one forward gives."""
    data = DATA[Trainer] | {"objective_labels": [[1, 1]] * 16}
    del data["objective"]
    trainer = make(Plain, tmp_path, BATCH, data=data, label_smoothing_factor=0.1)
    batch = a_batch(trainer)
    loss = trainer.compute_loss(trainer.model, batch)
    expected = Trainer.compute_loss(trainer, trainer.model, without_columns(batch))  # of either objective, so of both
    torch.testing.assert_close(loss, expected)


def test_evaluation_rows_must_be_no_stream(tmp_path):
    trainer = make(Plain, tmp_path)
    stream = trainer.train_dataset.to_iterable_dataset()
    with pytest.raises(ValueError, match=r"`eval_dataset` must be no stream, .* but got a IterableDataset"):
        Plain(model=trainer.model, args=trainer.args, train_dataset=trainer.train_dataset, eval_dataset=stream)


def test_training_data_need_not_be_a_dataset_of_datasets(tmp_path):
    trainer = make(Plain, tmp_path)
    rows = [{"input_ids": ids, "labels": ids, "objective": o} for ids, o in zip(IDS, OBJECTIVE, strict=True)]
    as_list = Plain(
        model=trainer.model, args=trainer.args, train_dataset=rows, data_collator=trainer.data_collator.collator
    )
    as_list.train()
    assert as_list.state.global_step == 3


# Other trainers and models


@pytest.mark.parametrize("preferences", [PreferenceArguments(), BATCH], ids=["row", "batch"])
def test_kto_trains(preferences, tmp_path):
    trainer = make(KTO, tmp_path, preferences, max_steps=1)
    before = adapter(trainer)
    trainer.train()
    assert 0 < difference(adapter(trainer), before) < 1


def completions_in(batch, prefix: str = "") -> list[tuple[int, ...]]:
    ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"].bool()
    return [tuple(row[is_part].tolist()) for row, is_part in zip(ids, mask, strict=True)]


@pytest.mark.parametrize("per", ["row", "batch"])
def test_the_kl_term_of_kto_has_the_completions_of_the_batch(per, tmp_path):
    """Each with the prompt of the next row, among those that the loss is computed for together."""
    data = DATA[KTOTrainer] | {"completion": [f" It was number {i}." for i in range(16)]}
    trainer = make(KTO, tmp_path, PreferenceArguments(per), data=data, eval_data=data, per_device_eval_batch_size=4)
    assert len(trainer.get_train_dataloader()) == 4
    loaders = (trainer.get_train_dataloader(), *map(trainer.get_eval_dataloader, OBJECTIVES))
    for batch in (batch for loader in loaders for batch in loader):
        own, others = completions_in(batch), completions_in(batch, "KL_")
        together = batch["objective"] if per == "batch" else torch.zeros(4)
        assert len(set(own)) == 4
        for part in together.unique():
            rows = (together == part).nonzero().flatten().tolist()
            assert [others[i] for i in rows] == [own[i] for i in (rows[-1], *rows[:-1])]


def test_a_kl_term_that_cannot_be_right_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`precompute_ref_log_probs` must be False with the KL term of KTO"):
        make(KTO, tmp_path, precompute_ref_log_probs=True)
    with pytest.raises(ValueError, match=r"must be at least 4, two rows of every objective, .* but got 2"):
        make(KTO, tmp_path, BATCH, per_device_train_batch_size=2)


def classifier() -> nn.Module:
    return LlamaForSequenceClassification(llama(num_labels=2).config)


@pytest.mark.parametrize("preferences", [PreferenceArguments(), BATCH], ids=["row", "batch"])
@pytest.mark.parametrize(("base", "task"), [(t5, "SEQ_2_SEQ_LM"), (classifier, "SEQ_CLS")])
def test_the_trainer_of_transformers_trains_other_models(base, task, preferences, tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(base(), PanaceaConfig(objectives=OBJECTIVES, task_type=task))
    data = DATA[Trainer] if base is t5 else DATA[Trainer] | {"labels": [i % 2 for i in range(16)]}
    trainer = make(Plain, tmp_path, preferences, data=data, model=model, max_steps=1)
    before = adapter(trainer)
    trainer.train()
    assert 0 < difference(adapter(trainer), before) < 1


class Casting(Trainer):
    """Casts the adapter as TRL does on a quantised model."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, parameter in self.model.named_parameters():
            if ".panacea_svd." in name:
                parameter.data = parameter.data.bfloat16()


def test_the_diagonal_of_a_cast_adapter_is_float32_again(tmp_path):
    trainer = make(type("OnQuantised", (ObjectiveLossMixin, Casting), {}), tmp_path)
    for name, parameter in adapter(trainer).items():
        assert parameter.dtype == (torch.float32 if name.endswith(("sigma", "scale")) else torch.bfloat16), name


# Without padding


def token_losses(trainer, batch, preferences):
    """The loss of each sequence's trained tokens, computed for itself under its own preference."""
    ids, targets = batch["input_ids"][0], batch["labels"][0]
    found, start = [], 0
    for length, preference in zip(batch[LENGTHS].tolist(), preferences, strict=True):
        own, target = ids[start : start + length], targets[start : start + length]
        with torch.no_grad():
            logits = trainer.model(input_ids=own[None], preference=preference).logits[0]
        losses = nn.functional.cross_entropy(logits[:-1].float(), target[1:], reduction="none", ignore_index=-100)
        found.append(losses[target[1:] != -100])
        start += length
    return torch.cat(found)


@pytest.mark.parametrize("options", [{"padding_free": True, "max_length": None}, {"packing": True}], ids=str)
@pytest.mark.parametrize("multiple", [None, 16])
def test_without_padding_each_sequence_is_under_its_own_preference(options, multiple, tmp_path):
    trainer = make(SFT, tmp_path, pad_to_multiple_of=multiple, per_device_train_batch_size=2, **options)
    batch = a_batch(trainer)
    n = len(batch[LENGTHS])
    assert batch["input_ids"].shape[0] == 1
    assert n == len(batch["objective"]) >= 2
    assert multiple is None or batch["input_ids"].shape[1] % multiple == 0
    loss = trainer.compute_loss(trainer.model, batch)
    sampler = trainer.preference_args.sampler(2, trainer.args.seed, vertex_probability=0.5)
    rows = sampler.given(batch["objective"].cpu(), step=0, micro_step=0)
    torch.testing.assert_close(loss, token_losses(trainer, batch, rows).mean(), atol=1e-5, rtol=1e-5)
    assert abs(loss - token_losses(trainer, batch, rows.roll(1, dims=1)).mean()) > 1e-4


def test_packs_are_of_one_objective_and_lose_no_row(tmp_path):
    trainer = make(SFT, tmp_path, packing=True, max_length=64)
    whole = make(SFT, tmp_path, max_length=64).train_dataset
    packs = trainer.train_dataset
    assert len(packs) < len(whole)

    def sequences(dataset):
        found = []
        for row in dataset:
            start = 0
            for length in row.get("seq_lengths") or [len(row["input_ids"])]:
                found.append((row["objective"], tuple(row["input_ids"][start : start + length])))
                start += length
        return sorted(found)

    assert sequences(packs) == sequences(whole)


@pytest.mark.parametrize("options", [{"padding_free": True, "max_length": None}, {"packing": True}], ids=str)
def test_training_and_evaluation_without_padding(options, tmp_path):
    trainer = make(SFT, tmp_path, eval_data=DATA[parent(SFT)], eval_strategy="steps", eval_steps=1, **options)
    before = adapter(trainer)
    trainer.train()
    assert difference(before, adapter(trainer)) > 0
    logged = {key for row in trainer.state.log_history for key in row}
    assert {f"eval_{name}_loss" for name in OBJECTIVES} <= logged
    front = trainer.measure(simplex_grid(2, 2))
    assert front.values.shape == (3, 2)


# Refusals


def no_objective(kind):
    return {key: value for key, value in DATA[parent(kind)].items() if key != "objective"}


TCHEBYCHEFF = PreferenceArguments(aggregation="tchebycheff")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SFT, {"packing": True, "preferences": BATCH}, "`preference_per` must be 'row' with packing or padding-free"),
        (
            SFT,
            {"packing": True, "data": no_objective(SFT)},
            "`packing` must have a data set with the column `objective` .* but got a Dataset with",
        ),
        (
            Plain,
            {"preferences": TCHEBYCHEFF},
            "`preference_per` must be 'batch' unless .* got 'row' with 'tchebycheff'",
        ),
        (
            SFT,
            {"data": no_objective(SFT)},
            r"`train_dataset` must have one of the columns \['objective', 'objective_l",
        ),
        (
            SFT,
            {"eval_data": no_objective(SFT)},
            r"`eval_dataset` must have one of the columns \['objective', 'objecti",
        ),
        (Plain, {"preferences": BATCH, "per_device_train_batch_size": 3}, "must be a multiple of 2, .* but got 3"),
    ],
    ids=["packing", "packing_what", "row", "columns", "eval_columns", "batch_size"],
)
def test_what_cannot_be_right_is_refused(kind, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(kind, tmp_path, **options)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ([0] * 16, "`train_dataset` must have rows of all 2 objectives, but has none of objective 1"),
        ([0, 2] * 8, "`objective` must be between 0 and 1 in every row"),
    ],
)
def test_an_objective_that_is_missing_or_unknown_is_refused(objective, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(Plain, tmp_path, data=DATA[Trainer] | {"objective": objective}).train()


def test_an_objective_that_is_unknown_is_refused_in_evaluation_too(tmp_path):
    with pytest.raises(ValueError, match="`objective` of `eval_dataset` must be from 0 to 1, but got 2"):
        make(Plain, tmp_path, eval_data=DATA[Trainer] | {"objective": [0, 2] * 8})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, -1, 0]], r"a number for each of \['sunny', 'rainy'\], but got \[1, -1, 0\] in row 0 of"),
        ([[1, -1], [1]], r"a number for each of \['sunny', 'rainy'\], but got \[1\] in row 1 of"),
        ([[1, -1], None], r"a number for each of \['sunny', 'rainy'\], but got None in row 1 of"),
    ],
    ids=["more", "fewer", "none"],
)
def test_labels_that_are_not_one_for_each_objective_are_refused_at_once(labels, message, tmp_path):
    for preferences in (ROW, PreferenceArguments(trained_objectives=["rainy"])):
        with pytest.raises(ValueError, match=f"{message} `train_dataset`"):
            make(DPO, tmp_path, preferences, data=labelled(labels))
    with pytest.raises(ValueError, match=f"{message} `eval_dataset`"):
        make(DPO, tmp_path, data=labelled(ALL), eval_data=labelled(labels))


def test_labels_of_parts_that_are_given_are_looked_at(tmp_path):
    trainer = make(Plain, tmp_path)
    rows = (
        trainer.train_dataset.remove_columns("objective").select(range(2)).add_column("objective_labels", [[1, 0]] * 2)
    )
    parts = {"good": rows, "bad": rows.map(lambda row: {"objective_labels": [1]})}
    with pytest.raises(ValueError, match=r"but got \[1\] in row 0 of `eval_dataset\['bad'\]`"):
        Plain(model=trainer.model, args=trainer.args, train_dataset=trainer.train_dataset, eval_dataset=parts)


def test_a_row_without_an_opinion_is_refused_at_once_but_not_in_evaluation(tmp_path):
    some = [[1, -1], [1, 1], [0, 0], [0, 1]]
    with pytest.raises(
        ValueError, match=r"`objective_labels` must not be 0 for every objective of a row, but .* row 2"
    ):
        make(DPO, tmp_path, data=labelled(some))
    trainer = make(DPO, tmp_path, data=labelled(ALL), eval_data=labelled(some))
    assert {name: len(part) for name, part in trainer.eval_dataset.items()} == {"sunny": 8, "rainy": 12}
    on_face = make(DPO, tmp_path, PreferenceArguments(trained_objectives=["rainy"]), data=labelled(some))
    assert len(on_face.train_dataset) == 12


def test_labels_of_a_stream_are_looked_at_in_its_batches(tmp_path):
    trainer = make(DPO, tmp_path, data=labelled(ALL))
    batch = a_batch(trainer)
    batch["objective_labels"] = torch.ones(4, 3, dtype=torch.long)
    with pytest.raises(
        ValueError, match=r"`objective_labels` must have a number .* got \[1, 1, 1\] in row 0 of a batch"
    ):
        trainer.compute_loss(trainer.model, batch)


def test_a_reference_that_depends_on_the_preference_is_not_precomputed(tmp_path):
    model = get_peft_model(
        make(DPO, tmp_path).model.get_base_model(), PanaceaConfig(objectives=OBJECTIVES, task_type="CAUSAL_LM")
    )
    with pytest.raises(
        ValueError, match="`precompute_ref_log_probs` must be False when an adapter is trained further"
    ):
        make(DPO, tmp_path, model=model, precompute_ref_log_probs=True)


def test_an_adapter_that_is_trained_further_is_compared_with_its_copy_under_the_same_preference(tmp_path):
    base = make(DPO, tmp_path).model.get_base_model()
    model = randomise(get_peft_model(base, PanaceaConfig(objectives=OBJECTIVES, task_type="CAUSAL_LM")))
    trainer = make(DPO, tmp_path, model=model, random_adapter=False)
    assert set(trainer.model.peft_config) == {"default", "ref"}
    batch = a_batch(trainer)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(math.log(2), abs=1e-6)
    trainer.model.set_preference([0.5, 0.5], adapter_name="ref")
    loss = DPOTrainer.compute_loss(trainer, trainer.model, without_columns(batch))
    assert loss.item() != pytest.approx(math.log(2), abs=1e-3)


def test_a_model_without_a_panacea_adapter_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="`model` must have a Panacea adapter, but none of its layers has one"):
        make(Plain, tmp_path, model=llama())


@pytest.mark.parametrize(("preferences", "share"), [(ROW, 0.5), (BATCH, 0.0)], ids=["row", "batch"])
def test_half_of_the_rows_are_trained_at_a_vertex_unless_told_otherwise(preferences, share, tmp_path):
    trainer = make(SFT, tmp_path, preferences=preferences)
    assert {sampler.vertex_probability for sampler in trainer._samplers.values()} == {share}
