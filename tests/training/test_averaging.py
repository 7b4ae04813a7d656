"""The mean of the last iterates: against one by hand, after an interruption, and what checkpoints hold."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

from peft_panacea.training import IterateAverage
from small_trainers import DATA, SFT, Plain, adapter, difference, make

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours


class Iterates(TrainerCallback):
    """Remembers the adapter after each step, in float64."""

    def __init__(self):
        self.after = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.after.append({n: p.detach().double() for n, p in model.named_parameters() if p.requires_grad})


def averaged(kind, folder, average, **options):
    trainer = make(kind, folder, learning_rate=1e-2, **options)
    iterates = Iterates()
    trainer.add_callback(iterates)
    if average is not None:
        trainer.add_callback(average)
    return trainer, iterates.after


def mean(iterates):
    return {name: torch.stack([at[name] for at in iterates]).mean(dim=0) for name in iterates[0]}


@pytest.mark.parametrize("kind", [Plain, SFT])
@pytest.mark.parametrize(
    ("share", "steps", "last"), [(0.5, 6, 3), (0.5, 5, 3), (1.0, 4, 4), (0.25, 8, 2), (0.1, 5, 1), (0.9, 10, 9)]
)
def test_it_is_the_mean_of_the_last_iterates(kind, share, steps, last, tmp_path):
    trainer, iterates = averaged(kind, tmp_path, IterateAverage(share), max_steps=steps)
    trainer.train()
    assert len(iterates) == steps
    expected = {name: value.float() for name, value in mean(iterates[-last:]).items()}
    assert difference(adapter(trainer), expected) <= 1e-6
    plain, _ = averaged(kind, tmp_path, None, max_steps=steps)
    plain.train()
    different = difference(adapter(trainer), adapter(plain))
    assert different == 0 if last == 1 else different > 1e-4


def test_a_run_that_goes_on_ends_with_the_same_mean_to_the_bit(tmp_path):
    """Interrupted among the iterates that count, and before."""
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2}
    whole, iterates = averaged(SFT, tmp_path, IterateAverage(), **options)
    whole.train()
    assert difference(adapter(whole), {n: v.float() for n, v in mean(iterates[4:]).items()}) <= 1e-6
    for step in (2, 4, 6, 8):
        resumed, _ = averaged(SFT, tmp_path, IterateAverage(), **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert difference(adapter(resumed), adapter(whole)) == 0
        assert resumed.state.global_step == 8


def test_a_checkpoint_holds_the_iterate_and_the_sum_beside_it(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    trainer, iterates = averaged(SFT, tmp_path, IterateAverage(), **options)
    trainer.train()
    for step in (1, 2, 3, 4):
        folder = tmp_path / f"checkpoint-{step}"
        stored = load_file(folder / "adapter_model.safetensors")
        by_name = {name.replace(".default", ""): value for name, value in iterates[step - 1].items()}
        assert all(torch.equal(value.double(), by_name[name]) for name, value in stored.items())
        assert (folder / "average.pt").exists() == (step > 2)
    assert torch.load(tmp_path / "checkpoint-4" / "average.pt")["steps"] == 2


def test_parameters_of_bfloat16_are_summed_in_float32(tmp_path):
    """A sum in bfloat16 would stop growing at 256 times a summand."""
    layer = torch.nn.Linear(2, 2).bfloat16()
    layer.bias.requires_grad_(False)
    bias = layer.bias.clone()
    average = IterateAverage(1.0)
    trainer, _ = averaged(Plain, tmp_path, None, max_steps=1)
    average.on_train_begin(trainer.args, trainer.state, trainer.control)
    trainer.state.max_steps = 1000
    for step in range(1, 1001):
        trainer.state.global_step = step
        with torch.no_grad():
            layer.weight.fill_(1.0 if step % 2 else 3.0)
        average.on_step_end(trainer.args, trainer.state, trainer.control, model=layer)
    assert {value.dtype for value in average.sums.values()} == {torch.float32}
    average.on_train_end(trainer.args, trainer.state, trainer.control, model=layer)
    assert layer.weight.dtype == torch.bfloat16
    assert layer.weight.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert torch.equal(layer.bias, bias)


def test_without_steps_nothing_happens(tmp_path):
    trainer, _ = averaged(Plain, tmp_path, None)
    before = adapter(trainer)
    average = IterateAverage()
    average.on_train_begin(trainer.args, trainer.state, trainer.control)
    average.on_save(trainer.args, trainer.state, trainer.control)
    average.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
    assert difference(adapter(trainer), before) == 0
    assert not list(tmp_path.iterdir())


def test_a_second_training_forgets_the_first(tmp_path):
    trainer, iterates = averaged(Plain, tmp_path, IterateAverage(), max_steps=2)
    trainer.train()
    trainer.train()
    assert difference(adapter(trainer), {n: v.float() for n, v in iterates[3].items()}) == 0


def test_the_best_model_is_not_replaced_by_the_mean(tmp_path):
    data = {"eval_data": DATA[Trainer], "metric_for_best_model": "eval_sunny_loss"}
    every = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer, _ = averaged(Plain, tmp_path, IterateAverage(), load_best_model_at_end=True, **data, **every)
    with pytest.raises(ValueError, match="`load_best_model_at_end` must be False with `IterateAverage`"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_outside_of_its_range_is_refused(share):
    with pytest.raises(ValueError, match=f"`share` must be above 0 and at most 1, but got {share}"):
        IterateAverage(share)
