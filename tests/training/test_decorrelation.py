"""The mixin of dependence: what it adds to the loss, whose gradient, what it logs and refuses."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

from conftest import llama, steered
from peft_panacea.dependence import cosine2, hsic, published
from peft_panacea.training import DecorrelationArguments, DecorrelationMixin, PreferenceArguments
from peft_panacea.tuner import PanaceaLayer, PanaceaSVD
from small_trainers import DPO, GRPO, OBJECTIVES, STORYTELLER, Plain, adapter, difference, make, parent

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours

RAINY = PreferenceArguments(trained_objectives=["rainy"], steering_rows=0)
MEASURES = {"hsic": hsic, "cosine": cosine2, "published": published}
RANK = 3


def decorrelated(kind, folder, preferences=RAINY, model=None, **options):
    """A trainer of `kind` that knows "sunny" already and learns "rainy", with adapters of three directions each."""
    own = {"earlier": ["sunny"]}
    own |= {name: options.pop(name) for name in ("decorrelation", "dependence", "earlier") if name in options}

    class Decorrelated(DecorrelationMixin, kind):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, decorrelation_args=DecorrelationArguments(**own), **kwargs)

    if model is None:
        torch.manual_seed(5)
        base = llama() if parent(kind) is Trainer else AutoModelForCausalLM.from_pretrained(STORYTELLER)
        model = steered(base, objectives=OBJECTIVES, r=2, preference_rank=RANK, task_type="CAUSAL_LM")
    return make(Decorrelated, folder, preferences, model=model, **options)


def layers(trainer):
    """Without those of the reference that TRL makes of an adapter."""
    return [module.panacea_svd["default"] for module in trainer.model.modules() if isinstance(module, PanaceaLayer)]


def blocks(svd: PanaceaSVD):
    """(U, V) of "sunny" and of "rainy"."""
    R = svd.preference_rank
    of_sunny, of_rainy = slice(-2 * R, -R), slice(-R, None)
    return [(svd.U[:, own], svd.Vh[own]) for own in (of_sunny, of_rainy)]


def a_batch(trainer):
    trainer.model.train()
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def loss_of(trainer, batch, **options):
    trainer._phase = None  # the same draws each time
    return trainer.compute_loss(trainer.model, batch, **options)


def gradient(trainer, loss):
    trainer.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("kind", "dependence"), [*((Plain, word) for word in MEASURES), (DPO, "cosine")])
def test_the_loss_is_that_of_the_trainer_and_the_mean_over_layers(kind, dependence, tmp_path):
    trainer = decorrelated(kind, tmp_path, dependence=dependence, decorrelation=2.5)
    batch = a_batch(trainer)
    values = torch.stack([MEASURES[dependence](*blocks(svd)[::-1]) for svd in layers(trainer)])
    expected = 2.5 * values.clamp_min(0).mean()
    assert expected > 0
    loss = loss_of(trainer, batch)
    with_outputs, outputs = loss_of(trainer, batch, return_outputs=True)
    trainer.decorrelation_args.decorrelation = 0.0
    torch.testing.assert_close(loss - loss_of(trainer, batch), expected, atol=2e-6, rtol=0)
    assert torch.equal(with_outputs, loss)
    assert outputs is not None


@pytest.mark.parametrize("dependence", MEASURES)
def test_only_the_directions_that_are_trained_have_a_gradient_of_it(dependence, tmp_path):
    trainer = decorrelated(Plain, tmp_path, dependence=dependence)
    batch = a_batch(trainer)
    with_it = gradient(trainer, loss_of(trainer, batch))
    trainer.decorrelation_args.decorrelation = 0.0
    without = gradient(trainer, loss_of(trainer, batch))
    assert with_it.keys() == without.keys()
    moved = 0.0
    for name, slope in with_it.items():
        change = slope - without[name]
        if name.endswith(("U", "Vh")):
            change = change.T if name.endswith("U") else change
            moved += change[-RANK:].norm()
            change = change[:-RANK]
        assert (change == 0).all(), name
    assert moved > 0


def test_without_weight_or_earlier_objectives_nothing_changes_to_the_bit(tmp_path):
    plain = make(Plain, tmp_path, RAINY, model=decorrelated(Plain, tmp_path).model)
    plain.train()
    for options in ({"decorrelation": 0.0}, {"earlier": []}):
        trainer = decorrelated(Plain, tmp_path, **options)
        trainer.train()
        assert difference(adapter(trainer), adapter(plain)) == 0
        assert not any(key.startswith("dependence/") for entry in trainer.state.log_history for key in entry)


def test_evaluation_knows_nothing_of_it(tmp_path):
    trainer = decorrelated(Plain, tmp_path)
    batch = a_batch(trainer)
    trainer.model.eval()
    loss = loss_of(trainer, batch)
    trainer.decorrelation_args.decorrelation = 0.0
    assert torch.equal(loss, loss_of(trainer, batch))


@pytest.mark.parametrize("kind", [Plain, DPO, GRPO])
def test_it_counts_once_in_a_step_however_many_micro_batches_make_it(kind, tmp_path):
    """Of a trainer that sums the losses of micro-batches, one that averages them, and one that divides them itself."""
    ends = []
    for weight in (0.0, 1.0):
        trainer = decorrelated(
            kind, tmp_path, decorrelation=weight, max_steps=1, gradient_accumulation_steps=2,
            optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
        )  # fmt: skip
        slopes = gradient(trainer, trainer._dependence())
        trainer._dependences.clear()
        trainer.train()
        ends.append(adapter(trainer))
    assert "dependence/rainy_sunny" in trainer.state.log_history[0]
    assert max(slope.abs().max() for slope in slopes.values()) > 1e-3
    for name, slope in slopes.items():
        torch.testing.assert_close(ends[0][name] - ends[1][name], slope, atol=1e-6, rtol=1e-3)


def test_training_lowers_what_is_logged(tmp_path):
    """From an update that is nearly that of the other objective."""
    trainer = decorrelated(Plain, tmp_path, decorrelation=10.0, max_steps=10, learning_rate=5e-3)
    with torch.no_grad():
        for svd in layers(trainer):
            sunny, rainy = blocks(svd)
            for copy, original in zip(rainy, sunny, strict=True):
                copy.copy_(original + 0.3 * copy)
    trainer.train()
    logged = [entry["dependence/rainy_sunny"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 10
    assert logged[0] > 0.8
    assert logged[-1] < 0.5 * logged[0]


def test_autocast_does_not_round_it(tmp_path):
    trainer = decorrelated(Plain, tmp_path)
    expected = trainer._dependence()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trainer._dependence(), expected)


def test_the_rows_that_are_drawn_are_those_of_the_step(tmp_path):
    model = steered(llama(intermediate_size=200), objectives=OBJECTIVES, r=0, preference_rank=RANK)
    trainer = decorrelated(Plain, tmp_path, model=model)
    first, again = trainer._dependence(), trainer._dependence()
    trainer.state.global_step = 1
    assert first == again != trainer._dependence()


def test_layers_without_an_update_yet_are_no_nan(tmp_path):
    trainer = decorrelated(Plain, tmp_path, max_steps=2)
    with torch.no_grad():
        for svd in layers(trainer):
            svd.scale.zero_()
            svd.U[:, -RANK:].zero_()
    trainer.train()
    assert all(value.isfinite().all() for value in adapter(trainer).values())


BAD = [
    ({"decorrelation": -0.1}, "`decorrelation` must be a finite number of at least 0, but got -0.1"),
    ({"decorrelation": math.nan}, "`decorrelation` must be a finite number of at least 0, but got nan"),
    ({"dependence": "mi"}, r"`dependence` must be one of \['hsic', 'cosine', 'published'\], but got 'mi'"),
    ({"earlier": ["rainy"]}, r"`earlier` must be objectives that are not trained, of \['sunny'\], but got 'rainy'"),
    ({"earlier": ["foggy"]}, r"`earlier` must be objectives that are not trained, of \['sunny'\], but got 'foggy'"),
    (
        {"preferences": PreferenceArguments()},
        "`trained_objectives` must name what is trained if `earlier` is given, but got None",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_right_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        decorrelated(Plain, tmp_path, **options)
