"""SmolLM2-135M-Instruct, a real chat model, and prompts that people wrote."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from experiment import Experiment
from public_data import CHAT_MODEL, CHAT_PROMPTS

MODEL = Path("runs/smollm2").absolute()
# Short questions of free licences that an answer of some forty tokens can do justice to.
SOURCES = ("alpaca_en_demo", "koala", "oasst", "self_instruct_user", "truthfulqa", "vicuna_bench")
LONGEST = 120  # characters


class Chat(Experiment):
    """The prompts are conversations of one message, in a fixed order; the splits are those of the file.

    The model is unpacked once into `runs/smollm2`. Its weights are bfloat16.

    Args:
        shared: Folder with `models/` and `data/`.
    """

    history: Any = None  # of rewards, where there are some
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision: ClassVar = {"bf16": True, "use_cpu": device == "cpu"}

    def __init__(self, shared: Path) -> None:
        if not (MODEL / "config.json").exists():
            subprocess.run([sys.executable, shared / CHAT_MODEL / "unpack.py", MODEL], check=True)
        self.shared = shared
        split: dict[str, list[Any]] = {"test": [], "dev": [], "train": []}
        for row in read(shared / CHAT_PROMPTS):
            if row["source"] in SOURCES and len(row["prompt"]) <= LONGEST and "CC-BY-NC" not in row["licence"]:
                split[row["split"]].append([{"role": "user", "content": row["prompt"]}])
        for prompts in split.values():
            random.Random(0).shuffle(prompts)
        super().__init__(MODEL, split["test"], split["dev"], split["train"])

    def base_model(self) -> PreTrainedModel:
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.bfloat16).to(self.device)
        # TRL asks for the last positions, a slice, for which a CPU would copy the output layer once for every row.
        model.lm_head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
        return model


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a gzipped file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
