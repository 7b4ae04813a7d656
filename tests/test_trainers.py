"""One changed line: the trainers that PEFT users have take a `PanaceaConfig` for a `LoraConfig`."""

import random
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from conftest import llama
from peft_panacea import PanaceaConfig

STORYTELLER = str(Path(__file__).resolve().parent.parent / "examples" / "storyteller" / "model")

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours


def adapter(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if ".panacea_svd." in name}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


PROMPTS = [f"One day number {i} began." for i in range(16)]
ANSWERS = [" It was sunny and warm.", " It rained all day."]

TRAINERS = {
    "SFT": (SFTTrainer, SFTConfig, {"max_length": 32}, {"text": [p + ANSWERS[0] for p in PROMPTS]}),
    "DPO": (
        DPOTrainer,
        DPOConfig,
        {"max_length": 48},
        {"prompt": PROMPTS, "chosen": [ANSWERS[0]] * 16, "rejected": [ANSWERS[1]] * 16},
    ),
    "GRPO": (GRPOTrainer, GRPOConfig, {"num_generations": 4, "max_completion_length": 8}, {"prompt": PROMPTS}),
    "RLOO": (RLOOTrainer, RLOOConfig, {"num_generations": 4, "max_completion_length": 8}, {"prompt": PROMPTS}),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_trl_trains_and_saves_unmodified(name, tmp_path):
    trainer_class, config_class, options, data = TRAINERS[name]
    arguments = config_class(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, learning_rate=3e-3, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True, **options,
    )  # fmt: skip
    random_reward = {"reward_funcs": lambda completions, **_: [random.random() for _ in completions]}
    trainer = trainer_class(
        model=STORYTELLER,
        args=arguments,
        train_dataset=Dataset.from_dict(data),
        processing_class=AutoTokenizer.from_pretrained(STORYTELLER),
        peft_config=PanaceaConfig(objectives=["a", "b"], task_type="CAUSAL_LM"),
        **(random_reward if "prompt" in data and "chosen" not in data else {}),
    )
    before = adapter(trainer.model)
    trainer.train()
    after = adapter(trainer.model)
    assert all(not torch.equal(before[n], after[n]) for n in after if n.endswith(("sigma", "scale")))
    trainer.save_model(str(tmp_path / "saved"))
    base = AutoModelForCausalLM.from_pretrained(STORYTELLER)
    assert same(adapter(PeftModel.from_pretrained(base, tmp_path / "saved")), after)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.mechanics
def test_trl_on_a_quantised_model_leaves_the_diagonal_in_float32(bits, tmp_path):
    """TRL casts the adapter to bfloat16, in which the diagonal would stop learning."""
    pytest.importorskip("bitsandbytes", reason="installed by `make conformance`")
    quantised = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(STORYTELLER, quantization_config=quantised, device_map="cpu"),
        args=SFTConfig(
            output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, learning_rate=3e-3, report_to=[],
            use_cpu=True, save_strategy="no", disable_tqdm=True, max_length=32,
        ),
        train_dataset=Dataset.from_dict({"text": [p + ANSWERS[0] for p in PROMPTS]}),
        processing_class=AutoTokenizer.from_pretrained(STORYTELLER),
        peft_config=PanaceaConfig(objectives=["a", "b"], task_type="CAUSAL_LM"),
    )  # fmt: skip
    assert {p.dtype for p in adapter(trainer.model).values()} == {torch.bfloat16}, "TRL does not cast any more"
    trainer.train()
    after = adapter(trainer.model)
    for name, parameter in after.items():
        diagonal = name.endswith(("sigma", "scale"))
        assert parameter.dtype == (torch.float32 if diagonal else torch.bfloat16), name
        assert not diagonal or not torch.equal(parameter, parameter.bfloat16().float()), "no digit beyond bfloat16"


class PreferenceTrainer(Trainer):
    """Each row under its own preference; `stop_before` interrupts the run before that step."""

    stop_before = -1

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.training and self.state.global_step == self.stop_before:
            raise RuntimeError("interrupted")
        first = torch.linspace(0, 1, len(inputs["input_ids"]))
        output = model(**inputs, preference=torch.stack([first, 1 - first], dim=1))
        return (output.loss, output) if return_outputs else output.loss


def trainer_in(folder: Path, **options: object) -> PreferenceTrainer:
    torch.manual_seed(7)
    model = get_peft_model(llama(), PanaceaConfig(objectives=["a", "b"]))
    ids = torch.randint(3, 64, (32, 8), generator=torch.Generator().manual_seed(0)).tolist()
    data = Dataset.from_dict({"input_ids": ids, "labels": ids})
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=6, per_device_train_batch_size=4, learning_rate=3e-2, report_to=[], seed=3,
        use_cpu=True, save_steps=2, disable_tqdm=True, **options,
    )  # fmt: skip
    return PreferenceTrainer(model, arguments, train_dataset=data, eval_dataset=data)


@pytest.mark.mechanics
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = trainer_in(tmp_path / "whole", gradient_checkpointing=True)
    whole.train()
    interrupted = trainer_in(tmp_path / "parts", gradient_checkpointing=True)
    interrupted.stop_before = 5
    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted.train()
    resumed = trainer_in(tmp_path / "parts", gradient_checkpointing=True)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 6
    ends = adapter(resumed.model), adapter(whole.model)
    print("resumed, largest difference:", max((ends[0][n] - ends[1][n]).abs().max().item() for n in ends[0]))
    assert same(*ends)
    assert not same(adapter(interrupted.model), adapter(whole.model))


def test_the_best_model_is_loaded_at_the_end(tmp_path):
    trainer = trainer_in(tmp_path, load_best_model_at_end=True, eval_strategy="steps", eval_steps=2)
    trainer.train()
    best = PeftModel.from_pretrained(llama(), trainer.state.best_model_checkpoint)
    assert same(adapter(trainer.model), adapter(best))
    assert all(p.requires_grad for n, p in trainer.model.named_parameters() if ".panacea_svd." in n)
