"""What each process of `test_processes.py` runs."""

import os
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method

import distributed_worker
from conftest import llama, steered
from peft_panacea.front import Front, evaluate_front
from small_tokenizers import word_tokenizer

PROMPTS = ["w3 w4 w5", "w6", "w7 w8 w9 w10 w11", "w12 w13", "w14 w15 w16 w17"]
GRID = [[0.0, 1.0], [0.3, 0.7], [1.0, 0.0]]
SIZES = {"samples": 2, "batch_size": 7, "seed": 3}
BATCHES = 5 + 2  # of 30 completions under preferences, and of 10 of the base model


class Words:
    """How many words were said, until it is called once too often; then what `stop` does."""

    def __init__(self, calls: int = 1000, stop: Any = None) -> None:
        self.calls, self.stop, self.__name__ = calls, stop, "words"

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        self.calls -= 1
        if self.calls < 0:
            self.stop()
        return [float(len(text.split())) for text in completions]


def last(completions: list[str], **_: Any) -> list[float]:
    """The number of the last word."""
    return [float(text.split()[-1].removeprefix("w")) if text.split() else 0.0 for text in completions]


def tiny() -> PeftModel:
    """The same model in every process."""
    torch.manual_seed(0)
    return steered(llama(), task_type="CAUSAL_LM")


def measure(record: Path, words: Words | None = None, model: PeftModel | None = None, **changed: Any) -> Front:
    options = {"tokenizer": word_tokenizer(), "max_new_tokens": 5, "suppress_tokens": [0, 1], **SIZES, **changed}
    return evaluate_front(model or tiny(), PROMPTS, {"a": words or Words(), "b": last}, GRID, record=record, **options)


def measure_and_write(rank: int, record: Path, folder: Path) -> None:
    measure(record).to_json(folder / f"front of {rank}.json")


def fail(rank: int, record: Path, changed: dict[str, Any], calls: tuple[int, int]) -> str:
    """The error of this process; `calls` says after how many batches the reward of each process breaks."""

    def broken() -> None:
        raise ArithmeticError("The reward is broken.")

    try:
        measure(record, Words(calls[rank], broken), **changed)
    except (ValueError, ArithmeticError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def forwards(rank: int) -> int:
    """How often the output layer of this process runs, once for each forward of the model."""
    model, counted = tiny(), []
    output: nn.Module = model.get_base_model().lm_head
    output.register_forward_hook(lambda *_: counted.append(1))
    options = {"tokenizer": word_tokenizer(), "min_new_tokens": 3, "max_new_tokens": 3, **SIZES}
    evaluate_front(model, PROMPTS, {"a": Words(), "b": last}, GRID, **options)
    return len(counted)


def die(rank: int, rendezvous: str, record: Path, calls: int) -> None:
    """End without a word after so many batches of this process, as all processes of a job that is killed."""
    distributed_worker.join_group(rank, rendezvous)
    measure(record, Words(calls, lambda: os._exit(7)))


def measure_sharded(rank: int, record: Path, folder: Path) -> None:
    """Each process has half of every matrix; tokens are sampled until both processes have no more to sample."""
    model = distributed_worker.fsdp2(tiny())
    register_fsdp_forward_method(model, "generate")
    measure(record, model=model, synced_gpus=True).to_json(folder / f"sharded front of {rank}.json")
