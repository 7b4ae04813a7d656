"""Trainers with the two mixins that train in a second, and what the processes of the exactness tests run."""

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from conftest import llama, randomise
from peft_panacea import PanaceaConfig
from peft_panacea.training import ObjectiveLossMixin, ObjectiveRewardMixin, PreferenceArguments

STORYTELLER = str(Path(__file__).resolve().parents[1] / "examples" / "storyteller" / "model")
OBJECTIVES = ["sunny", "rainy"]
ROW, BATCH = PreferenceArguments(), PreferenceArguments(preference_per="batch")


class Plain(ObjectiveLossMixin, Trainer):
    pass


class SFT(ObjectiveLossMixin, SFTTrainer):
    pass


class DPO(ObjectiveLossMixin, DPOTrainer):
    pass


class KTO(ObjectiveLossMixin, KTOTrainer):
    pass


class GRPO(ObjectiveRewardMixin, GRPOTrainer):
    pass


class RLOO(ObjectiveRewardMixin, RLOOTrainer):
    pass


PROMPTS = [f"One day number {i} began." for i in range(16)]
ANSWERS = [" It was sunny and warm.", " It rained all day."]
OBJECTIVE = [i % 2 for i in range(16)]
IDS = torch.randint(3, 64, (16, 8), generator=torch.Generator().manual_seed(0)).tolist()

