"""The log-perplexity of completions under the base model: against one by hand, and that training does not notice."""

import math
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from conftest import randomise
from peft_panacea import PanaceaConfig
from peft_panacea.training import rewards
from peft_panacea.training.base_likelihood import PROBED, base_log_perplexity
from small_trainers import BATCH, GRPO, OBJECTIVES, RLOO, ROW, STORYTELLER, adapter, difference, make, trained

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours


def generate(trainer) -> dict[str, Tensor]:
    trainer.model.train()
    return trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))


def by_hand(trainer, output: dict[str, Tensor], rows: slice) -> float:
    """Mean over the tokens of these completions, of the model without its adapter."""
    prompts, completions = output["prompt_ids"][rows], output["completion_ids"][rows]
    mask = output["completion_mask"][rows].bool()
    ids = torch.cat([prompts, completions], dim=1)
    attention = torch.cat([output["prompt_mask"][rows], output["completion_mask"][rows]], dim=1)
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad(), trainer.model.disable_adapter():
        logits = trainer.model(input_ids=ids, attention_mask=attention, position_ids=positions).logits
    logits = logits[:, prompts.shape[1] - 1 : -1] / trainer.args.temperature
    likelihood = logits.log_softmax(dim=-1).gather(2, completions[..., None])[..., 0]
    return -likelihood[mask].mean().item()


@pytest.mark.parametrize("preferences", [ROW, BATCH], ids=["row", "batch"])
@pytest.mark.parametrize(("beta", "size"), [(0.0, 16), (0.0, 3), (0.1, 16), (0.1, 3)])
@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_it_is_that_of_the_model_without_its_adapter(kind, beta, size, preferences, tmp_path):
    """Of all completions where there is a KL term, else of every second of sixteen; in chunks or not."""
    steps = {16: 1, 3: 4}[size]  # a chunk of three does not divide what is asked for
    options = {"per_device_train_batch_size": size, "steps_per_generation": steps, "num_generations": 4}
    trainer = make(kind, tmp_path, preferences, beta=beta, temperature=0.8, **options)
    output = generate(trainer)
    logged = trainer._metrics["train"]["base_log_perplexity"]
    stride = 1 if beta else -(-len(output["completion_ids"]) // PROBED)
    assert stride == (1 if beta else 2)
    assert logged == [pytest.approx(by_hand(trainer, output, slice(None, None, stride)), abs=1e-4)]
    torch.testing.assert_close(
        trainer.model.get_preference().expand(len(output["preference"]), 2), output["preference"]
    )


@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_an_adapter_that_is_trained_further_is_compared_with_the_base_model(kind, tmp_path):
    """TRL's own reference then is a copy of the adapter."""
    config = PanaceaConfig(objectives=OBJECTIVES, task_type="CAUSAL_LM")
    model = randomise(get_peft_model(AutoModelForCausalLM.from_pretrained(STORYTELLER), config))
    options = {"per_device_train_batch_size": 16, "beta": 0.1, "temperature": 0.8}
    trainer = make(kind, tmp_path, model=model, random_adapter=False, **options)
    assert "ref" in trainer.model.peft_config
    output = generate(trainer)
    expected = pytest.approx(by_hand(trainer, output, slice(None, None, 2)), abs=1e-4)
    assert trainer._metrics["train"]["base_log_perplexity"] == [expected]


def test_training_does_not_notice(tmp_path, monkeypatch):
    options = {"max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "beta": 0.0}
    asked = adapter(trained(GRPO, tmp_path, **options))
    monkeypatch.setattr(rewards, "base_log_perplexity", lambda *_: 0.0)
    assert difference(adapter(trained(GRPO, tmp_path, **options)), asked) == 0


def test_evaluation_is_not_asked_for(tmp_path):
    trainer = make(GRPO, tmp_path, eval_data={"prompt": ["One day"] * 4}, per_device_eval_batch_size=8)
    trainer.evaluate()
    assert not any("base_log_perplexity" in key for entry in trainer.state.log_history for key in entry)


@pytest.mark.parametrize(
    "model", [torch.nn.Linear(1, 1), SimpleNamespace(disable_adapter=None)], ids=["plain", "peft"]
)
def test_what_cannot_be_asked_is_not_a_number(model):
    images = {} if isinstance(model, torch.nn.Module) else {"pixel_values": torch.zeros(1)}
    trainer = SimpleNamespace(beta=0.0, model=model, accelerator=SimpleNamespace(unwrap_model=lambda found: found))
    output = {"completion_mask": torch.ones(2, 3), **images}
    assert math.isnan(base_log_perplexity(trainer, output, torch.zeros(2, 3)))
