"""The common ground of all experiments: the tiny language model, its prompts, how one adapter is made."""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from peft_panacea import PanaceaConfig

QUIET = {
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}


@dataclass(frozen=True)
class Settings:
    """What an ablation may change of Panacea; separate models keep the defaults."""

    way: str = "row"
    vertex_probability: float | None = None
    aggregation: str = "linear"
    ideal_point: tuple[float, ...] | None = None
    r: int = 8
    preference_rank: int = 1
    scaling: float | str = 1.0
    learning_rate: float | None = None
    scale_per_objective: bool = False
    bilinear: bool = False
    monotone: bool = False


class Stories:
    """stories260K and TinyStories; the prompts are first sentences, their order is fixed.

    Args:
        shared: Folder with `models/` and `data/`.
    """

    TEST, DEVELOPMENT = 128, 64

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        self.model_path = str(shared / "models/stories260K")
        self.tokenizer = AutoTokenizer.from_pretrained(self.model_path)
        texts = json.loads((shared / "data/tinystories/stories.json").read_text(encoding="utf-8"))
        stories = {}
        for text in texts:
            first, _, rest = re.sub(r"\s+", " ", text.strip()).partition(". ")
            if rest and len(first) < 160:
                stories.setdefault(first + ".", " " + rest)
        prompts = list(stories)
        random.Random(0).shuffle(prompts)
        self.stories = stories
        self.test = prompts[: self.TEST]
        self.development = prompts[self.TEST :][: self.DEVELOPMENT]
        self.train = prompts[self.TEST + self.DEVELOPMENT :]

    def base_model(self) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(self.model_path)

    def config(self, objectives: list[str], fixed: list[float] | None, settings: Settings) -> PanaceaConfig:
        """Panacea's, or that of a separate model: the same adapter under one preference, of no smaller rank."""
        m = len(objectives)
        own = {"r": settings.r, "preference_rank": settings.preference_rank, "scaling": settings.scaling}
        separate = {"r": 8 + m - 1, "default_preference": fixed}
        return PanaceaConfig(objectives=objectives, task_type="CAUSAL_LM", **(own if fixed is None else separate))