DATA = {
    Trainer: {"input_ids": IDS, "labels": IDS, "objective": OBJECTIVE},
    SFTTrainer: {"text": [p + ANSWERS[o] for p, o in zip(PROMPTS, OBJECTIVE, strict=True)], "objective": OBJECTIVE},
    DPOTrainer: {
        "prompt": PROMPTS,
        "chosen": [ANSWERS[o] for o in OBJECTIVE],
        "rejected": [ANSWERS[1 - o] for o in OBJECTIVE],
        "objective": OBJECTIVE,
    },
    KTOTrainer: {
        "prompt": PROMPTS,
        "completion": [ANSWERS[i // 2 % 2] for i in range(16)],
        "label": [(i // 2 + i) % 2 == 1 for i in range(16)],
        "objective": OBJECTIVE,
    },
    GRPOTrainer: {"prompt": PROMPTS},
    RLOOTrainer: {"prompt": PROMPTS},
}


def labelled(labels: list[list[int]]) -> dict[str, list[Any]]:
    """Pairs with a label for each objective."""
    return {
        "prompt": PROMPTS,
        "chosen": [ANSWERS[0]] * 16,
        "rejected": [ANSWERS[1] + " And night." * (i % 3) for i in range(16)],
        "objective_labels": [labels[i % len(labels)] for i in range(16)],
    }


def length(completions: list[str], **_: Any) -> list[float]:
    return [float(len(c)) for c in completions]


def few_a(completions: list[str], **_: Any) -> list[float]:
    return [-float(c.count("a")) for c in completions]


OWN = {
    Trainer: (TrainingArguments, {}),
    SFTTrainer: (SFTConfig, {"max_length": 32}),
    DPOTrainer: (DPOConfig, {"max_length": 48}),
    KTOTrainer: (KTOConfig, {"max_length": 48}),
    GRPOTrainer: (GRPOConfig, {"num_generations": 4, "max_completion_length": 8}),
    RLOOTrainer: (RLOOConfig, {"num_generations": 4, "max_completion_length": 8}),
}


def parent(trainer: type) -> type:
    """The trainer behind the mixin."""
    return next(base for base in trainer.__mro__ if base in OWN)


def make(
    trainer: type,
    folder: Path,
    preferences: PreferenceArguments = ROW,
    data: dict[str, list[Any]] | None = None,
    eval_data: dict[str, list[Any]] | None = None,
    model: nn.Module | None = None,
    reward_funcs: Any = (length, few_a),
    random_adapter: bool = True,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Any:
    """A trainer with a random adapter of two objectives, always the same."""
    arguments, own = OWN[parent(trainer)]
    common = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 3e-3,
        "report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "dataloader_drop_last": True,
        "gradient_checkpointing": False, "logging_steps": 1, "seed": 3,
        "bf16": False,  # TRL's default is mixed precision
    }  # fmt: skip
    torch.manual_seed(7)
    config = PanaceaConfig(objectives=OBJECTIVES, r=8, preference_rank=1, task_type="CAUSAL_LM")
    extra: dict[str, Any] = {}
    if parent(trainer) is not Trainer:
        extra["processing_class"] = AutoTokenizer.from_pretrained(STORYTELLER)
        if model is None:
            model, extra["peft_config"] = AutoModelForCausalLM.from_pretrained(STORYTELLER), config
    if issubclass(trainer, (GRPOTrainer, RLOOTrainer)):
        extra["reward_funcs"] = list(reward_funcs)
    made = trainer(
        model=get_peft_model(llama(), config) if model is None else model,
        args=arguments(**{**common, **own, **options}),
        train_dataset=Dataset.from_dict(data or DATA[parent(trainer)]),
        eval_dataset=Dataset.from_dict(eval_data) if eval_data else None,
        preference_args=preferences,
        **extra,
    )
    if random_adapter:
        randomise(made.model)
    if dtype is not None:
        made.model.to(dtype)
    return made


def trained(*args: Any, **kwargs: Any) -> Any:
    trainer = make(*args, **kwargs)
    trainer.train()
    return trainer


def adapter(trainer: Any) -> dict[str, Tensor]:
    """A copy of the adapter's parameters, by name."""
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if ".panacea_svd." in n}


def difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest between two adapters."""
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


# What other processes run

PROCESSES = 2
KINDS = {"plain": Plain, "SFT": SFT, "DPO": DPO, "GRPO": GRPO}


def killed(kind: str, folder: Path, at: int, options: dict[str, Any]) -> None:
    """Train until the loss of step `at`, and be killed there."""
    torch.set_num_threads(1)

    class Killed(KINDS[kind]):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().compute_loss(*args, **kwargs)

    trained(Killed, folder, **options)


def join_group(rank: int, rendezvous: str) -> None:
    """Join the other process, as one of those that `accelerate launch` starts."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="0")  # must be there; the file is where they meet
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=30)
    )


def train_together(rank: int, kind: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train as one process of the group; the adapter as arrays."""
    trainer = trained(KINDS[kind], folder / str(rank), **options)
    assert trainer.args.world_size == PROCESSES
    return {name: parameter.numpy() for name, parameter in adapter(trainer).items()}


def generate_together(rank: int, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train GRPO as one process of the group; the adapter, and the prompts and preferences of all rollouts."""
    rollouts = []

    class Recording(GRPO):
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            output = super()._generate_and_score_completions(inputs)
            prompts = [row["prompt"] for row in inputs]
            rollouts.append((prompts, output["preference"].tolist(), output["advantages"].tolist()))
            return output

    trainer = trained(Recording, folder / str(rank), **options)
    arrays = {name: parameter.numpy() for name, parameter in adapter(trainer).items()}
    return {"adapter": arrays, "rollouts": rollouts}


def steer_together(rank: int, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train GRPO as one process of the group; its own preferences, lengths, and the last log."""
    seen = []

    class Recording(GRPO):
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            output = super()._generate_and_score_completions(inputs)
            texts = self.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
            seen.append((output["preference"].tolist(), length(texts)))
            return output

    trainer = trained(Recording, folder / str(rank), **options)
    return {"seen": seen, "log": [entry for entry in trainer.state.log_history if "loss" in entry][-1]}


def normalise_twice(rank: int, folder: Path) -> list[Any]:
    """Measure the rewards' constants as one process of the group, and read them; each has a folder of its own."""

    class Unmeasured(GRPO):
        def measure(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("measured again")

    found = []
    for kind in (GRPO, Unmeasured):
        trainer = make(kind, folder / str(rank))
        trainer.normalise_rewards(trainer.train_dataset.select(range(4)))
        found.append([constant.tolist() for constant in trainer.reward_normalisation])
    return found
